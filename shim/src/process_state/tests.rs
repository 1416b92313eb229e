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
