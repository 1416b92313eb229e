//! Starts and ends anchors: the host's processes that stand for the guest's (crate `bulkhead-anchor`).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use displaydoc::Display;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::process::{ExitWatch, FIRST_FREE_FD, Launch, ProcessError, ProcessHandle, ProcessIdentity};

/// The program's name, beside the shim.
pub const PROGRAM: &str = "bulkhead-anchor";
/// Setting up takes a millisecond; the rest is for a host under load.
const READY_DEADLINE: Duration = Duration::from_secs(10);
/// Between SIGKILL and the end of a process that holds nothing.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// One anchor. Dropping it kills the process.
#[derive(Debug)]
pub struct Anchor {
    process: ProcessHandle,
    /// The anchor ends when this does.
    _lifeline: UnixStream,
}

/// What an anchor is put into.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// A detached mount tree that becomes its root; used up.
    pub root: BorrowedFd<'a>,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
}

/// Why there is no anchor.
#[derive(Debug, Display, Error)]
pub enum AnchorError {
    /// anchor: {0}
    Process(#[from] ProcessError),
    /// anchor: socket: {0}
    Socket(#[source] io::Error),
    /// anchor: cannot {action}: {source}
    SetUp {
        /// What it was doing.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// anchor: not set up within {READY_DEADLINE:?}
    Slow,
    /// anchor: did not end within {END_DEADLINE:?} of SIGKILL
    Stuck,
}

impl Anchor {
    /// Starts an anchor; it is in place when this returns. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// Names the step that failed.
    pub async fn start(program: &Path, place: Place<'_>) -> Result<Self, AnchorError> {
        let (ours, theirs) = StdStream::pair().map_err(AnchorError::Socket)?;
        ours.set_nonblocking(true).map_err(AnchorError::Socket)?;
        let process = Launch::new(program)
            .descriptor(OwnedFd::from(theirs), FIRST_FREE_FD)
            .spawn()?;
        send_place(&ours, place).map_err(AnchorError::Socket)?;
        let mut lifeline = UnixStream::from_std(ours).map_err(AnchorError::Socket)?;
        let mut report = [0; 2];
        match timeout(READY_DEADLINE, lifeline.read_exact(&mut report)).await {
            Err(_) => return Err(AnchorError::Slow),
            Ok(Err(source)) => return Err(AnchorError::Socket(source)),
            Ok(Ok(_)) => check(report)?,
        }
        Ok(Self {
            process,
            _lifeline: lifeline,
        })
    }

    /// Its number on the host, which containerd is told.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Who it is, for the state file.
    pub fn identity(&self) -> ProcessIdentity {
        self.process.identity()
    }

    /// Sees its end without owning it.
    pub fn watch(&self) -> ExitWatch {
        self.process.watch()
    }

    /// Ends it; when this returns, its pid is nobody's.
    ///
    /// # Errors
    /// It does not die.
    pub async fn end(self) -> Result<(), AnchorError> {
        self.process.kill()?;
        timeout(END_DEADLINE, self.process.wait())
            .await
            .map_err(|_| AnchorError::Stuck)?;
        Ok(())
    }
}

/// Sends the anchor its two descriptors.
fn send_place(socket: &StdStream, place: Place<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [place.root, place.netns];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(
        socket.as_fd(),
        &[IoSlice::new(&[0])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Reads an anchor's report: the stage that failed, as numbered in its source, and the errno.
fn check([stage, errno]: [u8; 2]) -> Result<(), AnchorError> {
    let action = match stage {
        0 => return Ok(()),
        1 => "receive its place",
        2 => "join the network namespace",
        3 => "make a mount namespace",
        4 => "change its root",
        5 => "drop its privileges",
        _ => "say what it failed at",
    };
    Err(AnchorError::SetUp {
        action,
        source: io::Error::from_raw_os_error(errno.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;

    use super::*;
    use crate::mount::{DetachedTree, TreeOptions, open_source};
    use crate::testing::program;

    fn tree(path: &Path) -> DetachedTree {
        DetachedTree::clone_of(open_source(path).unwrap().as_fd(), path, TreeOptions::default()).unwrap()
    }

    fn own_netns() -> File {
        File::open("/proc/thread-self/ns/net").unwrap()
    }

    #[tokio::test]
    async fn an_anchor_shows_the_rootfs_and_nothing_of_the_host() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("only-file"), "").unwrap();
        let netns = own_netns();
        let tree = tree(root.path());
        let place = Place {
            root: tree.as_fd(),
            netns: netns.as_fd(),
        };
        let anchor = Anchor::start(&program(PROGRAM), place).await.unwrap();

        let proc = PathBuf::from(format!("/proc/{}", anchor.pid()));
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&proc.join("root")), ["only-file"]);
        assert_eq!(names(&proc.join("fd")), ["6"]);
        assert_eq!(
            fs::read_to_string(proc.join("mountinfo"))
                .unwrap()
                .lines()
                .count(),
            1
        );
        assert_eq!(
            fs::read_to_string(proc.join("comm")).unwrap(),
            "bulkhead-anchor\n"
        );
        assert_eq!(
            fs::read_link(proc.join("ns/net")).unwrap(),
            fs::read_link("/proc/self/ns/net").unwrap()
        );
        let status = fs::read_to_string(proc.join("status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        assert!(status.contains("CapPrm:\t0000000000000000"), "{status}");

        let identity = anchor.identity();
        assert!(identity.is_alive());
        anchor.end().await.unwrap();
        assert!(!proc.exists());
    }

    #[tokio::test]
    async fn an_anchor_ends_with_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let netns = own_netns();
        let tree = tree(root.path());
        let place = Place {
            root: tree.as_fd(),
            netns: netns.as_fd(),
        };
        let Anchor { process, _lifeline } = Anchor::start(&program(PROGRAM), place).await.unwrap();
        drop(_lifeline);
        assert_eq!(process.wait().await, crate::process::Exit::Code(0));
    }

    #[tokio::test]
    async fn what_failed_is_named() {
        let root = tempfile::tempdir().unwrap();
        let not_a_netns = File::open("/dev/null").unwrap();
        let tree = tree(root.path());
        let place = Place {
            root: tree.as_fd(),
            netns: not_a_netns.as_fd(),
        };
        let error = Anchor::start(&program(PROGRAM), place)
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "anchor: cannot join the network namespace: Invalid argument (os error 22)"
        );
    }
}
