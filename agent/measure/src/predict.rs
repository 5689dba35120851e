//! Predicts PCR values from the files that a machine starts: the boot loader and the unified kernel image (UKI).
//!
//! The values are those of OVMF (EDK II), systemd-boot and systemd-stub 257 and the kernel's EFI stub, as the fixture
//! in `tests/data` has them from a real boot. A section that the stub treats in a way that depends on the machine
//! (profiles, device trees chosen by hardware) is an error: its value cannot be predicted.

use crate::hash::{extend, hash, zero};
use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageDataDirectory};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};
use pillar_layout::{pcr, phase};
use pillar_model::{Bank, BootApplication, Digest, PcrIndex, PcrPrediction};
use std::collections::BTreeMap;

/// A PE file larger than this is refused; the largest we make is a UKI of some 20 MB.
pub const PE_MAX_BYTES: usize = 512 << 20;

/// Sections that systemd-stub measures into PCR 11, in its order (uki.h of systemd 257; UAPI.5 "UKI TPM PCR
/// measurements"). `.pcrsig` is left out: it signs the result.
const MEASURED_SECTIONS: [&str; 10] =
    [".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"];

/// Sections whose treatment depends on the machine or on a choice made at boot.
const UNPREDICTABLE_SECTIONS: [&str; 4] = [".profile", ".dtbauto", ".hwids", ".efifw"];

/// Sections that systemd-stub hands to the kernel as files under `/.extra`, in the order in which it appends them to
/// the initrd.
const EXTRA_FILES: [(&str, &str); 3] = [
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
];

/// What the firmware measures into PCR 4 before it starts the first boot option (PC Client PFP, section 8.2.4).
const BOOT_OPTION_ACTION: &[u8] = b"Calling EFI Application from Boot Option";

/// Data of a separator between firmware and operating system (PC Client PFP, section 10.4.1).
const SEPARATOR: [u8; 4] = [0; 4];

/// Why a file's measurement cannot be predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is larger than [`PE_MAX_BYTES`].
    #[error("PE file of {0} bytes is over the limit of {PE_MAX_BYTES}")]
    TooLarge(usize),
    /// The headers cannot be read.
    #[error("not a 64-bit PE file: {0}")]
    Pe(String),
    /// A header or section points outside the file, or the parts overlap.
    #[error("PE file is inconsistent: {0}")]
    Layout(String),
    /// A section's name is not text.
    #[error("PE section {0} has a name that is not text")]
    SectionName(usize),
    /// Two sections of the same name: which one the stub takes is not for us to guess.
    #[error("UKI has two sections {0}")]
    DuplicateSection(String),
    /// A section that a UKI must have.
    #[error("UKI has no section {0}")]
    MissingSection(&'static str),
    /// A section whose measurement depends on the machine.
    #[error("UKI has a section {0}, whose measurement cannot be predicted")]
    Unpredictable(&'static str),
    /// The command line is not one line of text.
    #[error("UKI's command line is not one line of UTF-8 text")]
    Cmdline,
}

fn layout(what: impl Into<String>) -> Error {
    Error::Layout(what.into())
}

struct Pe<'a> {
    bytes: &'a [u8],
    file: PeFile64<'a>,
}

/// A section's name and the bytes that are in memory once the image is loaded.
struct Section<'a> {
    name: &'a str,
    content: &'a [u8],
}

