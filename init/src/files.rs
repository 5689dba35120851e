//! Small files: reading with a limit, writing whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::Path;

/// Reads a text file of at most `limit` bytes.
pub fn read_text(path: &Path, limit: usize) -> io::Result<String> {
    String::from_utf8(read_bytes(path, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "no UTF-8"))
}

/// Reads a file of at most `limit` bytes.
pub fn read_bytes(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Writes to a kernel file (sysfs, procfs, cgroup) in one call.
pub fn set(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Replaces a file whole, readable by this group alone.
pub fn replace(path: &Path, group: u32, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
    fchown(&file, None, Some(group))?;
    file.write_all(bytes)?;
    fs::rename(new, path)
}
