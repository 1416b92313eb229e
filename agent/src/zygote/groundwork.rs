//! What an init does that is the same for every container. A spare one does it before it knows which.

use std::fs::{File, OpenOptions};
use std::io::Write;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;

use super::ready_made::{Cover, ReadyMade};
use super::{namespaces, rootfs};
use crate::failure::Failure;

/// What is there afterwards.
pub struct Groundwork {
    /// Mounts, if they have been made.
    pub mounts: ReadyMade,
    /// An empty directory that covers another, if it has been made.
    pub cover: Option<Cover>,
}

/// How ready the kernel is to kill this process. Open before its /proc is the container's.
pub struct OomScore {
    file: File,
    score: i32,
}

impl Groundwork {
    /// Starts a session, and parts from the cgroups and mounts of the guest.
    ///
    /// # Errors
    /// The first step that failed, typed.
    pub fn lay() -> Result<Self, Failure> {
        let failed = |errno: Errno| Failure::os(FailureKind::Other, "start a session", &errno);
        nix::unistd::setsid().map_err(failed)?;
        namespaces::hide_cgroups()?;
        rootfs::part()?;
        Ok(Self {
            mounts: ReadyMade::default(),
            cover: None,
        })
    }

    /// The same, and makes the mounts that nearly every container has.
    ///
    /// # Errors
    /// The first step that failed, typed.
    pub fn lay_with_mounts() -> Result<Self, Failure> {
        let mut groundwork = Self::lay()?;
        groundwork.mounts = ReadyMade::make()?;
        groundwork.cover = Some(Cover::make()?);
        Ok(groundwork)
    }
}

impl OomScore {
    /// Sets it to what it is unless a spec says otherwise: the agent is protected, and what it makes is not.
    ///
    /// # Errors
    /// `Other`.
    pub fn usual() -> Result<Self, Failure> {
        let mut file = OpenOptions::new()
            .write(true)
            .open("/proc/self/oom_score_adj")
            .map_err(|error| failed(&error))?;
        file.write_all(b"0").map_err(|error| failed(&error))?;
        Ok(Self { file, score: 0 })
    }

    /// Makes it `score`.
    ///
    /// # Errors
    /// `Other`.
    pub fn set(mut self, score: i32) -> Result<(), Failure> {
        if score == self.score {
            return Ok(());
        }
        let text = score.to_string();
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| failed(&error))
    }
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::os(FailureKind::Other, "set oom_score_adj", error)
}
