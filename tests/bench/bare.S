# The smallest init that can be measured: one line to the kernel's log, then power off. No libc, nothing else in the
# initrd. x86-64 system call numbers and the reboot(2) magics are the kernel's ABI.
	.globl	_start
_start:
	mov	$2, %eax		# open("/dev/kmsg", O_WRONLY)
	lea	path(%rip), %rdi
	mov	$1, %esi
	xor	%edx, %edx
	syscall
	mov	%eax, %edi		# write(fd, text, length)
	mov	$1, %eax
	lea	text(%rip), %rsi
	mov	$length, %edx
	syscall
	mov	$169, %eax		# reboot(MAGIC1, MAGIC2, LINUX_REBOOT_CMD_POWER_OFF)
	mov	$0xfee1dead, %edi
	mov	$672274793, %esi
	mov	$0x4321fedc, %edx
	xor	%r10d, %r10d
	syscall
	mov	$60, %eax		# exit(1): the kernel panics, and panic=-1 ends the machine
	mov	$1, %edi
	syscall

	.section .rodata
path:	.asciz	"/dev/kmsg"
text:	.ascii	"<5>pillar-bench: bare init runs\n"
	.set	length, . - text
	.section .note.GNU-stack, "", @progbits
