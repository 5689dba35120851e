//! Which shared libraries a program needs: `DT_NEEDED`, followed until nothing new comes. Pure over a lookup function.
//! Libraries opened at run time (`dlopen`) are not in an ELF file: whoever knows of one names it as a root.

use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, elf};
use std::collections::BTreeMap;

/// Where a kernel module keeps its `key=value` entries, each with a zero behind it.
const MODULE_INFO: &[u8] = b".modinfo";

/// More libraries than this in one closure is not an appliance any more.
const MAX_LIBRARIES: usize = 256;

/// What the dynamic loader would read from one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Linkage {
    /// The dynamic loader's path; absent in libraries and static programs.
    pub interpreter: Option<String>,
    /// Names of needed libraries, in the file's order.
    pub needed: Vec<String>,
}

/// Why a closure could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not an ELF file that we can read.
    #[error("{file} is not a 64-bit ELF file that can be read: {reason}")]
    Malformed {
        /// Which.
        file: String,
        /// What the parser said.
        reason: String,
    },
    /// A needed library is nowhere.
    #[error("{file} needs {library}, which is in no package of the image")]
    Missing {
        /// Who needs it.
        file: String,
        /// What.
        library: String,
    },
    /// Something pulls in half a distribution.
    #[error("more than {MAX_LIBRARIES} libraries are needed")]
    TooMany,
}

