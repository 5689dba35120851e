//! Files: bounded reads, whole writes.

use crate::failure::{Failure, Outcome};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A file's bytes; larger than `limit` is refused.
pub fn read(path: &Path, limit: u64) -> Outcome<Vec<u8>> {
    let cannot = |error| Failure::because(format!("cannot read {}", path.display()), &error);
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(limit + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::new(format!(
            "{} is larger than {limit} bytes, so it is not what it should be",
            path.display()
        )));
    }
    Ok(bytes)
}

/// A new file, or the old one replaced whole; only the owner may read it.
pub fn replace(path: &Path, bytes: &[u8]) -> Outcome {
    let cannot = |error| Failure::because(format!("cannot write {}", path.display()), &error);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let work = path.with_file_name(name);
    let written = private(&work, bytes).and_then(|()| fs::rename(&work, path));
    if written.is_err() {
        // What is half-made goes; that it may not be there is fine.
        let _ = fs::remove_file(&work);
    }
    written.map_err(cannot)
}

/// A new file; an existing one is never touched.
pub fn create(path: &Path, bytes: &[u8]) -> Outcome {
    if path.exists() {
        return Err(Failure::new(format!("{} exists already", path.display()))
            .hint("name another file, or remove it"));
    }
    replace(path, bytes)
}

fn private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_bounded_private_and_whole() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("pins.json");
        replace(&path, b"one").expect("written");
        replace(&path, b"two").expect("replaced");
        assert_eq!(read(&path, 3).expect("read"), b"two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(read(&path, 2).expect_err("too large").to_string().contains("larger than 2 bytes"));
        assert!(create(&path, b"x").expect_err("there").to_string().contains("exists already"));
        let nowhere = dir.path().join("no/pins.json");
        assert!(replace(&nowhere, b"x").expect_err("no folder").to_string().contains("caused by: "));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
