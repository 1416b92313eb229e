//! The port that leads to the host.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::{Instant, sleep};

use crate::sys::watch::{Owner, watch};

/// The port's name on the virtio-serial bus.
const NAME: &str = "org.bulkhead.agent";

/// How often a port that nobody is at is looked at. The kernel wakes a reader when the host leaves, not
/// when it comes.
const LOOK: Duration = Duration::from_millis(2);

/// One end of the connection to the host; clones share it.
#[derive(Clone, Debug)]
pub struct Port(Arc<AsyncFd<Owner<OwnedFd>>>);

/// Finds the port's device: `None` while the driver has not announced it.
pub fn find() -> Option<std::path::PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == NAME {
            return Some(std::path::Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

impl Port {
    /// Takes over an open port or socket.
    ///
    /// # Errors
    /// As `fcntl(2)` and `epoll_ctl(2)`.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        Ok(Self(Arc::new(watch(
            fd,
            Interest::READABLE | Interest::WRITABLE,
        )?)))
    }

    /// Waits until the host is back, for `patience` at most. `None`: it is not.
    ///
    /// # Errors
    /// As [`Port::new`].
    pub async fn reopen(&self, patience: Duration) -> io::Result<Option<Self>> {
        let fd = &self.0.get_ref().0;
        if !wait_for_host(fd, patience).await {
            return Ok(None);
        }
        Self::new(fd.try_clone()?).map(Some)
    }
}

/// Waits until the host is at the port, for `patience` at most. Says whether it is.
///
/// To come before [`Port::new`]: a port that nobody is at is hung up, and the event loop holds that of a
/// descriptor for good. It would go on calling the port readable, and reading would never yield.
pub async fn wait_for_host(port: &impl AsFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
        // An interrupted look is a look that saw nothing.
        let seen = poll(&mut fds, PollTimeout::ZERO).unwrap_or(0);
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if seen == 0 || !events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK).await;
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().0.as_fd()
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            // A port whose host has left reads as 0, which is the end.
            match guard.try_io(|fd| Ok(nix::unistd::read(&fd.get_ref().0, room)?)) {
                Ok(outcome) => {
                    buffer.advance(outcome?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(nix::unistd::write(&fd.get_ref().0, bytes)?)) {
                Ok(outcome) => return Poll::Ready(outcome),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
