//! One state volume on one disk, as a pillar makes and opens it.

use anyhow::{Context, Result, ensure};
use pillar_luks::{COPY_BYTES, HEAD_BYTES, SECTOR_BYTES, Shape, State, Write};
use pillar_os::cryptsetup::{Activation, Device, FormatParams, KeyslotParams, Pbkdf2};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// ext4's block, and the volumes' sector.
pub const BLOCK_BYTES: u64 = 4096;
/// The empty ext4 file system.
const TEMPLATE: &str = "/dev/vdd";
/// What opens key slot 0 here. A pillar has 32 random bytes there.
pub const PASSPHRASE: &[u8] = b"a passphrase of the guest's";
/// How much is copied at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A volume that is open and mounted.
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
    name: String,
    device: Device,
}

impl Mounted {
    /// Unmounts and closes; `look` is done in between.
    pub fn close_after(mut self, look: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        unmount(&self.at, UnmountFlags::empty()).with_context(|| format!("cannot unmount {}", self.name))?;
        look(&self.name)?;
        Ok(self.device.deactivate(&self.name)?)
    }

    /// Unmounts and closes.
    pub fn close(self) -> Result<()> {
        self.close_after(|_| Ok(()))
    }
}

/// Makes a volume on a blank disk in the order that `pillar-luks` asks for, with a file system as large as it.
pub fn make(disk: &Path, name: &str, shape: &Shape, cut: Option<Cut>) -> Result<Option<Mounted>> {
    let key: Vec<u8> = (0..shape.volume_key_bytes).map(|byte| byte as u8 ^ 0x5a).collect();
    let partition = open(disk)?;
    write(&partition, &Write { offset: 0, bytes: pillar_luks::marker().to_vec() })?;
    let header = header_file(name);
    File::create(&header)
        .and_then(|file| file.set_len(shape.data_offset))
        .context("cannot make a header file")?;
    let mut device = Device::open_detached(&header, disk)?;
    let (cipher, mode) = shape.encryption.split_once('-').context("a cipher and a mode")?;
    device.format_luks2(
        &FormatParams {
            cipher,
            mode,
            integrity: shape.integrity,
            sector_bytes: shape.sector_bytes,
            data_offset_bytes: shape.data_offset,
            metadata_bytes: COPY_BYTES as u64,
            keyslots_bytes: shape.keyslots_bytes,
            label: shape.label,
            subsystem: shape.subsystem,
            uuid: None,
            pbkdf2: Pbkdf2 { iterations: shape.digest_iterations },
        },
        &key,
    )?;
    for (slot, passphrase) in shape.keyslots.iter().zip([PASSPHRASE, b"another".as_slice()]) {
        let params = KeyslotParams {
            encryption: shape.keyslot_encryption,
            key_bytes: shape.keyslot_key_bytes as usize,
            pbkdf2: Pbkdf2 { iterations: slot.iterations },
        };
        device.add_keyslot(slot.number, &key, passphrase, &params)?;
    }
    for token in shape.tokens {
        let json = serde_json::json!({"type": token.kind, "keyslots": [token.keyslot.to_string()]});
        device.set_token(token.number, &json.to_string())?;
    }
    if cut == Some(Cut::Formatted) {
        return Ok(None);
    }
    device.activate_by_volume_key(name, &key, Activation { keyring: true, ..Activation::default() })?;
    let blocks = lay_file_system(name)?;
    let mounted = mounted(device, name).map_err(|(_, error)| error)?;
    let within = File::open(&mounted.at).context("cannot open the mount point")?;
    pillar_os::ext4_resize(&within, blocks).context("cannot grow the file system")?;
    rustix::fs::syncfs(&within).context("cannot sync the file system")?;
    drop(within);
    if cut == Some(Cut::Grown) {
        mounted.close()?;
        return Ok(None);
    }
    let head = fs::read(&header).context("cannot read the header file")?;
    let bytes = pillar_os::device_bytes(&partition).context("no size")?;
    pillar_luks::check(&head, shape, bytes).context("the header that was made")?;
    pillar_luks::commit(&head).iter().try_for_each(|part| write(&partition, part))?;
    Ok(Some(mounted))
}

