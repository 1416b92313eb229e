//! The sandbox's network namespace on the host, and the tap device in it that is the VM's network card.

mod tap;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use displaydoc::Display;
use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

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
        self.run(|| Tap::create().map_err(NetworkError::Tap))
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
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;

    fn interfaces(netns: &Netns) -> Vec<String> {
        let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev").map_err(NetworkError::Enter));
        let mut names: Vec<_> = text
            .unwrap()
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_namespace_has_loopback_that_works() {
        let netns = Netns::create().unwrap();
        assert_eq!(interfaces(&netns), ["lo"]);
        netns
            .run(|| {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(NetworkError::Enter)?;
                let address = listener.local_addr().map_err(NetworkError::Enter)?;
                std::net::TcpStream::connect(address)
                    .map(drop)
                    .map_err(NetworkError::Enter)
            })
            .unwrap();
    }

    #[test]
    fn a_tap_lives_as_long_as_its_descriptor() {
        let netns = Netns::create().unwrap();
        let first = netns.make_tap().unwrap();
        let second = netns.make_tap().unwrap();
        assert_ne!(first.name(), second.name());
        assert_eq!(interfaces(&netns), [first.name(), second.name(), "lo"]);
        let left = second.name().to_owned();
        drop(first);
        assert_eq!(interfaces(&netns), [left.as_str(), "lo"]);
    }

    #[test]
    fn only_network_namespaces_are_opened() {
        let netns = Netns::create().unwrap();
        let path = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
        Netns::open(Path::new(&path)).unwrap();
        for path in ["/proc/self/ns/uts", "/dev/null", "/no/such"] {
            let error = Netns::open(Path::new(path)).unwrap_err();
            assert!(matches!(error, NetworkError::Open { .. }), "{path}: {error}");
        }
    }
}
