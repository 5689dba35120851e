//! What a machine is made of, and the QEMU command line that says so: pure, so that it can be read and tested.
//! Sockets and files of the run folder are named relative to it, which is QEMU's working directory.

use crate::accel::Accel;
use crate::bus::BUS_SOCKET;
use crate::hardware::Hardware;
use crate::swtpm::CONTROL_SOCKET;
use pillar_layout::FW_CFG_NODE;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// QEMU writes the serial console here.
pub(crate) const SERIAL_LOG: &str = "serial.log";
/// For the process that started the machine.
pub(crate) const QMP_SOCKET: &str = "qmp.sock";
/// For commands that come later.
pub(crate) const CONTROL_QMP_SOCKET: &str = "control.sock";
/// Node settings, handed to the guest through fw_cfg.
pub(crate) const NODE_FILE: &str = "node.json";
/// The machine's own firmware variables.
pub(crate) const VARS_FILE: &str = "vars.fd";
/// Leads to the machine's socket of the lab's switch; a link, because that may be far away and a socket's path must be
/// short.
pub(crate) const LAB_SOCKET: &str = "lab.sock";
/// How often QEMU tries to reach a switch that is away, in milliseconds. The machine runs meanwhile.
const LAB_RECONNECT_MS: u32 = 250;
/// The TPM's folder.
pub(crate) const TPM_DIR: &str = "swtpm";

/// A disk as QEMU sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedDisk {
    pub(crate) path: PathBuf,
    /// Writes go to a temporary file and are forgotten at the end.
    pub(crate) snapshot: bool,
}

/// A kernel that QEMU starts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectKernel {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) command_line: String,
}

/// One machine, decided in every detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) accel: Accel,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) hardware: Hardware,
    /// UEFI code; none is a BIOS.
    pub(crate) code: Option<PathBuf>,
    /// The code guards its variables by SMM.
    pub(crate) secure: bool,
    pub(crate) disk: Option<PlannedDisk>,
    /// The file system that the firmware starts from when it cannot read the disk.
    pub(crate) boot: Option<PathBuf>,
    pub(crate) kernel: Option<DirectKernel>,
    pub(crate) tpm: bool,
    /// Somebody sits on the TPM's bus.
    pub(crate) tpm_bus: bool,
    pub(crate) node: bool,
    pub(crate) watchdog: bool,
    /// A reboot of the guest ends QEMU.
    pub(crate) stop_at_reboot: bool,
    /// Port of 127.0.0.1, port of the guest.
    pub(crate) forwards: Vec<(u16, u16)>,
    /// The address of the card in the lab's network.
    pub(crate) lab: Option<String>,
    /// Appended as they are.
    pub(crate) extra: Vec<OsString>,
}