impl<'a> Pe<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > PE_MAX_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let file = PeFile64::parse(bytes).map_err(|e| Error::Pe(e.to_string()))?;
        Ok(Self { bytes, file })
    }

    /// Offset of the optional header: behind the signature (4 bytes) and the COFF header (20 bytes).
    fn optional_header(&self) -> usize {
        self.file.dos_header().nt_headers_offset() as usize + 24
    }

    /// Where the certificate table's directory entry stands, and the entry; `None` when the header has no room for
    /// one. An unsigned file has the entry too, all zero.
    fn certificates(&self) -> Option<(usize, &'a ImageDataDirectory)> {
        let entry = self.file.data_directories().iter().nth(IMAGE_DIRECTORY_ENTRY_SECURITY)?;
        // The directories follow the 112 fixed bytes of the PE32+ optional header, 8 bytes each.
        let offset = self.optional_header() + 112 + 8 * IMAGE_DIRECTORY_ENTRY_SECURITY;
        Some((offset, entry))
    }

    fn range(&self, start: usize, end: usize) -> Result<&'a [u8], Error> {
        self.bytes
            .get(start..end)
            .ok_or_else(|| layout(format!("bytes {start} to {end} are not in the file")))
    }

    /// The parts of the file that Authenticode hashes, in its order (Windows Authenticode Portable Executable
    /// Signature Format, "Calculating the PE image hash", as EDK II's firmware does it: bytes behind the last section
    /// are hashed as they are, nothing is padded).
    fn authenticode_parts(&self) -> Result<Vec<&'a [u8]>, Error> {
        let headers_end = self.file.nt_headers().optional_header().size_of_headers() as usize;
        let checksum = self.optional_header() + 64;
        let mut parts = vec![self.range(0, checksum)?];
        let (table_start, table_len) = match self.certificates() {
            Some((at, entry)) => {
                parts.push(self.range(checksum + 4, at)?);
                parts.push(self.range(at + 8, headers_end)?);
                (entry.virtual_address.get(LE) as usize, entry.size.get(LE) as usize)
            }
            None => {
                parts.push(self.range(checksum + 4, headers_end)?);
                (0, 0)
            }
        };

        let mut sections: Vec<(usize, usize)> = self
            .file
            .section_table()
            .iter()
            .map(|s| (s.pointer_to_raw_data.get(LE) as usize, s.size_of_raw_data.get(LE) as usize))
            .filter(|(_, len)| *len != 0)
            .collect();
        sections.sort_unstable();
        let mut hashed = headers_end;
        for (start, len) in sections {
            // The firmware sums lengths and takes the sum as an offset; only where nothing overlaps and nothing
            // is left out between the sections does that mean what it seems to.
            if start != hashed {
                return Err(layout(format!(
                    "a section starts at byte {start}, the one before ends at {hashed}"
                )));
            }
            parts.push(self.range(start, start + len)?);
            hashed = start + len;
        }
        let end = self.bytes.len().checked_sub(table_len).filter(|end| *end >= hashed);
        let end = end.ok_or_else(|| layout("the certificate table overlaps a section"))?;
        if table_len != 0 && table_start != end {
            return Err(layout("the certificate table is not at the end of the file"));
        }
        parts.push(self.range(hashed, end)?);
        Ok(parts)
    }

    fn sections(&self) -> Result<Vec<Section<'a>>, Error> {
        let mut found: Vec<Section<'a>> = Vec::new();
        for (index, header) in self.file.section_table().iter().enumerate() {
            let name = std::str::from_utf8(header.raw_name()).map_err(|_| Error::SectionName(index))?;
            let start = header.pointer_to_raw_data.get(LE) as usize;
            let in_file = header.size_of_raw_data.get(LE) as usize;
            let in_memory = header.virtual_size.get(LE) as usize;
            // Memory beyond the file's bytes is zero filled; only the stub's own sections may have that.
            let content = self.range(start, start + in_memory.min(in_file))?;
            if in_memory > in_file && MEASURED_SECTIONS.contains(&name) {
                return Err(layout(format!("section {name} is longer in memory than in the file")));
            }
            found.push(Section { name, content });
        }
        Ok(found)
    }
}

/// The sections of a UKI that matter, by name.
struct Uki<'a> {
    sections: BTreeMap<&'a str, &'a [u8]>,
}

impl<'a> Uki<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut sections = BTreeMap::new();
        for section in Pe::parse(bytes)?.sections()? {
            if let Some(name) = UNPREDICTABLE_SECTIONS.iter().find(|n| **n == section.name) {
                return Err(Error::Unpredictable(name));
            }
            if is_payload(section.name) && sections.insert(section.name, section.content).is_some() {
                return Err(Error::DuplicateSection(section.name.to_owned()));
            }
        }
        Ok(Self { sections })
    }

    fn section(&self, name: &'static str) -> Result<&'a [u8], Error> {
        self.sections.get(name).copied().ok_or(Error::MissingSection(name))
    }

    /// PCR 11 when the stub starts the kernel: each section's name with its NUL, then its content.
    fn pcr11(&self, bank: Bank) -> Digest {
        let mut value = zero(bank);
        for name in MEASURED_SECTIONS {
            if let Some(content) = self.sections.get(name) {
                extend(bank, &mut value, &hash(bank, &[name.as_bytes(), &[0]]));
                extend(bank, &mut value, &hash(bank, &[content]));
            }
        }
        value
    }

    /// The load options that the kernel's EFI stub measures: the command line in UTF-16 with its NUL.
    fn load_options(&self) -> Result<Vec<u8>, Error> {
        let text = std::str::from_utf8(self.section(".cmdline")?).map_err(|_| Error::Cmdline)?;
        // systemd-stub cuts white space off both ends, and would turn control characters into spaces.
        let text = text.trim_matches(|c: char| c <= ' ');
        if text.is_empty() || text.chars().any(|c| c < ' ') {
            return Err(Error::Cmdline);
        }
        Ok(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect())
    }

    /// The initrd that the kernel gets: microcode, the initrd, then what the stub makes of other sections, each padded
    /// to four bytes.
    fn initrd(&self) -> Result<Vec<u8>, Error> {
        let mut initrd = Vec::new();
        for section in [".ucode", ".initrd"] {
            initrd.extend_from_slice(self.sections.get(section).copied().unwrap_or_default());
            pad4(&mut initrd);
        }
        if initrd.is_empty() {
            return Err(Error::MissingSection(".initrd"));
        }
        for (section, file) in EXTRA_FILES {
            if let Some(content) = self.sections.get(section) {
                initrd.extend(extra_cpio(file, content));
            }
        }
        Ok(initrd)
    }

    fn pcr9(&self, bank: Bank) -> Result<Digest, Error> {
        let mut value = zero(bank);
        extend(bank, &mut value, &hash(bank, &[&self.load_options()?]));
        extend(bank, &mut value, &hash(bank, &[&self.initrd()?]));
        Ok(value)
    }
}

