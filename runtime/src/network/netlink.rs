//! A netlink socket in a network namespace, driven by a task.

use std::os::fd::AsFd;

use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::{Netns, NetworkError};

/// Talks to the kernel about one network namespace. The task that drives it ends with this.
#[derive(Debug)]
pub struct Netlink {
    pub(super) handle: Handle,
    driver: JoinHandle<()>,
}

impl Netns {
    /// Opens a netlink socket in the namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the socket not be had.
    pub fn netlink(&self) -> Result<Netlink, NetworkError> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle) = self.run(|| {
            let _context = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
            Ok((connection, handle))
        })?;
        Ok(Netlink {
            handle,
            driver: tokio::spawn(connection),
        })
    }

    /// Another handle of the same namespace.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn try_clone(&self) -> Result<Self, NetworkError> {
        Ok(Self(
            self.as_fd().try_clone_to_owned().map_err(NetworkError::Enter)?,
        ))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
