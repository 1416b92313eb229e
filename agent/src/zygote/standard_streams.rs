//! The standard streams of a process of a container.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::sys::stat::{fstat, major, minor};

use crate::failure::Failure;
use crate::sys;

/// Number of the null device.
const NULL: (u64, u64) = (1, 3);

/// Makes `streams` (input, output and errors, or one terminal) this process's own, in a session of its own.
///
/// # Errors
/// `Pty`, `Other`.
pub fn assume(streams: &[OwnedFd]) -> Result<(), Failure> {
    match streams {
        [terminal] => {
            sys::ioctl::set_controlling_terminal(terminal)
                .map_err(|errno| Failure::os(FailureKind::Pty, "set controlling terminal", &errno))?;
            sys::set_stdio([terminal.as_fd(), terminal.as_fd(), terminal.as_fd()])
        }
        [stdin, stdout, stderr] => sys::set_stdio([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
        _ => Err(Errno::EBADF),
    }
    .map_err(|errno| Failure::os(FailureKind::Other, "set standard streams", &errno))
}

/// A stream that is the guest's null device becomes the container's. Call it in the container.
///
/// # Errors
/// `Other` if the container has no such device.
pub fn reopen_null() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::os(FailureKind::Other, "open /dev/null", &error);
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let is_null = streams.map(|stream| {
        fstat(stream).is_ok_and(|status| {
            status.st_mode & libc::S_IFMT == libc::S_IFCHR
                && (major(status.st_rdev), minor(status.st_rdev)) == NULL
        })
    });
    if !is_null.contains(&true) {
        return Ok(());
    }
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    let mut index = 0;
    let reopened = streams.map(|stream| {
        index += 1;
        if is_null[index - 1] { null.as_fd() } else { stream }
    });
    sys::set_stdio(reopened).map_err(|errno| failed(errno.into()))
}
