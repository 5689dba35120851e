//! Compares what two builds made: byte for byte, but for the signatures, which carry the time of signing.
//!
//! What counts as a signature is read from the files themselves (the certificate table of a PE file and its checksum)
//! and must lie at the same place in both; everything around it is compared.

use crate::digest;
use crate::error::{Error, file};
use crate::{provenance, release};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// Files in a disk image begin at a sector.
const SECTOR: usize = 512;

/// How far into a PE file its headers may reach.
const HEADERS: usize = 1024;

/// What the comparison of one file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The same bytes.
    Same,
    /// The same but for signatures, what names their digests, and what a run says of itself.
    SameButSignatures,
    /// Other bytes.
    Different,
    /// Only the first build made it.
    OnlyFirst,
    /// Only the second build made it.
    OnlySecond,
}

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Bytes.
    pub size: u64,
    /// Digest, hexadecimal.
    pub sha256: String,
}

/// One file of both builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Its name.
    pub name: String,
    /// Whether it is the same.
    pub verdict: Verdict,
    /// What the first build made.
    pub first: Option<Version>,
    /// What the second build made.
    pub second: Option<Version>,
}

impl Compared {
    /// Whether this file tells the two builds apart.
    #[must_use]
    pub fn differs(&self) -> bool {
        !matches!(self.verdict, Verdict::Same | Verdict::SameButSignatures)
    }
}

/// Compares every file of two output folders, sorted by name.
pub fn folders(first: &Path, second: &Path) -> Result<Vec<Compared>, Error> {
    let (names_first, names_second) = (names(first)?, names(second)?);
    let all: BTreeSet<&String> = names_first.union(&names_second).collect();
    all.into_iter()
        .map(|name| {
            let (a, b) = (first.join(name), second.join(name));
            let (first, second) = (version(&a)?, version(&b)?);
            let verdict = match (&first, &second) {
                (Some(_), None) => Verdict::OnlyFirst,
                (None, _) => Verdict::OnlySecond,
                (a, b) if a == b => Verdict::Same,
                _ if same_but_signatures(name, &a, &b)? => Verdict::SameButSignatures,
                _ => Verdict::Different,
            };
            Ok(Compared { name: name.clone(), verdict, first, second })
        })
        .collect()
}

