//! An init that has been made before its container was asked for: born in a cgroup and in namespaces of its own, it
//! waits for its job. A VM is saved with one, so that no copy has to make its first.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::message::FailureKind;

use super::job::{CreateJob, Work};
use super::{Spawned, Zygote, ask, gate, init, namespaces, worker};
use crate::container::cgroup::{CONTAINERS, Cgroup};
use crate::container::spec::Prepared;
use crate::failure::Failure;

/// Its name until it has a container's, and its cgroup's: no container's, whose begin with a letter or a digit.
pub const NAME: &str = ".spare";

/// An init without a container.
pub struct Spare {
    /// Where it was born.
    pub cgroup: Cgroup,
    /// What is to be opened when its container starts.
    gate: OwnedFd,
    /// To its worker, and to itself.
    channel: UnixStream,
}

impl Spare {
    /// Makes one. Blocks until it waits.
    ///
    /// # Errors
    /// The step that failed.
    pub fn make(zygote: &Zygote, cgroups: &Path) -> Result<Self, Failure> {
        let other =
            |stage: &'static str| move |error: std::io::Error| Failure::os(FailureKind::Other, stage, &error);
        let cgroup = Cgroup::create(cgroups, PathBuf::from(CONTAINERS).join(NAME))?;
        let directory = cgroup.open()?;
        let (gate, inits) = gate::new().map_err(|errno| other("make the start gate")(errno.into()))?;
        let mut channel = zygote.worker(&worker::AHEAD_OF_TIME, &[directory.as_fd(), inits.as_fd()])?;
        let mut word = init::AHEAD;
        // What comes otherwise is the report of a failure, or the end.
        match channel.read_exact(&mut word) {
            Ok(()) if word == init::AHEAD => Ok(Self {
                cgroup,
                gate,
                channel,
            }),
            Ok(()) => Err(Failure::new(
                FailureKind::Other,
                "make an init ahead",
                "its worker failed",
            )),
            Err(error) => Err(other("make an init ahead")(error)),
        }
    }

    /// Whether it can be the init of a container that joins nobody's namespaces and has no disks.
    ///
    /// # Errors
    /// None after `prepare`.
    pub fn fits(prepared: &Prepared) -> Result<bool, Failure> {
        Ok(namespaces::are_usual(prepared.linux()?))
    }

    /// Has it become the init that `job` describes, with `streams`. Returns its gate, too.
    ///
    /// # Errors
    /// As [`Zygote::run`].
    pub async fn become_init(
        self,
        job: CreateJob,
        streams: &[BorrowedFd<'_>],
    ) -> Result<(OwnedFd, Spawned), Failure> {
        let spawned = ask(self.channel, Work::Create(job), streams).await?;
        Ok((self.gate, spawned))
    }
}
