//! A stack of undo steps. Whatever can fail half-way pushes how to undo a step before it takes the step.

use std::fmt;

/// Why an undo step did not work; complete in itself.
pub type UndoError = Box<dyn std::error::Error + Send + Sync>;

type Step = Box<dyn FnOnce() -> Result<(), UndoError> + Send>;

/// Undo steps, run last in first out: by [`Undo::run`], or when dropped. Each step must find nothing to do
/// where what it undoes never happened.
#[derive(Default)]
pub struct Undo {
    steps: Vec<(String, Step)>,
}

impl Undo {
    /// Nothing to undo yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers how to undo what is about to be done; `what` names it in messages, for example
    /// `unmount /run/..`.
    pub fn push<F, E>(&mut self, what: impl Into<String>, step: F)
    where
        F: FnOnce() -> Result<(), E> + Send + 'static,
        E: Into<UndoError>,
    {
        self.steps
            .push((what.into(), Box::new(|| step().map_err(Into::into))));
    }

    /// Takes over the steps of `other`, to be run before the ones here.
    pub fn append(&mut self, mut other: Self) {
        self.steps.append(&mut other.steps);
    }

    /// Undoes everything; a step that fails does not keep the others from running.
    ///
    /// # Errors
    /// One line per failed step.
    pub fn run(mut self) -> Result<(), UndoFailed> {
        self.run_all()
    }

    /// Forgets the steps: what they would undo stays.
    pub fn disarm(mut self) {
        self.steps.clear();
    }

    fn run_all(&mut self) -> Result<(), UndoFailed> {
        let mut failures = Vec::new();
        while let Some((what, step)) = self.steps.pop() {
            if let Err(error) = step() {
                failures.push(format!("{what}: {}", crate::sandbox::chain(&*error)));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(UndoFailed(failures))
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Err(failed) = self.run_all() {
            tracing::warn!("clean-up: {failed}");
        }
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.steps.iter().map(|(what, _)| what))
            .finish()
    }
}

/// What could not be undone.
#[derive(Debug, PartialEq, Eq)]
pub struct UndoFailed(Vec<String>);

impl std::error::Error for UndoFailed {}

impl fmt::Display for UndoFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Which steps have run, in order. Step 2 fails.
    #[derive(Clone, Default)]
    struct Steps(Arc<Mutex<Vec<u32>>>);

    impl Steps {
        fn push(&self, undo: &mut Undo, n: u32) {
            let ran = self.0.clone();
            undo.push(format!("step {n}"), move || {
                ran.lock().unwrap().push(n);
                if n == 2 { Err("stuck") } else { Ok(()) }
            });
        }

        fn ran(&self) -> Vec<u32> {
            self.0.lock().unwrap().clone()
        }
    }

    #[test]
    fn dropping_undoes_in_reverse_and_past_failures() {
        let steps = Steps::default();
        let mut undo = Undo::new();
        (1..=3).for_each(|n| steps.push(&mut undo, n));
        drop(undo);
        assert_eq!(steps.ran(), [3, 2, 1]);
    }

    #[test]
    fn running_reports_each_failure() {
        let mut undo = Undo::new();
        (1..=3).for_each(|n| Steps::default().push(&mut undo, n));
        assert_eq!(undo.run().unwrap_err().to_string(), "step 2: stuck");
    }

    #[test]
    fn disarmed_steps_never_run() {
        let steps = Steps::default();
        let mut undo = Undo::new();
        steps.push(&mut undo, 1);
        undo.disarm();
        assert!(steps.ran().is_empty());
    }

    #[test]
    fn appended_steps_run_first() {
        let steps = Steps::default();
        let (mut outer, mut inner) = (Undo::new(), Undo::new());
        steps.push(&mut outer, 1);
        steps.push(&mut inner, 3);
        outer.append(inner);
        drop(outer);
        assert_eq!(steps.ran(), [3, 1]);
    }
}