/// Whether bytes start like an ELF file.
#[must_use]
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Reads one ELF file's linkage. `file` is only for messages.
pub fn linkage(file: &str, bytes: &[u8]) -> Result<Linkage, ElfError> {
    let malformed =
        |error: object::Error| ElfError::Malformed { file: file.to_owned(), reason: error.to_string() };
    let header = elf::FileHeader64::<Endianness>::parse(bytes).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    let mut linkage = Linkage::default();
    for segment in header.program_headers(endian, bytes).map_err(malformed)? {
        if let Some(path) = segment.interpreter(endian, bytes).map_err(malformed)? {
            linkage.interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let sections = header.sections(endian, bytes).map_err(malformed)?;
    for section in sections.iter() {
        let Some((entries, strings)) = section.dynamic(endian, bytes).map_err(malformed)? else { continue };
        let strings = sections.strings(endian, bytes, strings).map_err(malformed)?;
        for entry in entries {
            if entry.tag(endian) == elf::DT_NEEDED {
                let name = entry.string(endian, strings).map_err(malformed)?;
                linkage.needed.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(linkage)
}

/// The firmware files that a kernel module may ask for: its `firmware=` entries, as modinfo(8) shows them. `file` is
/// only for messages.
pub fn module_firmware(file: &str, bytes: &[u8]) -> Result<Vec<String>, ElfError> {
    let malformed =
        |error: object::Error| ElfError::Malformed { file: file.to_owned(), reason: error.to_string() };
    let header = elf::FileHeader64::<Endianness>::parse(bytes).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    let sections = header.sections(endian, bytes).map_err(malformed)?;
    let Some((_, section)) = sections.section_by_name(endian, MODULE_INFO) else { return Ok(Vec::new()) };
    let entries = section.data(endian, bytes).map_err(malformed)?.split(|byte| *byte == 0);
    let named = entries.filter_map(|entry| entry.strip_prefix(b"firmware="));
    Ok(named.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// Every library (name to what `find` gave for it) that the roots need, directly or through others.
///
/// `find` maps a library name to a value of the caller's and the file's bytes.
pub fn closure<T>(
    roots: &[(String, Linkage)],
    mut find: impl FnMut(&str) -> Option<(T, Vec<u8>)>,
) -> Result<BTreeMap<String, T>, ElfError> {
    let mut found = BTreeMap::new();
    let mut todo: Vec<(String, Linkage)> = roots.to_vec();
    while let Some((file, linkage)) = todo.pop() {
        for library in linkage.needed {
            if found.contains_key(&library) {
                continue;
            }
            let Some((value, bytes)) = find(&library) else {
                return Err(ElfError::Missing { file, library });
            };
            todo.push((library.clone(), self::linkage(&library, &bytes)?));
            found.insert(library, value);
            if found.len() > MAX_LIBRARIES {
                return Err(ElfError::TooMany);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file with a section `.modinfo` of this content, and one of names.
    fn module(info: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend([1, 0, 62, 0, 1, 0, 0, 0]);
        let table = 64 + info.len() + NAMES.len();
        bytes.extend([0; 16]);
        bytes.extend((table as u64).to_le_bytes());
        bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 0, 0, 64, 0, 3, 0, 2, 0]);
        bytes.extend(info);
        bytes.extend(NAMES);
        let section = |name: u32, kind: u32, offset: usize, size: usize| {
            let mut row = [name.to_le_bytes(), kind.to_le_bytes()].concat();
            row.resize(24, 0);
            row.extend((offset as u64).to_le_bytes());
            row.extend((size as u64).to_le_bytes());
            row.resize(64, 0);
            row
        };
        bytes.extend([0; 64]);
        bytes.extend(section(1, 1, 64, info.len()));
        bytes.extend(section(10, 3, 64 + info.len(), NAMES.len()));
        bytes
    }

    #[test]
    fn a_module_names_its_firmware() {
        let info = b"license=GPL\0firmware=bnx2/a.fw\0depends=\0firmware=b.bin\0xfirmware=c\0";
        assert_eq!(module_firmware("x", &module(info)), Ok(vec!["bnx2/a.fw".to_owned(), "b.bin".to_owned()]));
        assert_eq!(module_firmware("x", &module(b"license=GPL\0")), Ok(Vec::new()));
        assert_eq!(module_firmware("x", &this_test()), Ok(Vec::new()));
        assert!(matches!(module_firmware("x", b"\x7fELF"), Err(ElfError::Malformed { .. })));
    }

    fn this_test() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("runs")).expect("readable")
    }

    #[test]
    fn a_dynamic_program_names_loader_and_libraries() {
        let linkage = linkage("test", &this_test()).expect("ELF");
        assert!(linkage.interpreter.expect("dynamic").contains("ld-linux"));
        assert!(linkage.needed.iter().any(|n| n == "libc.so.6"), "{:?}", linkage.needed);
    }

    #[test]
    fn garbage_and_truncation_are_refused() {
        assert!(matches!(linkage("x", b"\x7fELF"), Err(ElfError::Malformed { .. })));
        let whole = this_test();
        for end in [64, 100, 1000, whole.len() / 2] {
            // Refused or read as far as it goes, never a panic.
            let _ = linkage("x", &whole[..end]);
        }
    }

    #[test]
    fn a_missing_library_is_named_with_who_needs_it() {
        let roots =
            [("agent".to_owned(), Linkage { interpreter: None, needed: vec!["libgone.so.1".to_owned()] })];
        let error = closure::<()>(&roots, |_| None).expect_err("missing");
        assert_eq!(error, ElfError::Missing { file: "agent".to_owned(), library: "libgone.so.1".to_owned() });
    }

    #[test]
    fn the_closure_follows_libraries_once() {
        let needs = |names: &[&str]| Linkage {
            interpreter: None,
            needed: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        let program = this_test();
        let roots = [("a".to_owned(), needs(&["liba.so"])), ("b".to_owned(), needs(&["liba.so"]))];
        let mut asked = Vec::new();
        let found = closure(&roots, |name| {
            asked.push(name.to_owned());
            Some(((), program.clone()))
        })
        .expect("all there");
        assert!(found.contains_key("libc.so.6") && found.contains_key("liba.so"));
        asked.sort();
        let all = asked.len();
        asked.dedup();
        assert_eq!(asked.len(), all, "each library is looked up once");
    }
}
