//! Disks of a made-up machine: a folder that looks like sysfs and procfs.

use super::*;
use crate::refuse::judge;

struct Machine {
    _dir: tempfile::TempDir,
    host: Host,
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let host =
            Host { sys: dir.path().join("sys"), proc: dir.path().join("proc"), dev: dir.path().join("dev") };
        let always = [("proc/self/mountinfo", ""), ("sys/block/.keep", "")];
        for (name, text) in always.iter().chain(files) {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("new");
            fs::write(path, text).expect("new");
        }
        fs::remove_file(dir.path().join("sys/block/.keep")).expect("there");
        Self { _dir: dir, host }
    }

    fn disk(&self, name: &str) -> Device {
        self.host.disk(name).expect("there")
    }
}

/// A disk sdb with two partitions, of which the second is under a LUKS volume under LVM.
const LAYERS_OF_SDB: [(&str, &str); 14] = [
    ("sys/block/sdb/size", "2048\n"),
    ("sys/block/sdb/queue/logical_block_size", "512\n"),
    ("sys/block/sdb/removable", "1\n"),
    ("sys/block/sdb/ro", "0\n"),
    ("sys/block/sdb/dev", "8:16\n"),
    ("sys/block/sdb/device/model", "Flash Disk      \n"),
    ("sys/block/sdb/device/vendor", "Acme    \n"),
    ("sys/block/sdb/sdb1/partition", "1\n"),
    ("sys/block/sdb/sdb1/dev", "8:17\n"),
    ("sys/block/sdb/sdb2/partition", "2\n"),
    ("sys/block/sdb/sdb2/dev", "8:18\n"),
    ("sys/block/sdb/sdb2/holders/dm-0/x", ""),
    ("sys/block/dm-0/dev", "253:0\n"),
    ("sys/block/dm-0/holders/dm-1/x", ""),
];

fn sdb(more: &[(&str, &str)]) -> Machine {
    Machine::new(&[&LAYERS_OF_SDB[..], &[("sys/block/dm-1/dev", "253:1\n")], more].concat())
}

#[test]
fn what_a_person_recognises_a_disk_by() {
    let page = "\0\u{80}\0\u{8}  12345 ";
    let machine = sdb(&[("sys/block/sdb/device/vpd_pg80", page)]);
    let disk = machine.disk("sdb");
    assert_eq!((disk.bytes, disk.sector, disk.removable, disk.read_only), (1 << 20, 512, true, false));
    assert_eq!(disk.model.as_deref(), Some("Acme Flash Disk"));
    assert_eq!(disk.path, machine.host.dev.join("sdb"));
    let ata = Machine::new(&[
        ("sys/block/sda/size", "8\n"),
        ("sys/block/sda/queue/logical_block_size", "4096\n"),
        ("sys/block/sda/device/vendor", "ATA     \n"),
        ("sys/block/sda/device/model", "Some SSD\n"),
        ("sys/block/sda/device/serial", "S1\n"),
    ]);
    let disk = ata.disk("sda");
    assert_eq!((disk.model.as_deref(), disk.serial.as_deref()), (Some("Some SSD"), Some("S1")));
    assert_eq!(disk.sector, 4096);
}

#[test]
fn a_mount_high_above_a_partition_is_found() {
    let line = |number: &str, at: &str, source: &str| {
        format!("36 35 {number} / {at} rw,relatime shared:1 - ext4 {source} rw\n")
    };
    let table = [
        (line("8:17", "/media/my\\040stick", "/dev/sdb1"), "sdb1 is mounted on /media/my stick"),
        (line("253:1", "/", "/dev/mapper/x"), "this system runs from it (dm-1 is mounted on /)"),
        (line("253:1", "/srv", "none"), "dm-1 is mounted on /srv"),
    ];
    for (mountinfo, said) in table {
        let disk = sdb(&[("proc/self/mountinfo", &mountinfo)]).disk("sdb");
        assert_eq!(judge(&disk).expect_err("used").to_string(), said);
    }
    let elsewhere = line("8:33", "/", "/dev/sdc1");
    let disk = sdb(&[("proc/self/mountinfo", &elsewhere)]).disk("sdb");
    assert_eq!(judge(&disk).expect_err("held").to_string(), "sdb2 is part of dm-0");
}

#[test]
fn a_file_system_with_a_number_of_its_own_is_found_by_its_source() {
    let family = BTreeMap::from([("8:17".to_owned(), "sdb1".to_owned())]);
    let number = |path: &Path| (path == Path::new("/dev/sd b1")).then(|| "8:17".to_owned());
    let line = "36 35 0:44 /sub /data rw - btrfs /dev/sd\\040b1 rw\n";
    let found = mounted(line, &family, number);
    assert_eq!(found, [Use::Mounted { what: "sdb1".to_owned(), at: "/data".to_owned() }]);
    let swaps = "Filename Type Size Used Priority\n/dev/sd\\040b1 partition 8 0 -2\n/swapfile file 8 0 -3\n";
    assert_eq!(swapped(swaps, &family, number), [Use::Swap { what: "sdb1".to_owned() }]);
}

#[test]
fn a_disk_behind_a_loop_device_is_found() {
    let machine = Machine::new(&[
        ("sys/block/vda/size", "8\n"),
        ("sys/block/vda/queue/logical_block_size", "512\n"),
        ("sys/block/vda/dev", "254:0\n"),
    ]);
    assert_eq!(judge(&machine.disk("vda")), Ok(()));
    let backing = machine.host.sys.join("block/loop7/loop/backing_file");
    fs::create_dir_all(backing.parent().expect("has one")).expect("new");
    fs::write(&backing, machine.host.dev.join("vda").to_str().expect("UTF-8")).expect("new");
    let refusal = judge(&machine.disk("vda")).expect_err("used");
    assert_eq!(refusal.to_string(), "vda is behind the loop device loop7");
}

#[test]
fn only_disks_are_listed() {
    let mut files = Vec::new();
    for name in ["sda", "loop0", "loop1", "ram0", "dm-0", "zram0", "sr0", "nvme0n1"] {
        let size = if name == "loop1" { "0\n" } else { "8\n" };
        files.push((format!("sys/block/{name}/size"), size));
        files.push((format!("sys/block/{name}/queue/logical_block_size"), "512\n"));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let disks = Machine::new(&files).host.disks().expect("readable");
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["loop0", "nvme0n1", "sda"]);
}
