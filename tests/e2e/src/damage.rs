//! Ways to damage a disk image, one bit or one file at a time.

use anyhow::{Context, Result, ensure};
use pillar_slot::{Gpt, Partition};
use pillar_tools::Tools;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A block of the disks that we build.
const BLOCK: u64 = 512;

/// Where the data of a state volume begins.
const STATE_HEAD_BYTES: usize = 4 << 20;

/// A disk image that a test owns.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    tools: Tools,
}

impl Disk {
    /// The image at `path`, to be changed in place.
    pub fn open(path: &Path) -> Result<Disk> {
        Ok(Disk { path: path.to_owned(), tools: Tools::open()? })
    }

    /// The image's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The partition with this label.
    pub fn partition(&self, label: &str) -> Result<Partition> {
        let file = File::open(&self.path)?;
        let blocks = file.metadata()?.len() / BLOCK;
        let table = Gpt::read(BLOCK as u32, blocks, |offset, bytes| {
            let mut buffer = vec![0; bytes];
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer)
        })?;
        table
            .partitions
            .into_iter()
            .find(|p| p.label == label)
            .with_context(|| format!("no partition {label}"))
    }

    /// Flips the lowest bit of the byte at `offset` of the whole disk.
    pub fn flip(&self, offset: u64) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 1], offset)?;
        Ok(())
    }

    /// Flips a bit `offset` bytes into a partition.
    pub fn flip_in(&self, label: &str, offset: u64) -> Result<()> {
        let partition = self.partition(label)?;
        let bytes = (partition.last_lba - partition.first_lba + 1) * BLOCK;
        ensure!(offset < bytes, "{label} has {bytes} bytes, no byte {offset}");
        self.flip(partition.first_lba * BLOCK + offset)
    }

    /// Makes the disk larger than its partition table says, as if the image had been copied to a larger one.
    pub fn enlarge(&self, bytes: u64) -> Result<()> {
        Ok(OpenOptions::new().write(true).open(&self.path)?.set_len(self.bytes()? + bytes)?)
    }

    /// Everything before the data of the state volume.
    pub fn state_head(&self) -> Result<Vec<u8>> {
        self.read(self.partition("state")?.first_lba * BLOCK, STATE_HEAD_BYTES)
    }

    /// Writes it.
    pub fn set_state_head(&self, bytes: &[u8]) -> Result<()> {
        let start = self.partition("state")?.first_lba * BLOCK;
        OpenOptions::new().write(true).open(&self.path)?.write_all_at(bytes, start)?;
        Ok(())
    }

    /// Bytes of the disk.
    pub fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        File::open(&self.path)?.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    }

    /// Size of the disk in bytes.
    pub fn bytes(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.len())
    }

    /// A file of the EFI system partition.
    pub fn esp_read(&self, path: &str) -> Result<Vec<u8>> {
        let target = tempfile::NamedTempFile::new()?;
        self.mtool("mcopy", &["-n", "-o"], &[&format!("::{path}"), &target.path().to_string_lossy()])?;
        Ok(fs::read(target.path())?)
    }

    /// Replaces (or makes) a file of the EFI system partition.
    pub fn esp_write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let source = tempfile::NamedTempFile::new()?;
        fs::write(source.path(), bytes)?;
        self.mtool("mcopy", &["-n", "-o"], &[&source.path().to_string_lossy(), &format!("::{path}")])
            .map(|_| ())
    }

    /// Deletes a file of the EFI system partition.
    pub fn esp_delete(&self, path: &str) -> Result<()> {
        self.mtool("mdel", &[], &[&format!("::{path}")]).map(|_| ())
    }

    /// Names of the files in a folder of the EFI system partition.
    pub fn esp_list(&self, folder: &str) -> Result<Vec<String>> {
        let text = self.mtool("mdir", &["-b"], &[&format!("::{folder}")])?;
        Ok(text
            .lines()
            .filter_map(|l| l.rsplit('/').next())
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Path of the one boot entry, for example `EFI/Linux/pillar_0.1.0+3.efi`.
    pub fn esp_entry(&self) -> Result<String> {
        let names = self.esp_list("EFI/Linux")?;
        ensure!(names.len() == 1, "expected one boot entry, found {names:?}");
        Ok(format!("EFI/Linux/{}", names[0]))
    }

    fn mtool(&self, program: &str, flags: &[&str], words: &[&str]) -> Result<String> {
        let start = self.partition("esp")?.first_lba * BLOCK;
        let output = self
            .tools
            .command(program)
            .args(["-i", &format!("{}@@{start}", self.path.display())])
            .args(flags)
            .args(words)
            .env("MTOOLS_SKIP_CHECK", "1")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {words:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Sections of a PE file that have content: (name, offset in the file, bytes).
pub fn pe_sections(pe: &[u8]) -> Result<Vec<(String, u64, u64)>> {
    let mut sections = Vec::new();
    for (name, at) in pe_section_headers(pe)? {
        let (bytes, offset) = (word(pe, at + 16)?.min(word(pe, at + 8)?), word(pe, at + 20)?);
        if bytes > 0 && offset > 0 {
            sections.push((name, offset, bytes));
        }
    }
    Ok(sections)
}

/// Names of a PE file's sections, and where in the file their headers are (PE format, "Section Table").
pub fn pe_section_headers(pe: &[u8]) -> Result<Vec<(String, usize)>> {
    let header = usize::try_from(word(pe, 0x3c)?)?;
    ensure!(pe.get(header..header + 4) == Some(b"PE\0\0"), "no PE header");
    let count = usize::try_from(word(pe, header + 4)? >> 16)?;
    let optional = usize::try_from(word(pe, header + 20)? & 0xffff)?;
    let table = header + 24 + optional;
    let mut headers = Vec::new();
    for index in 0..count {
        let at = table + 40 * index;
        let name = pe.get(at..at + 8).context("PE file ends early")?;
        headers.push((String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(), at));
    }
    Ok(headers)
}

/// A little-endian word of a PE file.
pub fn word(pe: &[u8], at: usize) -> Result<u64> {
    let bytes = pe.get(at..at + 4).context("PE file ends early")?;
    Ok(u64::from(u32::from_le_bytes(bytes.try_into()?)))
}
