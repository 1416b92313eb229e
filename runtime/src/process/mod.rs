//! The life of a helper process: started with exactly what it needs, tied to its owner by a watchdog pipe,
//! signalled by pidfd alone, reaped by one task, and known to be gone before anything it used is released.
//!
//! A [`ProcessHandle`] owns its process: dropping it ends the process, unless it was [disarmed]. Only
//! [`Launch::spawn`] makes one. Any number of tasks may [wait].
//!
//! [disarmed]: ProcessHandle::disarm
//! [wait]: ProcessHandle::wait

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

mod handle;
mod identity;
pub mod inherited;
mod launch;
mod reaper;
mod report;
mod watchdog;

pub use handle::{Detached, ExitWatch, ProcessHandle};
pub use identity::{ProcessIdentity, boot_id};
pub use inherited::Placement;
pub use launch::{CONFIG_FD, FIRST_FREE_FD, Launch, REPORT_FD, WATCHDOG_FD};
pub use report::Report;
pub use watchdog::Order;

/// Something that lives at least as long as the process: a lock, a staging directory, a lease.
type Resource = Box<dyn Any + Send>;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Somebody else reaped it: it is gone, and nobody knows how. Never to be taken for success.
    Lost,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
            Self::Lost => f.write_str("exit status lost"),
        }
    }
}

/// Why something about a process failed.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum ProcessError {
    /// cannot start {program}: {source}
    Spawn {
        /// What was to run.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// {program} could not start its work: {message}
    Failed {
        /// What ran.
        program: PathBuf,
        /// Its own words.
        message: String,
    },
    /// {program} ended before it was ready: {exit}
    Ended {
        /// What ran.
        program: PathBuf,
        /// How it ended.
        exit: Exit,
    },
    /// {program} was not ready within {after:?}
    Slow {
        /// What ran.
        program: PathBuf,
        /// The deadline.
        after: Duration,
    },
    /// cannot {action} process {pid}: {source}
    Control {
        /// What was tried.
        action: &'static str,
        /// On whom.
        pid: u32,
        /// The cause.
        source: io::Error,
    },
    /// process {child}, reported by {parent}, is not its child
    NotItsChild {
        /// The reported number.
        child: u32,
        /// Who reported it.
        parent: u32,
    },
}

#[cfg(test)]
mod tests;
