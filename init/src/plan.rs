//! What is mounted and set, as tables.

use rustix::mount::MountFlags;
use std::ffi::CStr;

/// One line of a mount table.
#[derive(Debug, Clone, Copy)]
pub struct Mount {
    /// File system type, also used as source.
    pub kind: &'static str,
    /// Where.
    pub at: &'static str,
    /// Flags.
    pub flags: MountFlags,
    /// Options.
    pub options: &'static CStr,
    /// Mode of the mount point when it must be made.
    pub must: bool,
}

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

/// Stage 1; they move along to the sealed root.
pub const EARLY: [Mount; 5] = [
    Mount { kind: "devtmpfs", at: "/dev", flags: DEVICES, options: c"mode=0755", must: true },
    Mount { kind: "proc", at: "/proc", flags: PLAIN, options: c"", must: true },
    Mount { kind: "sysfs", at: "/sys", flags: PLAIN, options: c"", must: true },
    Mount {
        kind: "tmpfs",
        at: "/run",
        flags: PLAIN,
        options: c"mode=0755,size=32m,nr_inodes=8k",
        must: true,
    },
    Mount { kind: "securityfs", at: "/sys/kernel/security", flags: PLAIN, options: c"", must: false },
];

/// Mounts of [`EARLY`] that are moved by themselves; the others lie below these.
pub const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// Stage 2.
pub const LATE: [Mount; 5] = [
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        flags: DEVICES,
        options: c"mode=0620,ptmxmode=0666",
        must: false,
    },
    Mount { kind: "tmpfs", at: "/dev/shm", flags: PLAIN, options: c"mode=1777,size=16m", must: false },
    Mount {
        kind: "tmpfs",
        at: "/tmp",
        flags: PLAIN,
        options: c"mode=1777,size=32m,nr_inodes=8k",
        must: true,
    },
    Mount { kind: "cgroup2", at: "/sys/fs/cgroup", flags: PLAIN, options: c"nsdelegate", must: true },
    Mount { kind: "tmpfs", at: "/run/workload", flags: PLAIN, options: c"mode=0755", must: true },
];

/// Set in stage 1, before anything is loaded: the kernel must not look for a program to load modules with, as there is
/// none. (That no record is dropped, the command line says: `printk.devkmsg=on`.)
pub const EARLY_SYSCTLS: [(&str, &str); 2] = [("kernel/modprobe", "\n"), ("kernel/hung_task_panic", "1")];

/// Set in stage 2. Those that a kernel does not have are passed over.
pub const SYSCTLS: [(&str, &str); 30] = [
    ("kernel/panic", "-1"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/sysrq", "0"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/io_uring_disabled", "2"),
    ("kernel/yama/ptrace_scope", "2"),
    ("kernel/core_pattern", "\n"),
    ("kernel/unprivileged_userns_clone", "0"),
    ("user/max_user_namespaces", "0"),
    ("dev/tty/ldisc_autoload", "0"),
    ("vm/unprivileged_userfaultfd", "0"),
    ("fs/suid_dumpable", "0"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("net/core/bpf_jit_harden", "2"),
    ("net/ipv4/tcp_syncookies", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_mounted_lets_a_setuid_file_or_foreign_device_in() {
        for mount in EARLY.iter().chain(&LATE) {
            assert!(mount.flags.contains(DEVICES), "{}", mount.at);
            let devices = ["/dev", "/dev/pts"].contains(&mount.at);
            assert_eq!(mount.flags.contains(MountFlags::NODEV), !devices, "{}", mount.at);
        }
    }

    #[test]
    fn mounts_come_after_what_they_lie_in_and_only_once() {
        let places: Vec<_> = EARLY.iter().chain(&LATE).map(|mount| mount.at).collect();
        for (index, place) in places.iter().enumerate() {
            assert!(
                !places[index + 1..].iter().any(|later| place.starts_with(&format!("{later}/"))),
                "{place}"
            );
            assert!(!places[index + 1..].contains(place), "{place}");
        }
        for early in EARLY {
            assert!(MOVED.iter().any(|moved| early.at.starts_with(moved)), "{} would stay behind", early.at);
        }
    }
}
