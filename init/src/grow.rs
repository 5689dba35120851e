//! Fits the partition table to the disk: an image that was written to a larger disk ends before the disk does. Only stage 1
//! does it, before anything is mounted, and the machine reboots afterwards: the firmware measures the table, and what it
//! measured must be what is there.

use crate::disk::{self, DiskError};
use crate::log;
use pillar_slot::FitError;
use rustix::fs::fdatasync;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Why the table was left as it is.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// The disk could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The table.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// It could not be written.
    #[error("cannot write the partition table of {0}")]
    Write(String, #[source] io::Error),
    /// It was written and is still not right.
    #[error("the partition table of {0} does not stay as it was written")]
    Forgotten(String),
}

/// Fits the table; true when it was changed and the machine has to start again.
pub fn fit(name: &str) -> Result<bool, GrowError> {
    let Some(fit) = disk::fit(name)? else { return Ok(false) };
    log::notice(&format!(
        "disk {name}: partition table fitted to the disk, state partition from {} to {} MiB",
        fit.state_bytes_before >> 20,
        fit.state_bytes >> 20
    ));
    let write = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(format!("/dev/{name}"))?;
        for write in &fit.writes {
            file.write_all_at(&write.bytes, write.offset)?;
            fdatasync(&file)?;
        }
        Ok(())
    };
    write().map_err(|error| GrowError::Write(name.to_owned(), error))?;
    match disk::fit(name)? {
        None => Ok(true),
        Some(_) => Err(GrowError::Forgotten(name.to_owned())),
    }
}