impl Plan {
    /// QEMU's arguments. Devices have fixed places on the PCI bus: what the firmware measures must not move when
    /// another device comes or goes.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut line = Line::default();
        line.word("-no-user-config").word("-nodefaults");
        line.pair("-name", format!("guest={},process=pillar-{}", self.name, self.name));
        line.pair("-machine", if self.secure { "q35,smm=on,vmport=off" } else { "q35,vmport=off" });
        line.pair("-accel", self.accel.argument()).pair("-cpu", self.accel.cpu());
        line.pair("-m", self.memory_mib.to_string()).pair("-smp", self.cpus.to_string());
        line.pair("-display", "none").pair("-boot", "strict=on").pair("-rtc", "base=utc");
        // No suspend to RAM: the firmware need not prepare for it.
        line.pair("-global", "ICH9-LPC.disable_s3=1");
        line.pair("-action", if self.stop_at_reboot { "reboot=shutdown" } else { "reboot=reset" });
        self.firmware(&mut line);
        line.pair("-chardev", format!("file,id=serial,path={SERIAL_LOG},append=on"))
            .pair("-serial", "chardev:serial");
        for (id, socket) in [("qmp", QMP_SOCKET), ("control", CONTROL_QMP_SOCKET)] {
            line.pair("-chardev", format!("socket,id={id},path={socket},server=on,wait=off"));
            line.pair("-mon", format!("chardev={id},mode=control"));
        }
        self.devices(&mut line);
        if let Some(direct) = &self.kernel {
            line.pair("-kernel", &direct.kernel).pair("-append", &direct.command_line);
            if let Some(initrd) = &direct.initrd {
                line.pair("-initrd", initrd);
            }
        }
        line.arguments.extend(self.extra.iter().cloned());
        line.arguments
    }

    fn firmware(&self, line: &mut Line) {
        let Some(code) = &self.code else { return };
        if self.secure {
            line.pair("-global", "driver=cfi.pflash01,property=secure,value=on");
        }
        let mut drive = OsString::from("if=pflash,unit=0,format=raw,readonly=on,file=");
        drive.push(escaped(code));
        line.pair("-drive", drive);
        line.pair("-drive", format!("if=pflash,unit=1,format=raw,file={VARS_FILE}"));
        // No boot from the network. Nothing to be gained (strict boot order keeps the firmware from starting its network
        // stack anyway), but nothing may come from there either.
        for what in ["IPv4Support", "IPv6Support", "IPv4PXESupport", "IPv6PXESupport"] {
            line.pair("-fw_cfg", format!("name=opt/org.tianocore/{what},string=no"));
        }
    }

    fn devices(&self, line: &mut Line) {
        if let Some(disk) = &self.disk {
            let snapshot = if disk.snapshot { "on" } else { "off" };
            // The host's page cache is durable enough: QEMU may be killed, the host may not lose power.
            let mut drive =
                OsString::from(format!("if=none,id=disk,format=raw,cache=unsafe,snapshot={snapshot},file="));
            drive.push(escaped(&disk.path));
            line.pair("-drive", drive);
            // A kernel that QEMU starts itself has index 0.
            let boot_index = u8::from(self.kernel.is_some());
            for device in self.hardware.disk_devices("disk", "0x2", boot_index) {
                line.pair("-device", device);
            }
        }
        if let Some(boot) = &self.boot {
            let mut drive = OsString::from("if=none,id=boot,format=raw,cache=unsafe,file=");
            drive.push(escaped(boot));
            line.pair("-drive", drive);
            line.pair("-device", "virtio-blk-pci,drive=boot,bootindex=0,addr=0x7");
        }
        // The guest reaches nothing through its network; the host reaches the forwarded ports.
        let mut network = "user,id=net,restrict=on,ipv6=off".to_owned();
        for (host, guest) in &self.forwards {
            network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        }
        line.pair("-netdev", network);
        let nic = self.hardware.nic_device();
        line.pair("-device", format!("{nic},netdev=net,mac=52:54:00:70:69:01,romfile=,addr=0x3"));
        if let Some(mac) = &self.lab {
            line.pair(
                "-netdev",
                format!(
                    "stream,id=lab,server=off,addr.type=unix,addr.path={LAB_SOCKET},reconnect-ms={LAB_RECONNECT_MS}"
                ),
            );
            line.pair("-device", format!("{nic},netdev=lab,mac={mac},romfile=,addr=0x8"));
        }
        line.pair("-object", "rng-random,id=random,filename=/dev/urandom");
        line.pair("-device", "virtio-rng-pci,rng=random,addr=0x4");
        if self.watchdog {
            line.pair("-device", "i6300esb,addr=0x5").pair("-action", "watchdog=reset");
        }
        if self.tpm {
            let socket = if self.tpm_bus { BUS_SOCKET } else { CONTROL_SOCKET };
            line.pair("-chardev", format!("socket,id=tpm,path={TPM_DIR}/{socket}"));
            let tpm = self.hardware.tpm_device();
            line.pair("-tpmdev", "emulator,id=tpm0,chardev=tpm")
                .pair("-device", format!("{tpm},tpmdev=tpm0"));
        }
        if self.hardware.display {
            line.pair("-device", "VGA,romfile=,addr=0x6");
        }
        if self.node {
            line.pair("-fw_cfg", format!("name={FW_CFG_NODE},file={NODE_FILE}"));
        }
    }
}

#[derive(Default)]
struct Line {
    arguments: Vec<OsString>,
}

impl Line {
    fn word(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(word.as_ref().to_owned());
        self
    }
    fn pair(&mut self, option: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.word(option).word(value)
    }
}

/// A comma within an option's value is written twice.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