fn is_payload(section: &str) -> bool {
    MEASURED_SECTIONS.contains(&section) || EXTRA_FILES.iter().any(|(name, _)| *name == section)
}

fn pad4(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One file under `/.extra` as the stub packs it: "newc" cpio, owner root, no times, inodes counted from 1.
fn extra_cpio(file: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    cpio_entry(&mut archive, 1, 0o040_555, ".extra", &[]);
    cpio_entry(&mut archive, 2, 0o100_444, &format!(".extra/{file}"), content);
    // The trailer has its name's length in upper case, unlike every other number.
    archive.extend(b"07070100000000000000000000000000000000000000010000000000000000");
    archive.extend(b"000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0");
    archive
}

fn cpio_entry(archive: &mut Vec<u8>, inode: u32, mode: u32, name: &str, content: &[u8]) {
    let (size, name_size) = (content.len(), name.len() + 1);
    let header = format!(
        "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
        0, 0, 1, 0, 0, 0, 0, 0, 0
    );
    archive.extend(header.as_bytes());
    archive.extend(name.as_bytes());
    archive.push(0);
    pad4(archive);
    archive.extend(content);
    pad4(archive);
}

/// The Authenticode digest of a PE file, signed or not: what firmware measures into PCR 4 when it loads it.
pub fn authenticode(pe: &[u8], bank: Bank) -> Result<Digest, Error> {
    Ok(hash(bank, &Pe::parse(pe)?.authenticode_parts()?))
}

/// PCR 11 of a UKI after each phase of `layout::phase::ALL`, by the phase's name.
pub fn uki_pcr11(uki: &[u8], bank: Bank) -> Result<BTreeMap<String, Digest>, Error> {
    let uki = Uki::parse(uki)?;
    uki.section(".linux")?;
    let mut value = uki.pcr11(bank);
    Ok(phase::ALL
        .iter()
        .map(|name| {
            extend(bank, &mut value, &hash(bank, &[name.as_bytes()]));
            ((*name).to_owned(), value.clone())
        })
        .collect())
}

/// PCR 9 of a UKI: the kernel's EFI stub measures its load options and the initrd.
pub fn uki_pcr9(uki: &[u8], bank: Bank) -> Result<Digest, Error> {
    Uki::parse(uki)?.pcr9(bank)
}

/// What the firmware starts on the way to the kernel, in order, with its digests in each bank: the loader and the UKI.
///
/// The kernel inside the UKI is none of them: systemd-stub 257 copies it into memory and jumps to it, without asking
/// the firmware (only behind shim does it load it as an image).
pub fn boot_applications(loader: &[u8], uki: &[u8], banks: &[Bank]) -> Result<Vec<BootApplication>, Error> {
    [("loader", loader), ("uki", uki)]
        .into_iter()
        .map(|(name, file)| {
            let pe = Pe::parse(file)?;
            let parts = pe.authenticode_parts()?;
            let authenticode = banks.iter().map(|bank| (*bank, hash(*bank, &parts))).collect();
            Ok(BootApplication { name: name.to_owned(), authenticode })
        })
        .collect()
}

/// PCR 4 after the firmware started these programs, from the first boot option on; `None` when one of them has no
/// digest in the bank.
#[must_use]
pub fn pcr4(applications: &[BootApplication], bank: Bank) -> Option<Digest> {
    let mut value = zero(bank);
    extend(bank, &mut value, &hash(bank, &[BOOT_OPTION_ACTION]));
    extend(bank, &mut value, &hash(bank, &[&SEPARATOR]));
    for application in applications {
        extend(bank, &mut value, application.authenticode.get(&bank)?);
    }
    Some(value)
}

/// Everything that a release predicts in one bank, from the files as they are started (signed, with `.pcrsig`).
pub fn predict(loader: &[u8], uki: &[u8], bank: Bank) -> Result<PcrPrediction, Error> {
    let applications = boot_applications(loader, uki, &[bank])?;
    let mut fixed = BTreeMap::new();
    for (index, value) in
        [(pcr::BOOT_APPLICATIONS, pcr4(&applications, bank)), (pcr::KERNEL, Some(uki_pcr9(uki, bank)?))]
    {
        if let (Ok(index), Some(value)) = (PcrIndex::new(index), value) {
            fixed.insert(index, value);
        }
    }
    Ok(PcrPrediction { fixed, uki_after_phase: uki_pcr11(uki, bank)? })
}
