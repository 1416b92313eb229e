//! Files that are ours alone: whoever else could have written one could take over every guest restored from it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::TemplateError;

/// Bits that let others read or write.
const OTHERS: u32 = 0o077;

/// Opens a plain file of ours for reading.
pub(super) fn open(path: &Path) -> Result<File, TemplateError> {
    let mut options = OpenOptions::new();
    // Neither follows a link nor waits for a pipe's other end.
    let file = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(at(path))?;
    check(path, &file.metadata().map_err(at(path))?)?;
    Ok(file)
}

/// Whether what has been opened at `path` is a plain file of ours.
pub(super) fn check(path: &Path, meta: &Metadata) -> Result<(), TemplateError> {
    let reason = if !meta.is_file() {
        Some("it is not a plain file")
    } else if meta.nlink() != 1 {
        Some("it has other names")
    } else {
        not_ours(meta)
    };
    refuse(path, reason)
}

/// Whether what is at `path` is a directory of ours.
pub(super) fn check_directory(path: &Path) -> Result<(), TemplateError> {
    let meta = fs::symlink_metadata(path).map_err(at(path))?;
    let reason = if meta.is_dir() {
        not_ours(&meta)
    } else {
        Some("it is not a directory")
    };
    refuse(path, reason)
}

/// Names the file in an error.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> TemplateError {
    move |source| TemplateError::File {
        path: path.to_owned(),
        source,
    }
}

fn not_ours(meta: &Metadata) -> Option<&'static str> {
    if meta.uid() != rustix::process::geteuid().as_raw() {
        Some("it belongs to somebody else")
    } else if meta.mode() & OTHERS != 0 {
        Some("others may use it")
    } else {
        None
    }
}

fn refuse(path: &Path, reason: Option<&'static str>) -> Result<(), TemplateError> {
    match reason {
        None => Ok(()),
        Some(reason) => Err(TemplateError::Foreign {
            path: path.to_owned(),
            reason,
        }),
    }
}
