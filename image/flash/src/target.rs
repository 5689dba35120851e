//! The disk or file that is written: opened for us alone, past the page cache, after everything that speaks against it
//! was looked at.

use crate::device::{Device, Host};
use crate::error::{Error, file};
use crate::image::Image;
use crate::plan::{CHUNK, Range};
use crate::refuse::{Refusal, judge};
use pillar_slot::Gpt;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Memory and disk addresses of direct I/O are multiples of this: the largest sector that we serve.
const DIRECT_ALIGNMENT: usize = 4096;

/// A disk or file that may be overwritten, opened for us alone for as long as this lives.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: File,
    /// A regular file through the page cache, for what is smaller than the sectors below its file system may be.
    cached: Option<File>,
    bytes: u64,
    sector: u32,
    device: Option<Device>,
    sysfs: Option<PathBuf>,
    direct: bool,
}

impl Target {
    /// Opens a disk or file for this image, or says why not. Nothing is written.
    pub fn open(host: &Host, path: &Path, image: &Image) -> Result<Target, Error> {
        let path = &fs::canonicalize(path).map_err(file("find", path))?;
        let metadata = fs::metadata(path).map_err(file("look at", path))?;
        let refused = |source: Refusal| Error::Refused { path: path.clone(), source };
        let device = look(host, path, &metadata, image)?;
        let bytes = device.as_ref().map_or(metadata.len(), |device| device.bytes);
        image.lay(bytes).map_err(|error| refused(error.into()))?;
        let (file, direct) =
            open(path, device.is_some()).map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::BUSY) => refused(Refusal::Busy),
                Some(Errno::ROFS) => refused(Refusal::ReadOnly),
                Some(Errno::NOMEDIUM) => refused(Refusal::NoMedium),
                _ => file("open for writing", path)(error),
            })?;
        // Programs that look at block devices (udev) leave a locked one alone.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(refused(Refusal::Busy)),
            Err(errno) => return Err(self::file("lock", path)(errno.into())),
            Ok(()) => {}
        }
        let cached = match device {
            Some(_) => None,
            None => {
                let options = OpenOptions::new().read(true).write(true).open(path);
                Some(options.map_err(self::file("open for writing", path))?)
            }
        };
        let sysfs = device.as_ref().map(|device| host.sys.join("block").join(&device.name));
        Ok(Target { path: path.clone(), file, cached, bytes, sector: image.sector(), device, sysfs, direct })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The disk; none when it is a regular file.
    #[must_use]
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// What a person types to confirm: the kernel's name of the disk, or the file's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The partition table that is on it now, if it has one.
    #[must_use]
    pub fn table(&self) -> Option<Gpt> {
        let blocks = self.bytes / u64::from(self.sector);
        let read = |offset: u64, len: usize| {
            let mut buffer = Buffer::new(usize::try_from(CHUNK).unwrap_or(usize::MAX));
            let aligned = len.next_multiple_of(self.sector as usize);
            self.read(offset, buffer.first(aligned)).map(|()| buffer.first(len).to_vec())
        };
        Gpt::read(self.sector, blocks, read).ok()
    }

    /// Whether nothing is where partition tables and file systems begin, and where backups of tables are.
    pub fn is_blank(&self) -> io::Result<bool> {
        for range in crate::plan::tables(self.bytes) {
            let len = usize::try_from(range.len).unwrap_or(usize::MAX);
            let mut buffer = Buffer::new(len);
            self.read(range.offset, buffer.first(len))?;
            if buffer.first(len).iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the page cache is passed by.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file_for(offset, buffer.len()).read_exact_at(buffer, offset)
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file_for(offset, bytes.len()).write_all_at(bytes, offset)
    }

    fn file_for(&self, offset: u64, len: usize) -> &File {
        let aligned = offset.is_multiple_of(DIRECT_ALIGNMENT as u64) && len.is_multiple_of(DIRECT_ALIGNMENT);
        self.cached.as_ref().filter(|_| !aligned).unwrap_or(&self.file)
    }

    /// Everything written so far is on stable storage, and what is read from now on comes from there.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.direct {
            rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Makes a range read as zero without sending zeros; false when disk or file system cannot.
    pub(crate) fn clear(&self, range: Range) -> io::Result<bool> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, how, range.offset, range.len) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks the kernel to read the new table. That it cannot now is nothing that concerns the disk.
    pub(crate) fn show_partitions(&self) -> bool {
        self.device.is_some() && pillar_os::reread_partitions(&self.file).is_ok()
    }

    /// The kernel knows the disk no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.sysfs.as_ref().is_some_and(|folder| !folder.exists())
    }
}

/// What it is and whether it may be overwritten: the disk, or none for a regular file.
fn look(host: &Host, path: &Path, metadata: &Metadata, image: &Image) -> Result<Option<Device>, Error> {
    let refused = |source: Refusal| Error::Refused { path: path.to_owned(), source };
    let kind = metadata.file_type();
    if kind.is_file() {
        let same = File::open(path).and_then(|file| image.is(&file)).map_err(file("open", path))?;
        if same {
            return Err(refused(Refusal::Itself));
        }
        return match host.loop_of(path) {
            Some(device) => Err(refused(Refusal::Loop { what: path.display().to_string(), device })),
            None => Ok(None),
        };
    }
    if !kind.is_block_device() {
        return Err(refused(Refusal::Foreign(kind_name(kind))));
    }
    let (name, whole) = host.name_of(metadata.rdev()).map_err(file("look up in sysfs", path))?;
    if let Some(whole) = whole {
        return Err(refused(Refusal::Partition(host.dev.join(whole))));
    }
    let device = host.disk(&name).map_err(file("look up in sysfs", path))?;
    judge(&device).map_err(refused)?;
    if device.sector != image.sector() {
        return Err(refused(Refusal::Sector { disk: device.sector, image: image.sector() }));
    }
    Ok(Some(device))
}

fn kind_name(kind: FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "folder",
        () if kind.is_char_device() => "character device",
        () if kind.is_fifo() => "pipe",
        () if kind.is_socket() => "socket",
        () => "special file",
    }
}

/// With direct I/O when that is possible. `O_EXCL` on a block device: refused while anything has claimed it or one of its
/// partitions, in whatever mount namespace, and nothing can claim it after that.
fn open(path: &Path, is_device: bool) -> io::Result<(File, bool)> {
    let exclusive = if is_device { rustix::fs::OFlags::EXCL.bits() } else { 0 };
    let flags = |direct: bool| {
        let direct = if direct { rustix::fs::OFlags::DIRECT.bits() } else { 0 };
        (exclusive | direct).cast_signed()
    };
    let with = |direct| OpenOptions::new().read(true).write(true).custom_flags(flags(direct)).open(path);
    match with(true) {
        Ok(file) => Ok((file, true)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => with(false).map(|f| (f, false)),
        Err(error) => Err(error),
    }
}

/// Memory for direct I/O.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    begin: usize,
}

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + DIRECT_ALIGNMENT];
        let begin = bytes.as_ptr().align_offset(DIRECT_ALIGNMENT);
        Self { bytes, begin }
    }

    /// The first `len` bytes.
    pub(crate) fn first(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + len]
    }
}
