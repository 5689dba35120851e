//! A number that survives: each visit is on the disk before it is answered. What a workload keeps goes below one of its
//! `writable` directories.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// A file with a number in it.
pub struct Visits {
    folder: PathBuf,
    count: Mutex<u64>,
}

impl Visits {
    /// Goes on from what is in the folder.
    pub fn open(folder: PathBuf) -> Result<Self, String> {
        let path = folder.join("visits");
        let count = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| format!("{} holds no number", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        Ok(Self { folder, count: Mutex::new(count) })
    }

    /// Counts one more. Written beside, synced, renamed, and the name synced: a power cut leaves the old number or the new
    /// one.
    pub fn count(&self) -> io::Result<u64> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let next = count.saturating_add(1);
        let partial = self.folder.join("visits.new");
        let mut file = File::create(&partial)?;
        writeln!(file, "{next}")?;
        file.sync_all()?;
        fs::rename(&partial, self.folder.join("visits"))?;
        File::open(&self.folder)?.sync_all()?;
        *count = next;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_goes_on_after_a_restart() {
        let folder = std::env::temp_dir().join(format!("pillar-hello-visits-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("temporary");
        for expected in [[1, 2], [3, 4]] {
            let visits = Visits::open(folder.clone()).expect("a number");
            assert_eq!([visits.count().expect("counted"), visits.count().expect("counted")], expected);
        }
        fs::write(folder.join("visits"), "many").expect("written");
        assert!(Visits::open(folder.clone()).is_err_and(|error| error.contains("holds no number")));
        fs::remove_dir_all(folder).expect("ours");
    }
}