fn names(folder: &Path) -> Result<BTreeSet<String>, Error> {
    let entries = fs::read_dir(folder).map_err(file("read", folder))?;
    Ok(entries
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

fn version(path: &Path) -> Result<Option<Version>, Error> {
    if !path.is_file() {
        return Ok(None);
    }
    let read = |path: &Path| Ok((fs::metadata(path)?.len(), digest::file(path)?));
    let (size, sha256) = read(path).map_err(file("read", path))?;
    Ok(Some(Version { size, sha256: hex::encode(sha256) }))
}

/// Whether a file of this name holds a signature made by the build.
fn is_signed(name: &str) -> bool {
    name.ends_with(".raw") || name.ends_with(".efi") && !name.ends_with(".unsigned.efi")
}

fn same_but_signatures(name: &str, first: &Path, second: &Path) -> Result<bool, Error> {
    if is_signed(name) {
        let same = || same_outside_signatures(&File::open(first)?, &File::open(second)?);
        return same().map_err(file("read", first));
    }
    if name == release::FILE || name == provenance::FILE {
        let read = |path: &Path| {
            let bytes = fs::read(path).map_err(file("read", path))?;
            Ok::<_, Error>(serde_json::from_slice(&bytes).ok().map(without_runs_own))
        };
        let (first, second): (Option<Value>, Option<Value>) = (read(first)?, read(second)?);
        return Ok(first.is_some() && first == second);
    }
    Ok(false)
}

/// A statement without the digests of signed files, and without what a run says of itself.
fn without_runs_own(mut statement: Value) -> Value {
    for subject in statement["subject"].as_array_mut().into_iter().flatten() {
        // `release.json` names signed files by digest, so its own digest changes with theirs.
        let varies = subject["name"].as_str().is_some_and(|name| is_signed(name) || name == release::FILE);
        if varies {
            subject["digest"] = Value::Null;
        }
    }
    if let Some(run) = statement.pointer_mut("/predicate/runDetails") {
        for key in provenance::RUNS_OWN {
            run[key] = Value::Null;
        }
    }
    statement
}

/// Compares two files of one length outside the signatures of the PE files in them.
fn same_outside_signatures(first: &File, second: &File) -> io::Result<bool> {
    let length = first.metadata()?.len();
    if second.metadata()?.len() != length {
        return Ok(false);
    }
    let masks = signatures(first)?;
    if masks.is_empty() || masks != signatures(second)? {
        return Ok(false);
    }
    let mut at = 0;
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    while at < length {
        let n = usize::try_from(length - at).map_or(CHUNK, |left| left.min(CHUNK));
        first.read_exact_at(&mut a[..n], at)?;
        second.read_exact_at(&mut b[..n], at)?;
        if a[..n] != b[..n] {
            for mask in &masks {
                let from = mask.start.clamp(at, at + n as u64) - at;
                let to = mask.end.clamp(at, at + n as u64) - at;
                let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
                a[range.clone()].fill(0);
                b[range].fill(0);
            }
            if a[..n] != b[..n] {
                return Ok(false);
            }
        }
        at += n as u64;
    }
    Ok(true)
}

/// Checksum and certificate table of every signed PE file that begins at a sector.
fn signatures(file: &File) -> io::Result<Vec<Range<u64>>> {
    let length = file.metadata()?.len();
    let mut found = Vec::new();
    let mut chunk = vec![0; CHUNK];
    let mut headers = [0; HEADERS];
    let mut at = 0;
    while at < length {
        let n = usize::try_from(length - at).map_or(CHUNK, |left| left.min(CHUNK));
        file.read_exact_at(&mut chunk[..n], at)?;
        for start in (0..n).step_by(SECTOR).filter(|start| chunk[*start..n].starts_with(b"MZ")) {
            let start = at + start as u64;
            let n = file.read_at(&mut headers, start)?;
            let Some((checksum, table)) = signature_in(&headers[..n]) else { continue };
            let table = start + table.start..start + table.end;
            let mut header = [0; 8];
            if table.end > length || file.read_exact_at(&mut header, table.start).is_err() {
                continue;
            }
            // WIN_CERTIFICATE: length, revision 2.0, PKCS #7.
            if header[4..] == [0x00, 0x02, 0x02, 0x00] {
                found.push(start + checksum..start + checksum + 4);
                found.push(table);
            }
        }
        at += n as u64;
    }
    Ok(found)
}

/// Where a PE32+ file's headers say that its checksum and its certificate table are; `None` when it has no such table.
fn signature_in(headers: &[u8]) -> Option<(u64, Range<u64>)> {
    let word = |at: usize| Some(u32::from_le_bytes(headers.get(at..at + 4)?.try_into().ok()?));
    let pe = usize::try_from(word(0x3c)?).ok()?;
    let optional = pe.checked_add(24)?;
    let magic = headers.get(optional..optional.checked_add(2)?)?;
    if headers.get(pe..pe + 4)? != b"PE\0\0" || magic != [0x0b, 0x02] {
        return None;
    }
    let (start, size) = (word(optional + 144)?, word(optional + 148)?);
    let table = u64::from(start)..u64::from(start) + u64::from(size);
    (start != 0 && size > 8).then_some((optional as u64 + 64, table))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that has a certificate table: headers, a page of content, the table.
    fn pe(content: u8, signature: u8) -> Vec<u8> {
        let mut bytes = vec![content; 4096];
        bytes[..HEADERS].fill(0);
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x98..0x9a].copy_from_slice(&[0x0b, 0x02]);
        bytes[0x98 + 64..0x98 + 68].fill(signature);
        bytes[0x98 + 144..0x98 + 148].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[0x98 + 148..0x98 + 152].copy_from_slice(&64_u32.to_le_bytes());
        bytes.extend([64, 0, 0, 0, 0, 2, 2, 0]);
        bytes.extend([signature; 56]);
        bytes
    }

    fn disk(content: u8, signature: u8, tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; CHUNK - 1024];
        // Across the border of two chunks.
        bytes.extend(pe(content, signature));
        bytes.extend(tail);
        bytes.resize(2 * CHUNK + 512, 0);
        bytes
    }

    fn verdicts(files: &[(&str, &[u8], &[u8])]) -> Vec<Verdict> {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (side, pick) in [("1", 0), ("2", 1)] {
            fs::create_dir(dir.path().join(side)).expect("new");
            for (name, a, b) in files {
                let bytes = [a, b][pick];
                fs::write(dir.path().join(side).join(name), bytes).expect("new");
            }
        }
        let compared = folders(&dir.path().join("1"), &dir.path().join("2")).expect("readable");
        compared.iter().map(|c| c.verdict).collect()
    }

    #[test]
    fn signatures_may_differ_and_nothing_beside_them() {
        let found = verdicts(&[
            ("a.efi", &pe(1, 1), &pe(1, 2)),
            ("b.efi", &pe(1, 1), &pe(2, 1)),
            ("c.raw", &disk(1, 1, b""), &disk(1, 2, b"")),
            ("d.raw", &disk(1, 1, b""), &disk(2, 2, b"")),
            ("e.raw", &disk(1, 1, b"x"), &disk(1, 2, b"y")),
            ("f.raw", b"no PE file", b"no pe file"),
            ("g.root", &pe(1, 1), &pe(1, 2)),
            ("h.unsigned.efi", &pe(1, 1), &pe(1, 2)),
        ]);
        use Verdict::{Different, SameButSignatures};
        assert_eq!(
            found,
            [
                SameButSignatures,
                Different,
                SameButSignatures,
                Different,
                Different,
                Different,
                Different,
                Different
            ]
        );
    }

    #[test]
    fn statements_may_name_other_signed_files_and_nothing_else() {
        let release = |digest: &str, root: &str| {
            format!(
                r#"{{"subject":[{{"name":"p.efi","digest":"{digest}"}},{{"name":"p.root","digest":"{root}"}}]}}"#
            )
        };
        let provenance = |when: &str, source: &str| {
            format!(
                r#"{{"subject":[],"predicate":{{"buildDefinition":"{source}","runDetails":{{"metadata":"{when}"}}}}}}"#
            )
        };
        let same = |name: &str, a: &str, b: &str| verdicts(&[(name, a.as_bytes(), b.as_bytes())])[0];
        use Verdict::{Different, SameButSignatures};
        assert_eq!(same(release::FILE, &release("1", "r"), &release("2", "r")), SameButSignatures);
        assert_eq!(same(release::FILE, &release("1", "r"), &release("1", "s")), Different);
        assert_eq!(same(provenance::FILE, &provenance("1", "s"), &provenance("2", "s")), SameButSignatures);
        assert_eq!(same(provenance::FILE, &provenance("1", "s"), &provenance("1", "t")), Different);
        assert_eq!(same("sbom.json", &release("1", "r"), &release("2", "r")), Different);
    }

    #[test]
    fn a_file_that_one_build_lacks_is_a_difference() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for folder in [&a, &b] {
            fs::create_dir(folder).expect("new");
            fs::write(folder.join("same"), "x").expect("new");
        }
        fs::write(b.join("more"), "x").expect("new");
        let found = folders(&a, &b).expect("readable");
        let verdicts: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.verdict, c.differs())).collect();
        assert_eq!(verdicts, [("more", Verdict::OnlySecond, true), ("same", Verdict::Same, false)]);
    }
}
