//! The sandbox's network namespace on the host, and the tap device in it that is the VM's network card.

mod netlink;
mod scan;
mod tap;
mod wire;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use displaydoc::Display;
use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

pub use netlink::Netlink;
pub use scan::Interface;
pub use tap::Tap;

/// A network namespace, held by a descriptor: one that we made is gone once this and every process in it is.
#[derive(Debug)]
pub struct Netns(OwnedFd);

/// Why something about the network failed.
#[derive(Debug, Display, Error)]
pub enum NetworkError {
    /// cannot make a network namespace: {0}
    Create(#[source] io::Error),
    /// cannot open network namespace {path}: {source}
    Open {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot enter the network namespace: {0}
    Enter(#[source] io::Error),
    /// cannot set the loopback interface up: {0}
    Loopback(#[source] io::Error),
    /// cannot make a tap device: {0}
    Tap(#[source] io::Error),
    /// the network namespace is another VM's already; containers that are to share it have to name the container whose it is, or its pod
    Taken,
    /// cannot open a netlink socket: {0}
    Socket(#[source] io::Error),
    /// cannot list the {what} of the network namespace: {source}
    Ask {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// there is no interface {0} in the network namespace
    Missing(String),
    /// cannot set the MTU of the tap device: {0}
    Mtu(#[source] rtnetlink::Error),
    /// cannot redirect traffic to and from the tap device: {0}
    Wire(#[source] rtnetlink::Error),
}

impl Netns {
    /// Makes a namespace in which loopback is up and nothing else is.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create() -> Result<Self, NetworkError> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Create(errno.into()))?;
            let netns = File::open("/proc/thread-self/ns/net").map_err(NetworkError::Create)?;
            tap::set_up("lo").map_err(NetworkError::Loopback)?;
            Ok(Self(netns.into()))
        })
    }

    /// Opens the namespace that `path` is bound to.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Open {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let netns = Self(file.into());
        // Anything else than a network namespace is found out here, before something is built on it.
        netns.run(|| Ok(())).map_err(|error| match error {
            NetworkError::Enter(source) => failed(source),
            other => other,
        })?;
        Ok(netns)
    }

    /// Runs `work` on a thread that is in the namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `work` returns.
    pub fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<T, NetworkError> {
        on_a_thread(|| {
            setns(self, CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Enter(errno.into()))?;
            work()
        })
    }

    /// Makes the VM's tap device in the namespace; it is gone once the last descriptor of it is closed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn make_tap(&self) -> Result<Tap, NetworkError> {
        self.run(|| {
            Tap::create().map_err(|error| match error.kind() {
                io::ErrorKind::ResourceBusy => NetworkError::Taken,
                _ => NetworkError::Tap(error),
            })
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `work` on a thread of its own, which ends with it: namespaces are a thread's.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests;
