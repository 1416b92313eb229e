//! Opening what is to be a disk.
//!
//! What a source is, is asked of the file that was opened and of nothing else: never of the path, the file
//! system it lies on, or the options around it. A directory is no disk (CVE-2026-24054).

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::RootfsError;
use super::on_disks::DiskSource;

/// An opened disk.
#[derive(Debug)]
pub struct DiskFile {
    /// For reading, and for writing unless it is only read.
    pub file: OwnedFd,
    /// A block device; otherwise a regular file.
    pub is_device: bool,
    /// Size of a regular file.
    pub bytes: u64,
}

/// Opens a disk's source.
///
/// # Errors
/// It is not there, may not be opened so, or is neither a block device nor a regular file.
pub fn open(source: &DiskSource) -> Result<DiskFile, RootfsError> {
    let failed = |reason: io::Error| RootfsError::Disk {
        path: source.path.clone(),
        source: reason,
    };
    let access = if source.read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    // A FIFO in its place is not waited for, and no terminal becomes ours.
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat2(
        rustix::fs::CWD,
        &source.path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|errno| match errno {
        Errno::ISDIR => failed(no_disk()),
        errno => failed(errno.into()),
    })?;
    let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
    let is_device = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => true,
        FileType::RegularFile => false,
        _ => return Err(failed(no_disk())),
    };
    Ok(DiskFile {
        file,
        is_device,
        // Never negative.
        bytes: stat.st_size.try_into().unwrap_or_default(),
    })
}

fn no_disk() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "is neither a block device nor an image file",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open_at(path: &Path, read_only: bool) -> Result<DiskFile, RootfsError> {
        open(&DiskSource {
            path: path.into(),
            read_only,
        })
    }

    #[test]
    fn only_files_and_block_devices_are_disks() {
        let directory = tempfile::tempdir().unwrap();
        let (file, fifo) = (directory.path().join("file"), directory.path().join("fifo"));
        std::fs::write(&file, "x").unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(!open_at(&file, false).unwrap().is_device);
        for path in [directory.path(), &fifo, Path::new("/dev/null")] {
            for read_only in [true, false] {
                let error = open_at(path, read_only).unwrap_err();
                assert!(error.to_string().contains("neither a block device"), "{error}");
            }
        }
        assert!(open_at(&directory.path().join("absent"), true).is_err());
    }
}
