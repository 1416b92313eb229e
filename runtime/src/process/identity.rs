//! Who a process is, across reuse of its number.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process's number and the moment it started. Together they name one process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Number in the host's PID namespace.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_time: u64,
}

/// What `/proc/<pid>/stat` says that matters here.
struct Stat {
    state: u8,
    parent: u32,
    start_time: u64,
}

impl ProcessIdentity {
    /// The identity of the process that has this number now.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            start_time: stat(pid)?.start_time,
        })
    }

    /// Whether that very process still runs. A zombie does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && stat.state != b'Z')
    }

    /// A pidfd of that very process, or `None` if it has gone.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Checked after the open: from here on the number cannot come to mean another process.
        Ok(self.is_alive().then_some(fd))
    }
}

/// The parent of a process.
pub(super) fn parent_of(pid: u32) -> io::Result<u32> {
    Ok(stat(pid)?.parent)
}

/// The kernel's random name for this boot; a process identity from another boot names nothing.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
}

/// The second field is the command's name, which may itself hold spaces and parentheses.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(text.get(after_name..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    // `parent` was field 4; the start time is field 22.
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        start_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_and_has_a_pidfd() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(me.pidfd().unwrap().is_some());
    }

    #[test]
    fn a_reused_number_is_not_the_same_process() {
        let mut other = ProcessIdentity::of(std::process::id()).unwrap();
        other.start_time += 1;
        assert!(!other.is_alive());
        assert!(other.pidfd().unwrap().is_none());
    }

    #[test]
    fn a_command_name_may_hold_parentheses_and_spaces() {
        let line = b"42 (a) b (c)) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_time), (b'S', 7, 98765));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [&b""[..], b"42", b"42 (x", b"42 (x) S", b"42 (x) S y 1"] {
            assert!(parse_stat(line).is_none());
        }
    }
}