/// The command line as a person would type it.
pub(crate) fn shell_quoted(program: &str, arguments: &[OsString]) -> String {
    let mut text = program.to_owned();
    for argument in arguments {
        let word = argument.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,.:/+@".contains(c);
        let separator = if word.starts_with('-') { " \\\n  " } else { " " };
        text.push_str(separator);
        if !word.is_empty() && word.chars().all(plain) {
            text.push_str(&word);
        } else {
            text.push_str(&format!("'{}'", word.replace('\'', r"'\''")));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{DiskBus, Nic, TpmInterface};

    fn plan() -> Plan {
        Plan {
            name: "p1".to_owned(),
            accel: Accel::Tcg,
            memory_mib: 512,
            cpus: 1,
            hardware: Hardware::default(),
            code: Some("/fw/code.fd".into()),
            secure: true,
            disk: Some(PlannedDisk { path: "/out/a,b.raw".into(), snapshot: true }),
            boot: None,
            kernel: None,
            tpm: true,
            tpm_bus: false,
            node: true,
            watchdog: true,
            stop_at_reboot: false,
            forwards: vec![(40_001, 7443), (40_002, 8080)],
            lab: Some("52:54:00:70:6c:01".to_owned()),
            extra: vec!["-snapshot".into()],
        }
    }

    fn text(plan: &Plan) -> String {
        shell_quoted("qemu", &plan.arguments())
    }

    #[test]
    fn a_whole_machine() {
        let line = text(&plan());
        for expected in [
            "-machine q35,smm=on",
            "-global driver=cfi.pflash01,property=secure,value=on",
            "readonly=on,file=/fw/code.fd",
            "snapshot=on,file=/out/a,,b.raw",
            "restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:40001-:7443,hostfwd=tcp:127.0.0.1:40002-:8080",
            "name=opt/org.pillar.node,file=node.json",
            "tpm-crb,tpmdev=tpm0",
            "i6300esb",
            "-netdev stream,id=lab,server=off,addr.type=unix,addr.path=lab.sock,reconnect-ms=250",
            "-device virtio-net-pci,netdev=lab,mac=52:54:00:70:6c:01,romfile=,addr=0x8",
            "-snapshot",
        ] {
            assert!(line.contains(expected), "{expected} is not in {line}");
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_there() {
        let line = text(&Plan {
            code: None,
            secure: false,
            disk: None,
            tpm: false,
            tpm_bus: false,
            node: false,
            watchdog: false,
            forwards: Vec::new(),
            lab: None,
            ..plan()
        });
        for unwanted in ["pflash", "smm", "tpm", "fw_cfg", "i6300esb", "hostfwd", "virtio-blk", "lab"] {
            assert!(!line.contains(unwanted), "{unwanted} is in {line}");
        }
        assert!(line.contains("restrict=on"), "the guest never reaches out: {line}");
    }

    #[test]
    fn devices_are_those_of_the_hardware() {
        // (hardware, what is there, what is not)
        let usual = Hardware::default();
        let table = [
            (usual, "-device virtio-blk-pci,drive=disk,addr=0x2,serial=pillar,bootindex=0", "VGA"),
            (usual, "-device virtio-net-pci,netdev=net,mac=52:54:00:70:69:01,romfile=,addr=0x3", "e1000e"),
            (usual, "-device tpm-crb,tpmdev=tpm0", "tpm-tis"),
            (Hardware { nic: Nic::E1000e, ..usual }, "-device e1000e,netdev=net,", "virtio-net"),
            (Hardware { nic: Nic::Igb, ..usual }, "-device igb,netdev=net,", "virtio-net"),
            (Hardware { nic: Nic::Vmxnet3, ..usual }, "-device vmxnet3,netdev=net,", "virtio-net"),
            (Hardware { tpm: TpmInterface::Tis, ..usual }, "-device tpm-tis,tpmdev=tpm0", "tpm-crb"),
            (
                Hardware { disk_bus: DiskBus::Nvme, ..usual },
                "-device nvme,drive=disk,addr=0x2,",
                "virtio-blk",
            ),
            (Hardware { disk_bus: DiskBus::Usb, ..usual }, "-device qemu-xhci,id=usb,addr=0x2", "virtio-blk"),
            (Hardware { display: true, ..usual }, "-device VGA,", "qxl"),
        ];
        let sd = Hardware { disk_bus: DiskBus::Sd, ..usual };
        let line = text(&Plan { hardware: sd, boot: Some("/run/boot.raw".into()), ..plan() });
        assert!(line.contains("-device sd-card,drive=disk"), "{line}");
        assert!(line.contains("-device virtio-blk-pci,drive=boot,bootindex=0,"), "{line}");
        assert_eq!(line.matches("bootindex=0").count(), 1, "{line}");
        for (hardware, there, not) in table {
            let line = text(&Plan { hardware, ..plan() });
            assert!(line.contains(there), "{there} is not in {line}");
            assert!(!line.contains(not), "{not} is in {line}");
        }
    }

    #[test]
    fn devices_do_not_move_when_others_go() {
        let place = |plan: &Plan, device: &str| {
            plan.arguments().iter().map(|a| a.to_string_lossy().into_owned()).find(|a| a.starts_with(device))
        };
        let all = plan();
        let few = Plan { tpm: false, watchdog: false, disk: None, ..plan() };
        for device in ["virtio-net-pci", "virtio-rng-pci"] {
            assert_eq!(place(&all, device), place(&few, device));
        }
    }

    #[test]
    fn quoting_survives_a_shell() {
        let line = shell_quoted("qemu", &["-append".into(), "a 'b'".into(), "".into()]);
        assert_eq!(line, "qemu \\\n  -append 'a '\\''b'\\''' ''\n");
    }
}
