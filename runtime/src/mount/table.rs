//! The mount table, as far as clean-up needs it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::MountError;

/// The mount points at `root` and below it, in the order in which they were made.
///
/// # Errors
/// /proc/thread-self/mountinfo cannot be read.
pub fn mounts_below(root: &Path) -> Result<Vec<PathBuf>, MountError> {
    let table = std::fs::read("/proc/thread-self/mountinfo").map_err(MountError::Table)?;
    Ok(mount_points(&table)
        .filter(|point| point.starts_with(root))
        .collect())
}

/// Field of a line of mountinfo that holds the mount point (proc(5)).
const MOUNT_POINT_FIELD: usize = 4;

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(MOUNT_POINT_FIELD))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Undoes the kernel's octal escapes of blanks, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(parse_octal);
        match octal {
            Some(value) => {
                text.push(value);
                rest = &tail[3..];
            }
            None => {
                text.push(byte);
                rest = tail;
            }
        }
    }
    text
}

fn parse_octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_and_unescaped() {
        let table = b"22 1 0:1 / / rw - ext4 /dev/vda rw\n\
            23 22 0:2 / /run/a\\040b\\134c rw shared:1 - tmpfs none rw\n\
            24 22 0:3 / /odd\\9 rw - tmpfs none rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(
            points,
            [Path::new("/"), Path::new("/run/a b\\c"), Path::new("/odd\\9")]
        );
    }

    #[test]
    fn this_process_has_mounts() {
        assert!(
            mounts_below(Path::new("/"))
                .unwrap()
                .contains(&PathBuf::from("/"))
        );
    }
}
