//! Descriptors whose readiness the event loop watches.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An owner of a descriptor, as tokio wants it.
#[derive(Debug)]
pub struct Owner<T>(pub T);

impl<T: AsFd> AsRawFd for Owner<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Watches the descriptor of `owner` for as long as the result lives.
///
/// # Errors
/// As `epoll_ctl(2)`: regular files cannot be watched.
pub fn watch<T: AsFd + 'static>(owner: T, interest: Interest) -> io::Result<AsyncFd<Owner<T>>> {
    // SAFETY: the result owns `owner` and gives it out by shared reference only, so the descriptor stays
    // open and the same until it is deregistered.
    Ok(unsafe { AsyncFd::register_with_interest(Owner(owner), interest) }?)
}
