//! `startContainer` hooks: programs of the container's root, run by its init just before it becomes its own.
//!
//! As with runc, a hook has the container's user, capabilities and filter, and exactly its own environment.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bulkhead_agent_protocol::message::FailureKind;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Spec};

use crate::failure::Failure;
use crate::sys;

/// For a hook whose spec sets none, as on the host.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// Kept of a hook's output for the error message.
const MAX_OUTPUT: u64 = 2 * 1024;

/// Hooks that run before the program.
#[derive(Debug, Default)]
pub struct StartHooks {
    hooks: Vec<Hook>,
    /// The container's state, as JSON.
    state: Vec<u8>,
}

impl StartHooks {
    /// Those of `spec`, which will be told `state`; this process is the container's init.
    ///
    /// # Errors
    /// `InvalidArgument` if the state is no JSON object.
    pub fn of(spec: &Spec, state: Option<&[u8]>) -> Result<Self, Failure> {
        let hooks = spec
            .hooks()
            .as_ref()
            .and_then(|hooks| hooks.start_container().clone());
        let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else {
            return Ok(Self::default());
        };
        let invalid = |error: serde_json::Error| Failure::invalid(format!("state for hooks: {error}"));
        let mut state: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(state.unwrap_or(b"{}")).map_err(invalid)?;
        // As seen from where the hook runs.
        state.insert("pid".into(), nix::unistd::getpid().as_raw().into());
        Ok(Self {
            hooks,
            state: serde_json::to_vec(&state).map_err(invalid)?,
        })
    }

    /// Runs them in order, up to the first that fails.
    ///
    /// # Errors
    /// `Other`, with what the hook has said.
    pub fn run(&self) -> Result<(), Failure> {
        self.hooks.iter().try_for_each(|hook| self.run_one(hook))
    }

    fn run_one(&self, hook: &Hook) -> Result<(), Failure> {
        let path = hook.path();
        let failed = |reason: String| {
            let message = format!("startContainer hook {} {reason}", path.display());
            Failure::new(FailureKind::Other, "hook", message)
        };
        let (output, mut child) = self
            .spawn(hook)
            .map_err(|error| failed(format!("cannot be run: {error}")))?;
        let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
        let limit = limit.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        match wait(&mut child, limit).map_err(|error| failed(format!("cannot be waited for: {error}")))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed(format!("failed: {status}, output: {}", said(output)))),
            None => Err(failed(format!("did not finish within {limit:?}"))),
        }
    }

    /// Its state and its output are files in memory: a hook that neither reads nor stops writing holds nothing up.
    fn spawn(&self, hook: &Hook) -> std::io::Result<(File, Child)> {
        let memory = || Ok::<_, std::io::Error>(File::from(memfd_create(c"hook", MFdFlags::MFD_CLOEXEC)?));
        let (mut state, output) = (memory()?, memory()?);
        state.write_all(&self.state)?;
        state.rewind()?;
        let mut command = Command::new(hook.path());
        let mut args = hook.args().iter().flatten();
        if let Some(name) = args.next() {
            command.arg0(name);
        }
        command.args(args).env_clear();
        let env = hook
            .env()
            .iter()
            .flatten()
            .filter_map(|entry| entry.split_once('='));
        let child = command
            .envs(env)
            .stdin(Stdio::from(state))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(output.try_clone()?))
            .process_group(0)
            .spawn()?;
        Ok((output, child))
    }
}

/// Waits for its end, or ends it and its group.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let process = sys::pidfd_open(pid)?;
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    if poll(&mut ended, timeout)? > 0 {
        return child.wait().map(Some);
    }
    // It may end at this very moment; then there is nobody to kill.
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    child.wait()?;
    Ok(None)
}

/// The beginning of what was written to `output`.
fn said(mut output: File) -> String {
    let mut text = Vec::new();
    // What cannot be read is not there to be told.
    let _ = output
        .rewind()
        .and_then(|()| output.take(MAX_OUTPUT).read_to_end(&mut text));
    String::from_utf8_lossy(&text).trim().to_owned()
}
