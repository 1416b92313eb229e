//! Who a jailed process is: one of a range of user numbers, and nobody else is the same one at the same time.
//!
//! A number is taken by locking the byte at its place in a file. The kernel gives it back when the last process
//! that has the file open has ended, however it ended: there is nothing to clean up.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// The first number. From here on, up to 2^31, nobody else's convention gives out user numbers: neither
/// distributions, nor /etc/subuid, nor systemd, whose own ends just before.
pub const FIRST: u32 = 0x7000_0000;
/// How many there are: more than a host has VMs.
pub const COUNT: u32 = 0x1_0000;

/// A user number that is taken while this, or a copy of its descriptor, is open.
#[derive(Debug)]
pub struct User {
    number: u32,
    _lock: File,
}

impl User {
    /// Takes a number that is free, with the help of `file`, which is made if it is not there. The search begins
    /// at a place that differs between processes, so that it rarely meets a taken one.
    pub fn take(file: &Path) -> io::Result<Self> {
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(file)?;
        let start = std::process::id() % COUNT;
        for place in (start..COUNT).chain(0..start) {
            match fcntl(&lock, FcntlArg::F_OFD_SETLK(&byte(place))) {
                Ok(_) => {
                    return Ok(Self {
                        number: FIRST + place,
                        _lock: lock,
                    });
                }
                Err(Errno::EAGAIN | Errno::EACCES) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("every user number is taken"))
    }

    /// The number, for user and group.
    pub fn number(&self) -> u32 {
        self.number
    }
}

/// An exclusive lock of one byte.
fn byte(place: u32) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: place.into(),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_belongs_to_one_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users");
        let (one, other) = (User::take(&file).unwrap(), User::take(&file).unwrap());
        assert_ne!(one.number(), other.number());
        assert!((FIRST..FIRST + COUNT).contains(&one.number()));
        let freed = one.number();
        drop(one);
        assert_eq!(User::take(&file).unwrap().number(), freed);
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users");
        std::os::unix::fs::symlink("/nonexistent/target", &file).unwrap();
        assert!(User::take(&file).is_err());
    }
}
