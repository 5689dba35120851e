//! Disks: sparse copies, so that the image itself is never written.

use crate::error::{Error, Result, file_error};
use pillar_layout::gpt::TYPE_ESP;
use pillar_slot::{Gpt, find_by_type};
use rustix::fs::{SeekFrom, fstatvfs, ftruncate, seek};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const MIB: u64 = 1024 * 1024;
/// Room that is left alone for logs and the TPM.
const SPARE_BYTES: u64 = 64 * MIB;
const BUFFER_BYTES: usize = 1024 * 1024;

/// Copies `from` to `to` (replaced whole), holes staying holes; refuses beforehand when there is no room.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let source = File::open(from).map_err(file_error("open", from))?;
    let metadata = source.metadata().map_err(file_error("read", from))?;
    need_room(folder, metadata.blocks() * 512)?;
    let work = to.with_extension("tmp");
    let result = copy_data(&source, metadata.len(), from, &work)
        .and_then(|()| fs::rename(&work, to).map_err(file_error("rename", &work)));
    if result.is_err() {
        // The error above is the one to tell.
        let _ = fs::remove_file(&work);
    }
    result
}

fn need_room(folder: &Path, need: u64) -> Result<()> {
    let dir = File::open(folder).map_err(file_error("open", folder))?;
    let room = fstatvfs(&dir).map_err(|e| file_error("look at the file system of", folder)(e.into()))?;
    let free = room.f_bavail * room.f_frsize;
    if free < need + SPARE_BYTES {
        return Err(Error::DiskFull {
            path: folder.to_owned(),
            need_mib: (need + SPARE_BYTES) / MIB,
            free_mib: free / MIB,
        });
    }
    Ok(())
}

fn copy_data(mut source: &File, length: u64, from: &Path, to: &Path) -> Result<()> {
    let mut target = File::create(to).map_err(file_error("create", to))?;
    // A clone costs nothing where the file system can do it.
    if rustix::fs::ioctl_ficlone(&target, source).is_ok() {
        return Ok(());
    }
    ftruncate(&target, length).map_err(|e| file_error("resize", to)(e.into()))?;
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut at = 0;
    while let Ok(begin) = seek(source, SeekFrom::Data(at)) {
        let end = seek(source, SeekFrom::Hole(begin)).map_err(|e| file_error("read", from)(e.into()))?;
        source.seek(std::io::SeekFrom::Start(begin)).map_err(file_error("read", from))?;
        target.seek(std::io::SeekFrom::Start(begin)).map_err(file_error("write", to))?;
        let mut left = end - begin;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            source.read_exact(&mut buffer[..piece]).map_err(file_error("read", from))?;
            target.write_all(&buffer[..piece]).map_err(file_error("write", to))?;
            left -= piece as u64;
        }
        at = end;
    }
    Ok(())
}

/// Copies the EFI system partition of an image into a file of its own.
pub(crate) fn extract_esp(image: &Path, sector_bytes: u32, to: &Path) -> Result<()> {
    let file = File::open(image).map_err(file_error("open", image))?;
    let no_esp = |reason: String| Error::NoEsp { path: image.to_owned(), reason };
    let sectors = file.metadata().map_err(file_error("read", image))?.len() / u64::from(sector_bytes);
    let table = Gpt::read(sector_bytes, sectors, |offset, bytes| {
        let mut buffer = vec![0; bytes];
        file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    })
    .map_err(|error| no_esp(error.to_string()))?;
    let esp = find_by_type(&table, TYPE_ESP).ok_or_else(|| no_esp("no such type in its table".to_owned()))?;
    let bytes = (esp.last_lba - esp.first_lba + 1) * u64::from(sector_bytes);
    // Under another name first: half of it must not be taken for all of it by the next start.
    let work = to.with_extension("tmp");
    copy_range(&file, esp.first_lba * u64::from(sector_bytes), bytes, &work)
        .and_then(|()| fs::rename(&work, to))
        .map_err(file_error("write", to))
}

/// Copies a part of a file to a new one, in which zeros are holes.
fn copy_range(from: &File, start: u64, bytes: u64, to: &Path) -> std::io::Result<()> {
    let target = File::create(to)?;
    target.set_len(bytes)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    while at < bytes {
        let piece = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        from.read_exact_at(&mut buffer[..piece], start + at)?;
        if buffer[..piece].iter().any(|byte| *byte != 0) {
            target.write_all_at(&buffer[..piece], at)?;
        }
        at += piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_stay_holes_and_data_stays_data() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut file = File::create(&from).expect("created");
        file.set_len(8 * MIB).expect("resized");
        file.seek(std::io::SeekFrom::Start(5 * MIB)).expect("sought");
        file.write_all(b"data in the middle").expect("written");
        drop(file);
        copy_sparse(&from, &to).expect("copied");
        assert_eq!(fs::read(&from).expect("read"), fs::read(&to).expect("read"));
        assert!(fs::metadata(&to).expect("there").blocks() * 512 < MIB, "the copy is sparse");
    }

    #[test]
    fn a_part_of_a_file_is_copied_with_its_holes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let bytes: Vec<u8> = (0..5 * BUFFER_BYTES).map(|at| u8::from(at / BUFFER_BYTES == 3)).collect();
        fs::write(&from, &bytes).expect("written");
        copy_range(&File::open(&from).expect("there"), 4096, 4 * MIB + 512, &to).expect("copied");
        assert_eq!(fs::read(&to).expect("read"), bytes[4096..4096 + 4 * BUFFER_BYTES + 512]);
        assert!(fs::metadata(&to).expect("there").blocks() * 512 <= 2 * MIB, "zeros are holes");
    }

    #[test]
    fn an_image_without_a_table_has_nothing_to_start_from() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let image = dir.path().join("image");
        fs::write(&image, vec![0; 1 << 20]).expect("written");
        let error = extract_esp(&image, 512, &dir.path().join("boot.raw")).expect_err("zeros").to_string();
        assert!(error.contains("has no EFI system partition to start from: "), "{error}");
        assert!(!dir.path().join("boot.raw").exists());
    }

    #[test]
    fn no_room_is_said_before_anything_is_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let error = need_room(dir.path(), u64::MAX / 2).expect_err("no disk is that large").to_string();
        assert!(error.starts_with("the disk is full"), "{error}");
    }
}
