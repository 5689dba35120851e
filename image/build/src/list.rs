//! Lists a sealed root as it really is: unpacked by erofs-utils, which shares no code with what made the list that it
//! was built from.

use crate::error::{Error, file};
use crate::run::{Scratch, run};
use pillar_tools::Tools;
use serde::Serialize;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Absolute path.
    pub path: String,
    /// "directory", "file", "link" or "other".
    pub kind: &'static str,
    /// Permission bits, octal, as text: "0755", "4755".
    pub mode: String,
    /// Owner, when the listing runs as root; else whoever runs it.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Bytes; 0 for directories.
    pub size: u64,
    /// SHA-256 of a file's content, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where a link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Lists every file of a sealed root, sorted by path.
pub fn list(tools: &Tools, image: &Path) -> Result<Vec<Listed>, Error> {
    let image = fs::canonicalize(image).map_err(file("read", image))?;
    let scratch = Scratch::new(std::env::temp_dir().join(format!("pillar-list-{}", std::process::id())))?;
    let tree = scratch.join("tree");
    let mut command = tools.command("fsck.erofs");
    command.arg(format!("--extract={}", tree.display())).arg("--preserve-perms");
    if rustix::process::geteuid().is_root() {
        command.arg("--preserve-owner");
    }
    run("fsck.erofs", command.arg(&image))?;
    let mut found = Vec::new();
    walk(&tree, "", &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(tree: &Path, below: &str, found: &mut Vec<Listed>) -> Result<(), Error> {
    let at = tree.join(below.trim_start_matches('/'));
    for entry in fs::read_dir(&at).map_err(file("read", &at))? {
        let entry = entry.map_err(file("read", &at))?;
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        let metadata = fs::symlink_metadata(entry.path()).map_err(file("read", &entry.path()))?;
        let kind = metadata.file_type();
        found.push(Listed {
            path: path.clone(),
            kind: match () {
                () if kind.is_dir() => "directory",
                () if kind.is_file() => "file",
                () if kind.is_symlink() => "link",
                () => "other",
            },
            mode: format!("{:04o}", metadata.mode() & 0o7777),
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: if kind.is_dir() { 0 } else { metadata.len() },
            sha256: if kind.is_file() {
                Some(hex::encode(crate::digest::file(&entry.path()).map_err(file("read", &entry.path()))?))
            } else {
                None
            },
            target: fs::read_link(entry.path()).ok().map(|t| t.to_string_lossy().into_owned()),
        });
        if kind.is_dir() {
            walk(tree, &path, found)?;
        }
    }
    Ok(())
}
