//! One process of a container, as the shim remembers it.

use bulkhead_oci::runtime::Process as ProcessSpec;
use tokio::sync::watch;

use crate::process_state::{Exit, Kind, ProcessState};
use crate::stdio::{Copies, Paths};

/// Everything State, Wait and Delete answer from.
#[derive(Debug)]
pub struct Process {
    /// Where it is in its life.
    pub state: ProcessState,
    /// Host pid of its anchor; 0 for an exec that was never started.
    pub pid: u32,
    /// Its stdio fields, for State.
    pub paths: Paths,
    /// Its streams, once the guest has some.
    pub copies: Option<Copies>,
    /// Set when its exit is told, or when it failed to start: releases Wait.
    pub ended: watch::Sender<Option<Exit>>,
    /// Of an exec that has not been started: what to start.
    pub spec: Option<Box<ProcessSpec>>,
    /// CloseIO came before there was an input to close.
    pub stdin_closed: bool,
    /// ResizePty came before there was a terminal.
    pub size: Option<(u32, u32)>,
}

impl Process {
    /// The container's init, created in the guest.
    pub fn init(pid: u32, paths: Paths, copies: Option<Copies>) -> Self {
        Self {
            pid,
            copies,
            ..Self::new(Kind::Init, paths)
        }
    }

    /// An exec that is known to nobody but us.
    pub fn exec(paths: Paths, spec: ProcessSpec) -> Self {
        Self {
            spec: Some(Box::new(spec)),
            ..Self::new(Kind::Exec, paths)
        }
    }

    fn new(kind: Kind, paths: Paths) -> Self {
        Self {
            state: ProcessState::new(kind),
            pid: 0,
            paths,
            copies: None,
            ended: watch::Sender::new(None),
            spec: None,
            stdin_closed: false,
            size: None,
        }
    }
}
