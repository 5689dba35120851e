//! The image that is to be written: a disk image as `image/build` makes it.

use crate::error::{Error, file};
use crate::plan::{self, Chunk, Range, TABLE_ROOM};
use pillar_slot::{Fit, FitError, Gpt};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Sector sizes that images are made for, in the order in which they are tried.
const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// An opened image whose partition table is whole.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    bytes: u64,
    sector: u32,
    gpt: Gpt,
    known: Option<Vec<Range>>,
}

impl Image {
    /// Opens an image of which is known what is not empty: its file system may be one that keeps no holes.
    pub fn open_with_data(path: &Path, data: Vec<Range>) -> Result<Image, Error> {
        Ok(Image { known: Some(data), ..Self::open(path)? })
    }

    /// Opens an image and reads its table.
    pub fn open(path: &Path) -> Result<Image, Error> {
        let file = File::open(path).map_err(file("open", path))?;
        let metadata = file.metadata().map_err(self::file("read", path))?;
        if !metadata.is_file() {
            return Err(Error::NoImage {
                path: path.to_owned(),
                problem: "it is no regular file".to_owned(),
            });
        }
        let bytes = metadata.len();
        let mut first_problem = None;
        for sector in SECTOR_SIZES {
            match Gpt::read(sector, bytes / u64::from(sector), |offset, len| read(&file, offset, len)) {
                Ok(gpt) => return Self::checked(path, file, bytes, sector, gpt),
                Err(problem) => {
                    first_problem.get_or_insert(problem);
                }
            }
        }
        let problem = first_problem.map(|problem| problem.to_string()).unwrap_or_default();
        Err(Error::NoImage { path: path.to_owned(), problem })
    }

    fn checked(path: &Path, file: File, bytes: u64, sector: u32, gpt: Gpt) -> Result<Image, Error> {
        let damaged = gpt.warning();
        let image = Image { path: path.to_owned(), file, bytes, sector, gpt, known: None };
        let refused = |problem: String| Error::NoImage { path: path.to_owned(), problem };
        if let Some(damage) = damaged {
            return Err(refused(damage));
        }
        if image.gpt.partitions.iter().any(|p| p.first_lba * u64::from(sector) < TABLE_ROOM) {
            return Err(refused("a partition begins within the first mebibyte".to_owned()));
        }
        match image.lay(bytes) {
            Ok(_) => Ok(image),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the sectors that it is made for.
    #[must_use]
    pub fn sector(&self) -> u32 {
        self.sector
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether this is the same file, whatever its name.
    pub fn is(&self, other: &File) -> io::Result<bool> {
        let (ours, theirs) = (self.file.metadata()?, other.metadata()?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }

    /// The table as it will be on a disk of `bytes` bytes.
    pub fn lay(&self, bytes: u64) -> Result<Fit, FitError> {
        pillar_slot::lay(self.sector, bytes / u64::from(self.sector), |offset, len| {
            read(&self.file, offset, len)
        })
    }

    /// Its partitions in chunks, holes marked.
    pub fn chunks(&self) -> Result<Vec<Chunk>, Error> {
        let end = self.gpt.partitions.iter().map(|p| p.last_lba + 1).max().unwrap_or_default();
        let end = (end * u64::from(self.sector)).min(self.bytes);
        Ok(plan::chunks(TABLE_ROOM, end, &self.data()?))
    }

    /// What its file system keeps of it.
    fn data(&self) -> Result<Vec<Range>, Error> {
        if let Some(known) = &self.known {
            return Ok(known.clone());
        }
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < self.bytes {
            let begin = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(begin) => begin,
                // Nothing but a hole from here on.
                Err(Errno::NXIO) => break,
                // A file system that knows no holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    return Ok(vec![Range { offset: 0, len: self.bytes }]);
                }
                Err(errno) => return Err(file("read", &self.path)(errno.into())),
            };
            let end =
                seek(&self.file, SeekFrom::Hole(begin)).map_err(|e| file("read", &self.path)(e.into()))?;
            ranges.push(Range { offset: begin, len: end - begin });
            at = end;
        }
        Ok(ranges)
    }

    /// Reads a chunk.
    pub(crate) fn read(&self, chunk: &Chunk, buffer: &mut [u8]) -> Result<(), Error> {
        if chunk.hole {
            buffer.fill(0);
            return Ok(());
        }
        self.file.read_exact_at(buffer, chunk.offset).map_err(file("read", &self.path))
    }
}

fn read(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}
