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
mod tests {
    use super::*;

    const EXIT: Exit = Exit {
        status: 7,
        at: Some(SystemTime::UNIX_EPOCH),
    };
    const LATER: Exit = Exit {
        status: 137,
        at: Some(SystemTime::UNIX_EPOCH),
    };

    fn running(kind: Kind) -> ProcessState {
        let mut state = ProcessState::new(kind);
        state.begin_start().unwrap();
        assert_eq!(state.started(), None);
        state
    }

    #[test]
    fn an_exit_during_start_is_told_after_it_and_once() {
        let mut state = ProcessState::new(Kind::Exec);
        state.begin_start().unwrap();
        assert_eq!(state.exited(EXIT), ExitEffect::Kept);
        assert_eq!(state.exited(LATER), ExitEffect::Known);
        assert_eq!(state.exit(), None, "not told yet");
        assert_eq!(state.started(), Some(EXIT));
        assert_eq!(state.exit(), Some(EXIT));
        assert_eq!(state.exited(LATER), ExitEffect::Known);
    }

    #[test]
    fn a_failed_start_leaves_a_created_process_that_can_be_deleted() {
        let mut state = ProcessState::new(Kind::Exec);
        state.begin_start().unwrap();
        assert_eq!(state.start_failed(), None);
        assert_eq!(state.phase(), Phase::Created);
        state.may_delete().unwrap();
    }

    #[test]
    fn texts_are_those_of_runcs_shim() {
        let text = |result: Result<(), StateError>| result.unwrap_err().to_string();
        let mut state = running(Kind::Init);
        assert_eq!(
            text(state.may_delete()),
            "cannot delete a running process: failed precondition"
        );
        assert_eq!(
            text(state.begin_start()),
            "cannot start a running process: failed precondition"
        );
        state.paused();
        assert_eq!(
            text(state.may_exec()),
            "cannot exec in a paused state: failed precondition"
        );
        state.exited(EXIT);
        assert_eq!(text(state.may_kill()), "process already finished: not found");
        let created = ProcessState::new(Kind::Exec);
        assert_eq!(
            text(created.may_kill()),
            "process not created: failed precondition"
        );
    }

    #[test]
    fn a_created_init_can_be_killed_and_then_is_stopped() {
        let mut state = ProcessState::new(Kind::Init);
        state.may_kill().unwrap();
        assert_eq!(state.exited(LATER), ExitEffect::Ended);
        assert_eq!(state.exit(), Some(LATER));
        assert!(state.begin_start().is_err());
    }

    #[test]
    fn pausing_loses_against_an_exit() {
        let mut state = running(Kind::Init);
        state.may_pause().unwrap();
        state.exited(EXIT);
        state.paused();
        assert_eq!(state.exit(), Some(EXIT));
    }

    mod against_a_reference {
        //! F24: any sequence of calls and events does what a second, independent description of runc's
        //! states says.

        use proptest::prelude::*;

        use super::*;

        #[derive(Debug, Clone, Copy)]
        enum Step {
            BeginStart,
            Started,
            StartFailed,
            Exited,
            Pause,
            Resume,
            Kill,
            Delete,
            Exec,
            Resize,
        }

        fn steps() -> impl Strategy<Value = Vec<Step>> {
            use Step::*;
            proptest::collection::vec(
                prop::sample::select(vec![
                    BeginStart,
                    Started,
                    StartFailed,
                    Exited,
                    Pause,
                    Resume,
                    Kill,
                    Delete,
                    Exec,
                    Resize,
                ]),
                0..40,
            )
        }

        /// Independent flags instead of phases.
        #[derive(Default)]
        struct Reference {
            start_requested: bool,
            start_settled: bool,
            frozen: bool,
            exit_seen: bool,
            exit_told: bool,
        }

        impl Reference {
            fn starting(&self) -> bool {
                self.start_requested && !self.start_settled
            }

            /// Whether the step is allowed, after doing it.
            fn step(&mut self, step: Step, kind: Kind) -> bool {
                let up = self.start_settled && !self.exit_told;
                let created = !self.start_requested && !self.exit_told;
                match step {
                    Step::BeginStart => {
                        self.start_requested |= created;
                        created
                    }
                    Step::Started => {
                        if self.starting() {
                            self.start_settled = true;
                            self.exit_told = self.exit_seen;
                        }
                        true
                    }
                    Step::StartFailed => {
                        if self.starting() {
                            self.start_requested = false;
                            self.exit_told = self.exit_seen;
                        }
                        true
                    }
                    Step::Exited => {
                        self.exit_seen = true;
                        self.exit_told |= !self.starting();
                        true
                    }
                    Step::Pause => {
                        let allowed = up && !self.frozen;
                        self.frozen |= allowed;
                        allowed
                    }
                    Step::Resume => {
                        let allowed = up && self.frozen;
                        self.frozen &= !allowed;
                        allowed
                    }
                    Step::Kill => !self.exit_told && (kind == Kind::Init || !created),
                    Step::Delete => created || self.exit_told,
                    Step::Exec => !(self.exit_told || (up && self.frozen)),
                    Step::Resize => !self.exit_told,
                }
            }
        }

        fn apply(state: &mut ProcessState, step: Step) -> bool {
            match step {
                Step::BeginStart => state.begin_start().is_ok(),
                Step::Started => {
                    state.started();
                    true
                }
                Step::StartFailed => {
                    state.start_failed();
                    true
                }
                Step::Exited => {
                    state.exited(EXIT);
                    true
                }
                Step::Pause => state.may_pause().map(|()| state.paused()).is_ok(),
                Step::Resume => state.may_resume().map(|()| state.resumed()).is_ok(),
                Step::Kill => state.may_kill().is_ok(),
                Step::Delete => state.may_delete().is_ok(),
                Step::Exec => state.may_exec().is_ok(),
                Step::Resize => state.may_resize().is_ok(),
            }
        }

        proptest! {
            #[test]
            fn they_agree(steps in steps(), exec: bool) {
                let kind = if exec { Kind::Exec } else { Kind::Init };
                let (mut state, mut reference) = (ProcessState::new(kind), Reference::default());
                for step in steps {
                    prop_assert_eq!(apply(&mut state, step), reference.step(step, kind), "{:?}", step);
                    prop_assert_eq!(state.exit().is_some(), reference.exit_told);
                }
            }
        }
    }
}