/// Where making stops, as if the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before there is a file system.
    Formatted,
    /// Before the header is on the disk.
    Grown,
}

/// Copies the empty file system onto the open volume; returns how many blocks there is room for.
pub fn lay_file_system(name: &str) -> Result<u64> {
    let mapped = mapper(name);
    let to = open(&mapped)?;
    let mut from = File::open(TEMPLATE).with_context(|| format!("cannot open {TEMPLATE}"))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let bytes = from.read(&mut chunk).context("cannot read the empty file system")?;
        if bytes == 0 {
            break;
        }
        to.write_all_at(&chunk[..bytes], at).context("cannot write the empty file system")?;
        at += bytes as u64;
    }
    let blocks = pillar_os::device_bytes(&to).context("no size")? / BLOCK_BYTES;
    // Growing reads the last block first, and with integrity what was never written cannot be read.
    to.write_all_at(&[0; BLOCK_BYTES as usize], (blocks - 1) * BLOCK_BYTES)
        .context("cannot write the last block")?;
    to.sync_all().context("cannot sync the file system")?;
    Ok(blocks)
}

/// Opens a volume whose header on the disk was judged, from a copy of it in memory.
pub fn reopen(disk: &Path, name: &str, shape: &Shape) -> Result<Mounted> {
    let partition = open(disk)?;
    let mut head = vec![0; HEAD_BYTES];
    partition.read_exact_at(&mut head, 0).context("cannot read the head")?;
    let state = pillar_luks::state_of(&head);
    ensure!(state == State::Luks2, "{} is {state:?}", disk.display());
    let bytes = pillar_os::device_bytes(&partition).context("no size")?;
    let judged = pillar_luks::check(&head, shape, bytes)?;
    ensure!(judged.repair.is_none(), "a header that was closed in order is whole");
    let header = header_file(name);
    fs::write(&header, &head[..usize::try_from(shape.data_offset)?]).context("cannot copy the header")?;
    let mut device = Device::open_detached(&header, disk)?;
    device.load()?;
    device.activate(name, 0, PASSPHRASE, Activation { keyring: true, ..Activation::default() })?;
    match mounted(device, name) {
        Ok(mounted) => Ok(mounted),
        Err((mut device, error)) => {
            device.deactivate(name)?;
            Err(error)
        }
    }
}

/// What ext4's own checker says about a volume that is open and not mounted. It only reads.
pub fn check_file_system(name: &str) -> Result<()> {
    let output = Command::new("/usr/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(mapper(name))
        .output()
        .context("cannot start e2fsck")?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "e2fsck ({}): {}", output.status, said.replace('\n', " / "));
    Ok(())
}

fn mounted(device: Device, name: &str) -> Result<Mounted, (Device, anyhow::Error)> {
    match mount_ext4(name) {
        Ok(at) => Ok(Mounted { at, name: name.to_owned(), device }),
        Err(error) => Err((device, error)),
    }
}

/// Mounts an open volume.
pub fn mount_ext4(name: &str) -> Result<PathBuf> {
    let at = Path::new("/run").join(name);
    fs::create_dir_all(&at).context("cannot make a mount point")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(mapper(name), &at, "ext4", flags, None).with_context(|| format!("cannot mount {name}"))?;
    Ok(at)
}

/// What the head of a disk is.
pub fn state_of(disk: &Path) -> Result<State> {
    let mut head = vec![0; HEAD_BYTES];
    open(disk)?.read_exact_at(&mut head, 0).context("cannot read the head")?;
    Ok(pillar_luks::state_of(&head))
}

/// The device of an open volume.
pub fn mapper(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

fn header_file(name: &str) -> PathBuf {
    Path::new("/run").join(format!("{name}.header"))
}

pub fn open(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn write(to: &File, what: &Write) -> Result<()> {
    ensure!(what.bytes.len().is_multiple_of(SECTOR_BYTES), "whole sectors");
    to.write_all_at(&what.bytes, what.offset).context("cannot write the header")?;
    to.sync_all().context("cannot sync the header")
}
