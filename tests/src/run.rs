//! `ctr run --rm`, as a user types it.

use std::time::Duration;

use crate::command::{self, Output};
use crate::container::Container;
use crate::deadline;

/// What `ctr run` printed, and the status it ended with.
#[derive(Debug)]
pub struct Ran {
    output: Output,
}

// === impl Ran ===

impl Ran {
    /// Runs the container to its end through `ctr`, with `stdin` as its input.
    #[track_caller]
    pub(crate) fn run(container: &Container<'_>, stdin: &[u8], limit: Duration) -> Ran {
        let daemon = container.daemon();
        let mut command = daemon.ctr(["run", "--rm"]);
        command.arg("--fifo-dir").arg(daemon.path("fifo"));
        command.args(container.run_flags());
        command.args(container.ctr_arguments());
        Ran {
            output: command::run(&mut command, stdin, limit),
        }
    }

    /// The exit status.
    pub fn status(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Asserts the exit status.
    #[track_caller]
    pub fn expect_exit(&self, status: i32) -> &Self {
        assert_eq!(self.status(), Some(status), "exit status; {:?}", self.both());
        self
    }

    /// Asserts success and all of stdout.
    #[track_caller]
    pub fn expect_stdout(&self, text: &str) -> &Self {
        assert_eq!(
            self.stdout(),
            text,
            "stdout; stderr is {:?}",
            self.output.error_text()
        );
        self
    }

    /// Asserts that stderr contains `text`.
    #[track_caller]
    pub fn expect_stderr_contains(&self, text: &str) -> &Self {
        assert!(
            self.output.error_text().contains(text),
            "{text:?} is not in stderr: {:?}",
            self.both()
        );
        self
    }

    /// Stdout as text.
    pub fn stdout(&self) -> String {
        self.output.text()
    }

    /// Stdout as bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.output.stdout
    }

    fn both(&self) -> (String, String) {
        (self.output.text(), self.output.error_text())
    }
}

/// How long `ctr run` may take where a test does not say.
pub(crate) const LIMIT: Duration = deadline::LONG;
