//! The states of one process and what each call does to them, as runc's shim has them. Pure.

use std::time::SystemTime;

use displaydoc::Display;
use thiserror::Error;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0..=255; 128 + n for death by signal n.
    pub status: u32,
    /// By the host's clock, when the news arrived. `None` for a process that was never started.
    pub at: Option<SystemTime>,
}

/// Init or a further process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The container's own process.
    Init,
    /// A process started by Exec.
    Exec,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Made, not started.
    Created,
    /// The guest has been asked to start it. An exit that arrives meanwhile is kept: the start is told
    /// first.
    Starting {
        /// It.
        exit: Option<Exit>,
    },
    /// It runs.
    Running,
    /// It is frozen. Init only.
    Paused,
    /// It ended.
    Stopped(Exit),
}

/// Why a call does not fit the state.
#[derive(Debug, Display, Error, Clone, Copy, PartialEq, Eq)]
pub enum StateError {
    /// cannot {call} a {state} process: failed precondition
    Refused {
        /// What was asked for.
        call: Call,
        /// The state it was in.
        state: &'static str,
    },
    /// cannot exec in a {0} state: failed precondition
    NoExec(&'static str),
    /// process not created: failed precondition
    NotStarted,
    /// process already finished: not found
    Finished,
}

/// Calls that states can refuse.
#[derive(Debug, Display, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// start
    Start,
    /// delete
    Delete,
    /// pause
    Pause,
    /// resume
    Resume,
    /// resize
    Resize,
    /// update
    Update,
}

impl StateError {
    /// The process is no more: callers treat that as success of what they wanted.
    pub fn is_gone(self) -> bool {
        self == Self::Finished
    }
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessState {
    kind: Kind,
    phase: Phase,
}

/// What an exit means for the process it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitEffect {
    /// It ended now: tell it.
    Ended,
    /// It is kept until the start has been told.
    Kept,
    /// Not the first: ignore it.
    Known,
}

impl ProcessState {
    /// A process that has been made.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            phase: Phase::Created,
        }
    }

    /// Where it is in its life.
    pub fn phase(self) -> Phase {
        self.phase
    }

    /// How it ended, if it did.
    pub fn exit(self) -> Option<Exit> {
        match self.phase {
            Phase::Stopped(exit) => Some(exit),
            _ => None,
        }
    }

    /// Whether its exit is still to come: it runs, or is on its way to.
    pub fn is_live(self) -> bool {
        matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Running | Phase::Paused
        )
    }

    /// Start is called.
    ///
    /// # Errors
    /// It has been started before.
    pub fn begin_start(&mut self) -> Result<(), StateError> {
        match self.phase {
            Phase::Created => {
                self.phase = Phase::Starting { exit: None };
                Ok(())
            }
            _ => Err(self.refuse(Call::Start)),
        }
    }

    /// The guest started it. Returns its exit if that has arrived already: the process has ended now.
    pub fn started(&mut self) -> Option<Exit> {
        let Phase::Starting { exit } = self.phase else {
            return self.exit();
        };
        self.phase = exit.map_or(Phase::Running, Phase::Stopped);
        exit
    }

    /// The guest could not start it. It is as before, unless it ended over it: then returns its exit.
    pub fn start_failed(&mut self) -> Option<Exit> {
        let Phase::Starting { exit } = self.phase else {
            return self.exit();
        };
        self.phase = exit.map_or(Phase::Created, Phase::Stopped);
        exit
    }

    /// The guest reaped it.
    pub fn exited(&mut self, exit: Exit) -> ExitEffect {
        match &mut self.phase {
            Phase::Stopped(_) | Phase::Starting { exit: Some(_) } => ExitEffect::Known,
            Phase::Starting { exit: kept } => {
                *kept = Some(exit);
                ExitEffect::Kept
            }
            Phase::Created | Phase::Running | Phase::Paused => {
                self.phase = Phase::Stopped(exit);
                ExitEffect::Ended
            }
        }
    }

    /// Whether it may be paused.
    ///
    /// # Errors
    /// It does not run.
    pub fn may_pause(self) -> Result<(), StateError> {
        if self.phase == Phase::Running {
            Ok(())
        } else {
            Err(self.refuse(Call::Pause))
        }
    }

    /// Whether it may be resumed.
    ///
    /// # Errors
    /// It is not paused.
    pub fn may_resume(self) -> Result<(), StateError> {
        if self.phase == Phase::Paused {
            Ok(())
        } else {
            Err(self.refuse(Call::Resume))
        }
    }

    /// The guest froze it. It may have ended meanwhile.
    pub fn paused(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Paused;
        }
    }

    /// The guest thawed it. It may have ended meanwhile.
    pub fn resumed(&mut self) {
        if self.phase == Phase::Paused {
            self.phase = Phase::Running;
        }
    }

    /// Whether a signal may be sent.
    ///
    /// # Errors
    /// It ended, or is an exec that was never started.
    pub fn may_kill(self) -> Result<(), StateError> {
        match (self.kind, self.phase) {
            (_, Phase::Stopped(_)) => Err(StateError::Finished),
            (Kind::Exec, Phase::Created) => Err(StateError::NotStarted),
            _ => Ok(()),
        }
    }

    /// Whether it may be deleted; a created init is killed first.
    ///
    /// # Errors
    /// It runs or is about to.
    pub fn may_delete(self) -> Result<(), StateError> {
        match self.phase {
            Phase::Created | Phase::Stopped(_) => Ok(()),
            _ => Err(self.refuse(Call::Delete)),
        }
    }

    /// Whether its terminal may be resized.
    ///
    /// # Errors
    /// It ended.
    pub fn may_resize(self) -> Result<(), StateError> {
        if self.exit().is_some() {
            Err(self.refuse(Call::Resize))
        } else {
            Ok(())
        }
    }

    /// Whether its limits may be changed.
    ///
    /// # Errors
    /// It ended.
    pub fn may_update(self) -> Result<(), StateError> {
        if self.exit().is_some() {
            Err(self.refuse(Call::Update))
        } else {
            Ok(())
        }
    }

    /// Whether further processes may join this init.
    ///
    /// # Errors
    /// It is frozen or has ended.
    pub fn may_exec(self) -> Result<(), StateError> {
        match self.phase {
            Phase::Paused | Phase::Stopped(_) => Err(StateError::NoExec(self.name())),
            _ => Ok(()),
        }
    }

    fn refuse(self, call: Call) -> StateError {
        StateError::Refused {
            call,
            state: self.name(),
        }
    }

    fn name(self) -> &'static str {
        match self.phase {
            Phase::Created => "created",
            Phase::Starting { .. } | Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Stopped(_) => "stopped",
        }
    }
}

#[cfg(test)]
mod tests;
