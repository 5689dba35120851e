//! Writes a [`Tree`] as an archive: tar (what mkfs.erofs reads) or cpio "newc" (what the kernel unpacks as initrd;
//! Documentation/driver-api/early-userspace/buffer-format.rst). Same tree, same bytes.

use crate::tree::{Content, Entry, Refusal, Source, Tree, refuse_file};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why an archive was not written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file that belongs into it cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Files that a sealed image must not have.
    #[error("the image would hold what a sealed image must not:\n{}", .0.iter().map(|r| format!("  {r}")).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Refusal>),
    /// cpio's fields are 32 bits wide.
    #[error("{0} is too large for an initrd")]
    TooLarge(String),
}

/// The bytes of a file.
pub fn read(source: &Source) -> Result<Vec<u8>, ArchiveError> {
    match source {
        Source::Host(path) => {
            fs::read(path).map_err(|source| ArchiveError::Read { path: path.clone(), source })
        }
        Source::Bytes(bytes) => Ok(bytes.clone()),
    }
}

/// Writes a tree as tar with owner root and the given time everywhere, and refuses what must not be sealed by
/// looking at the very bytes that it writes.
pub fn write_tar(tree: &Tree, epoch: u64, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::Write { path: path.to_owned(), source };
    let mut refusals = crate::tree::refuse_links(tree);
    let mut builder = tar::Builder::new(io::BufWriter::new(File::create(path).map_err(failed)?));
    let mut root = header(tar::EntryType::Directory, 0o755, epoch, 0);
    builder.append_data(&mut root, "./", io::empty()).map_err(failed)?;
    for (name, entry) in tree.iter() {
        let inside = &name[1..];
        match &entry.content {
            Content::Directory => {
                let mut header = header(tar::EntryType::Directory, entry.mode, epoch, 0);
                builder.append_data(&mut header, format!("{inside}/"), io::empty()).map_err(failed)?;
            }
            Content::Symlink(target) => {
                let mut header = header(tar::EntryType::Symlink, 0o777, epoch, 0);
                builder.append_link(&mut header, inside, target).map_err(failed)?;
            }
            Content::File(source) => {
                let bytes = read(source)?;
                refusals.extend(refuse_file(name, entry.mode, &bytes));
                let mut header = header(tar::EntryType::Regular, entry.mode, epoch, bytes.len() as u64);
                builder.append_data(&mut header, inside, bytes.as_slice()).map_err(failed)?;
            }
        }
    }
    builder.into_inner().and_then(|mut w| w.flush()).map_err(failed)?;
    if refusals.is_empty() { Ok(()) } else { Err(ArchiveError::Refused(refusals)) }
}

fn header(kind: tar::EntryType, mode: u32, epoch: u64, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_size(size);
    header
}

/// A tree as cpio "newc"; time 0 everywhere, since the kernel keeps none of it that matters.
pub fn cpio(tree: &Tree) -> Result<Vec<u8>, ArchiveError> {
    let mut out = Vec::new();
    for (number, (path, entry)) in tree.iter().enumerate() {
        let inode = u32::try_from(number + 1).map_err(|_| ArchiveError::TooLarge(path.to_owned()))?;
        let data = match &entry.content {
            Content::Directory => Vec::new(),
            Content::Symlink(target) => target.clone().into_bytes(),
            Content::File(source) => read(source)?,
        };
        cpio_record(&mut out, &path[1..], inode, cpio_mode(entry), &data)?;
    }
    cpio_record(&mut out, "TRAILER!!!", 0, 0, &[])?;
    // The firmware's and the stub's copies stay aligned for whatever follows.
    out.resize(out.len().next_multiple_of(512), 0);
    Ok(out)
}

fn cpio_mode(entry: &Entry) -> u32 {
    let kind = match entry.content {
        Content::Directory => 0o040_000,
        Content::Symlink(_) => 0o120_000,
        Content::File(_) => 0o100_000,
    };
    kind | entry.mode
}

fn cpio_record(
    out: &mut Vec<u8>,
    name: &str,
    inode: u32,
    mode: u32,
    data: &[u8],
) -> Result<(), ArchiveError> {
    let size = u32::try_from(data.len()).map_err(|_| ArchiveError::TooLarge(name.to_owned()))?;
    let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    let name_size = u32::try_from(name.len() + 1).map_err(|_| ArchiveError::TooLarge(name.to_owned()))?;
    out.extend_from_slice(b"070701");
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.program("/init", Source::Bytes(b"\x7fELF".to_vec())).expect("new");
        tree.text("/etc/initrd-release", "ID=pillar\n").expect("new");
        tree.symlink("/lib", "usr/lib").expect("new");
        tree.directory("/usr/lib").expect("new");
        tree
    }

    #[test]
    fn cpio_is_what_the_kernel_documents() {
        let bytes = cpio(&tree()).expect("small");
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(bytes.len() % 512, 0);
        let text = String::from_utf8_lossy(&bytes);
        let order: Vec<_> = ["etc\0", "etc/initrd-release\0", "init\0", "lib\0", "usr\0", "TRAILER!!!\0"]
            .iter()
            .map(|name| text.find(name).expect("is there"))
            .collect();
        assert!(order.is_sorted());
        // ino 2, regular 0644, root:root, one link, no time, ten bytes.
        assert!(
            text.contains("07070100000002000081A40000000000000000000000010000000000000000A"[..60].trim_end())
        );
    }

    #[test]
    fn a_tar_is_the_same_twice_and_normalised() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write_tar(&tree(), 1_700_000_000, &a).expect("writes");
        write_tar(&tree(), 1_700_000_000, &b).expect("writes");
        assert_eq!(fs::read(&a).expect("there"), fs::read(&b).expect("there"));
        let mut archive = tar::Archive::new(File::open(&a).expect("there"));
        for entry in archive.entries().expect("tar") {
            let header = entry.expect("entry").header().clone();
            assert_eq!((header.uid().ok(), header.gid().ok()), (Some(0), Some(0)));
            assert_eq!(header.mtime().ok(), Some(1_700_000_000));
        }
    }

    #[test]
    fn what_must_not_be_sealed_is_refused_by_name_and_reason() {
        let mut tree = tree();
        tree.program("/usr/bin/bash", Source::Bytes(b"\x7fELF".to_vec())).expect("new");
        let dir = tempfile::tempdir().expect("temporary directory");
        let error = write_tar(&tree, 0, &dir.path().join("t")).expect_err("a shell");
        assert!(error.to_string().contains("/usr/bin/bash: a shell"), "{error}");
    }

    #[test]
    fn an_unreadable_source_is_named() {
        let mut tree = Tree::default();
        tree.file("/a", Source::Host("/nonexistent/a".into())).expect("new");
        assert!(cpio(&tree).expect_err("missing").to_string().contains("/nonexistent/a"));
    }
}
