//! The partition and its header: read and judged here, written only in whole sectors and in a safe order.

use anyhow::{Context as _, bail};
use pillar_luks::{HEAD_BYTES, Header, SECTOR_BYTES, Shape, State, Write};
use pillar_model::StateSettings;
use pillar_os::cryptsetup::{Activation, Device};
use rustix::fs::Mode;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the opened volume below `/dev/mapper`.
pub const NAME: &str = "state";
/// Where a header is worked on: a tmpfs.
const HEADER_FILE: &str = "/run/pillar/state-header";

/// Magic and version of a first header.
const LUKS2_MAGIC: [u8; 8] = *b"LUKS\xba\xbe\0\x02";

/// The key slot that the TPM's key opens.
pub const TPM_SLOT: u32 = 0;
/// The key slot that the operators' recovery key opens.
pub const RECOVERY_SLOT: u32 = 1;

/// The partition.
pub struct Volume {
    /// Its device.
    pub partition: PathBuf,
    /// What a header on it must be.
    pub shape: Shape,
    /// Its size.
    pub bytes: u64,
    file: File,
}

impl Volume {
    /// Opens the partition.
    pub fn open(partition: &Path, settings: StateSettings) -> anyhow::Result<Self> {
        let opened = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new().read(true).write(true).open(partition)?;
            let bytes = pillar_os::device_bytes(&file)?;
            Ok((file, bytes))
        };
        let (file, bytes) =
            opened().with_context(|| format!("cannot open the state partition {}", partition.display()))?;
        Ok(Self { partition: partition.to_owned(), shape: Shape::state(settings.integrity), bytes, file })
    }

    /// What is on it. A LUKS2 header is known by its first bytes, and judged by [`Self::header`]; only for anything else
    /// the whole head is read.
    pub fn state(&self) -> anyhow::Result<State> {
        if self.read(LUKS2_MAGIC.len())? == LUKS2_MAGIC {
            return Ok(State::Luks2);
        }
        let length = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(HEAD_BYTES);
        Ok(pillar_luks::state_of(&self.read(length)?))
    }

    /// The header, judged, and all bytes before the data. A copy that a power cut left behind is mended.
    pub fn header(&self) -> anyhow::Result<(Header, Vec<u8>)> {
        let mut head = self.read(self.head_bytes()?)?;
        let header = pillar_luks::check(&head, &self.shape, self.bytes)?;
        if let Some(repair) = &header.repair {
            self.write(repair).context("cannot mend the header")?;
            let start = usize::try_from(repair.offset)?;
            head[start..start + repair.bytes.len()].copy_from_slice(&repair.bytes);
        }
        Ok((header, head))
    }

    /// Bytes before the data.
    pub fn head_bytes(&self) -> anyhow::Result<usize> {
        Ok(usize::try_from(self.shape.data_offset)?)
    }

    fn read(&self, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, 0)
            .with_context(|| format!("cannot read the state partition {}", self.partition.display()))?;
        Ok(bytes)
    }

    /// Writes and waits until the disk has it.
    pub fn write(&self, write: &Write) -> std::io::Result<()> {
        self.file.write_all_at(&write.bytes, write.offset)?;
        self.file.sync_data()
    }

    /// From here on the partition is a volume that is being made.
    pub fn mark(&self) -> anyhow::Result<()> {
        self.write(&Write { offset: 0, bytes: pillar_luks::marker().to_vec() })
            .with_context(|| format!("cannot write to the state partition {}", self.partition.display()))
    }

    /// Overwrites everything that could lead to a key, the marker first: a power cut leaves a volume that is being
    /// made.
    pub fn destroy(&mut self) -> anyhow::Result<()> {
        self.mark()?;
        let rest = self.head_bytes()? - SECTOR_BYTES;
        let bytes = crate::make::random(rest)?;
        self.write(&Write { offset: SECTOR_BYTES as u64, bytes: bytes.to_vec() })?;
        Ok(())
    }

    /// libcryptsetup on this partition's data with the header in a file in memory.
    pub fn device(&self, header: &HeaderFile) -> anyhow::Result<Device> {
        Ok(Device::open_detached(&header.path, &self.partition)?)
    }
}

/// The header as a file in memory; gone when dropped.
pub struct HeaderFile {
    /// Where.
    pub path: PathBuf,
}

impl HeaderFile {
    /// With these bytes: as many as there are before the data.
    pub fn new(bytes: &[u8]) -> anyhow::Result<Self> {
        let path = PathBuf::from(HEADER_FILE);
        let _ = fs::remove_file(&path);
        let mode = Mode::RUSR | Mode::WUSR;
        let made = OpenOptions::new().write(true).create_new(true).mode(mode.bits()).open(&path);
        let file = made.with_context(|| format!("cannot create {HEADER_FILE}"))?;
        let this = Self { path };
        file.write_all_at(bytes, 0).with_context(|| format!("cannot write {HEADER_FILE}"))?;
        Ok(this)
    }

    /// Its bytes now, up to the data.
    pub fn bytes(&self, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = fs::read(&self.path).with_context(|| format!("cannot read {HEADER_FILE}"))?;
        if bytes.len() > length {
            bail!("libcryptsetup made a header of {} bytes, the data begins at {length}", bytes.len());
        }
        bytes.resize(length, 0);
        Ok(bytes)
    }
}

impl Drop for HeaderFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The opened volume's device.
pub fn mapped() -> PathBuf {
    Path::new("/dev/mapper").join(NAME)
}

/// How it is opened.
pub fn activation() -> Activation {
    Activation { keyring: true, ..Activation::default() }
}

/// HMAC of the volume's key over its UUID: names this volume without telling the key.
pub fn tag(volume_key: &[u8], uuid: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, volume_key);
    hex::encode(ring::hmac::sign(&key, format!("pillar-state-v1:{uuid}").as_bytes()))
}
