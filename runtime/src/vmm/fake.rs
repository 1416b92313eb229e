//! A process in place of a VM, for tests of everything around it.
//!
//! It runs any host program that speaks the agent's protocol over the socket it finds at
//! [`AGENT_FD`]; `bulkhead-agent` does so when it is not PID 1.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::UnixStream;

use super::instance::Control;
use super::{DeathReason, Start, VmInstance, VmSpec, Vmm, VmmError};
use crate::console::Console;
use crate::process::{FIRST_FREE_FD, Launch};

/// Where the program finds its end of the agent's stream.
pub const AGENT_FD: i32 = FIRST_FREE_FD;

/// Starts a program instead of a VM.
#[derive(Debug, Clone)]
pub struct FakeVmm {
    /// What to run.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

struct FakeControl;

#[async_trait]
impl Vmm for FakeVmm {
    async fn launch(&self, spec: VmSpec) -> Result<VmInstance, VmmError> {
        if !matches!(spec.start, Start::Boot) {
            return Err(VmmError::Unsupported("save or restore"));
        }
        let prepare = |action| move |source| VmmError::Prepare { action, source };
        let console = Console::create(&spec.console_log).map_err(prepare("create the console log"))?;
        let (ours, theirs) = StdStream::pair().map_err(prepare("make the agent's socket"))?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| prepare("make the console's pipe")(error.into()))?;
        console
            .collect(read)
            .map_err(prepare("read the console's pipe"))?;
        let stderr = write.try_clone().map_err(prepare("make the console's pipe"))?;
        let mut launch = Launch::new(&self.program)
            .descriptor(OwnedFd::from(theirs), AGENT_FD)
            .stdout(write)
            .stderr(stderr)
            .resource(spec.lock);
        for argument in &self.arguments {
            launch = launch.arg(argument);
        }
        ours.set_nonblocking(true)
            .map_err(prepare("make the agent's socket"))?;
        let agent = UnixStream::from_std(ours).map_err(prepare("make the agent's socket"))?;
        let process = launch.spawn()?;
        Ok(VmInstance {
            agent: Mutex::new(Some(agent)),
            process,
            monitor: None,
            console,
            control: Arc::new(FakeControl),
        })
    }
}

#[async_trait]
impl Control for FakeControl {
    async fn pause(&self) -> Result<(), VmmError> {
        Err(VmmError::Unsupported("pause"))
    }

    async fn resume(&self) -> Result<(), VmmError> {
        Err(VmmError::Unsupported("resume"))
    }

    async fn quit(&self) -> Result<(), VmmError> {
        Err(VmmError::Unsupported("quit"))
    }

    async fn save(&self, _deadline: Duration) -> Result<(), VmmError> {
        Err(VmmError::Unsupported("save"))
    }

    async fn last_words(&self) -> Option<DeathReason> {
        None
    }
}
