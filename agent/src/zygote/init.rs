//! A container and its init, through the `libcontainer` crate. Init waits for the start signal with
//! everything done but the exec.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::message::FailureKind;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::Spec;

use super::diagnosis::Diagnosis;
use super::job::CreateJob;
use super::program::Program;
use super::worker::Made;
use crate::failure::Failure;
use crate::sys;

/// The library's name for the container below the bundle. Short, because the path of the start signal's
/// socket may have 107 bytes and the bundle's name takes most of them.
pub const STATE_NAME: &str = "c";

/// Exit codes of an init whose program could not be started after all, as shells have them.
const NOT_EXECUTED: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Where init waits for its start: connecting is the signal.
pub fn start_socket(bundle: &Path) -> PathBuf {
    bundle.join(STATE_NAME).join("notify.sock")
}

/// Creates the container of `job`; its init waits.
///
/// # Errors
/// Typed and in runc's words where the cause is known.
pub fn create(job: &CreateJob, fds: Vec<OwnedFd>) -> Result<Made, Failure> {
    let mut fds = fds.into_iter();
    let report = fds
        .next()
        .ok_or_else(|| Failure::invalid("create job without its descriptors"))?;
    let spec = Spec::load(job.bundle.join("config.json"))
        .map_err(|error| Failure::invalid(format!("read the container's spec: {error}")))?;
    let diagnosis = Diagnosis::start()?;
    let console = job.terminal.then(|| Console::listen(&job.bundle)).transpose()?;
    let launcher = Launcher {
        report: report.as_raw_fd(),
        diagnosis: diagnosis.fd(),
    };
    let built = (|| {
        let mut builder = ContainerBuilder::new(STATE_NAME.to_owned(), SyscallType::default())
            .with_root_path(&job.bundle)?
            .with_executor(launcher)
            .with_console_socket(console.as_ref().map(|console| console.path.clone()));
        if let (Some(stdin), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) {
            builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
        }
        builder
            .as_init(&job.bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()
    })();
    let container = built.map_err(|error: LibcontainerError| diagnosis.explain(&spec, &error))?;
    let pid = container
        .pid()
        .ok_or_else(|| Failure::new(FailureKind::Other, "create", "the container has no init"))?;
    let terminal = console.map(|console| console.accept()).transpose()?;
    Ok(Made {
        pid: pid.as_raw(),
        terminal,
    })
}

/// Where init sends the master of the terminal it has opened in the container.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn listen(bundle: &Path) -> Result<Self, Failure> {
        let path = bundle.join("tty");
        let listener = UnixListener::bind(&path)
            .map_err(|error| Failure::os(FailureKind::Pty, "make the console socket", &error))?;
        Ok(Self { listener, path })
    }

    /// Init has sent it before it said that it is ready, so this does not wait.
    fn accept(&self) -> Result<OwnedFd, Failure> {
        let failed = |error: std::io::Error| Failure::os(FailureKind::Pty, "receive the terminal", &error);
        let (socket, _) = self.listener.accept().map_err(failed)?;
        let (_, fds) = sys::socket::receive(&socket, &mut [0; 64]).map_err(|errno| failed(errno.into()))?;
        fds.into_iter()
            .next()
            .ok_or_else(|| Failure::new(FailureKind::Pty, "receive the terminal", "init sent no terminal"))
    }
}

/// Finds the program before init waits, and becomes it afterwards. Runs in init; the descriptors are
/// numbers because the library clones this across forks.
#[derive(Clone)]
struct Launcher {
    /// Tells the agent why the program could not be started; closed by a successful exec.
    report: RawFd,
    diagnosis: RawFd,
}

impl Executor for Launcher {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        program_of(spec).map(drop).map_err(|failure| {
            Diagnosis::record_failure(self.diagnosis, &failure);
            ExecutorValidationError::ArgValidationError(failure.message)
        })
    }

    fn setup_envs(&self, _: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The program is given its environment by execve, in the spec's order and with its duplicates.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failure = match program_of(spec) {
            Ok(program) => match sys::fork::reset_signals() {
                Ok(()) => program.become_it(),
                Err(errno) => Failure::os(FailureKind::Other, "reset signals", &errno),
            },
            Err(failure) => failure,
        };
        write_report(self.report, &failure);
        // Here and not by returning: the library would write to pipes whose readers are gone.
        std::process::exit(match failure.kind() {
            FailureKind::ExecutableNotFound => NOT_FOUND,
            _ => NOT_EXECUTED,
        })
    }
}

fn program_of(spec: &Spec) -> Result<Program, Failure> {
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Failure::invalid("spec without process"))?;
    Program::find(process)
}

/// Best effort: a filter may forbid writing, and then the agent sees only that init has ended.
fn write_report(fd: RawFd, failure: &Failure) {
    let Ok(report) = sys::adopt(fd) else { return };
    if let Ok(text) = serde_json::to_vec(failure) {
        let _ = File::from(report).write_all(&text);
    }
}
