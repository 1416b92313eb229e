//! QEMU's parent: one small thread between the shim and QEMU.
//!
//! QEMU cannot watch a pipe for its owner's death, and a parent-death signal from the shim would follow one
//! of the shim's threads, not the shim. So this process watches the pipe, QEMU dies with this process, and
//! this process ends as QEMU ends. Both live in one jail: the parent enters it, QEMU is born in it.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use bulkhead_runtime::jail::filter::{Filter, Program};
use bulkhead_runtime::jail::user::User;
use bulkhead_runtime::kvm::{PROBE_ARGUMENT, probe};
use bulkhead_runtime::process::{Order, REPORT_FD, Report, WATCHDOG_FD, inherited};
use bulkhead_runtime::vmm::qemu::parent::{LOCK_FD, ParentConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long the guest has to write back and power off once its owner has gone: its agent's port hangs up at
/// the same moment.
const GRACE: Duration = Duration::from_secs(2);

/// QEMU, and the ends of the two pipes to the owner.
struct Watch {
    /// Whose number nobody else is to take.
    _user: User,
    qemu: Child,
    pidfd: OwnedFd,
    /// `None` once there is nobody to watch.
    watchdog: Option<OwnedFd>,
    report: OwnedFd,
    /// When QEMU is killed if it has not ended by itself.
    deadline: Option<Instant>,
}

fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == PROBE_ARGUMENT)
    {
        return probe();
    }
    let Ok(report) = inherited::take(REPORT_FD) else {
        eprintln!("bulkhead-vmm is started by containerd-shim-bulkhead-v2");
        return ExitCode::FAILURE;
    };
    match start(report.try_clone()).and_then(Watch::until_exit) {
        Ok(status) => mirror(status),
        Err(error) => {
            // If nobody listens any more, the exit code has to do.
            Report::Failed {
                message: error.to_string(),
            }
            .write_to(&report)
            .ok();
            ExitCode::FAILURE
        }
    }
}

/// Prints the verdict on this host's KVM.
fn probe() -> ExitCode {
    match serde_json::to_string(&probe::run()) {
        Ok(verdict) => println!("{verdict}"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn start(report: io::Result<OwnedFd>) -> io::Result<Watch> {
    let report = report?;
    let config: ParentConfig = inherited::config()?;
    let watchdog = inherited::take(WATCHDOG_FD)?;
    config.placement.enter()?;
    let (program, arguments) = config.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let user = config
        .jail
        .enter(Path::new(program))
        .map_err(|error| io::Error::new(error.kind(), format!("cannot enter the jail: {error}")))?;
    let filter = Filter::of(Program::Qemu).map_err(io::Error::other)?;
    let mut command = Command::new(program);
    command.args(arguments);
    let confine = move || filter.apply().map_err(io::Error::other);
    let qemu = inherited::spawn_bound(&mut command, confine)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot start {program}: {error}")))?;
    // QEMU alone holds its sockets, so that whoever is at their other end sees it die.
    for descriptor in config
        .descriptors
        .into_iter()
        .filter(|descriptor| *descriptor != LOCK_FD)
    {
        drop(inherited::take(descriptor)?);
    }
    let pid = i32::try_from(qemu.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Filter::of(Program::Parent)
        .and_then(|filter| filter.apply())
        .map_err(io::Error::other)?;
    Report::Ready {
        child: Some(qemu.id()),
    }
    .write_to(&report)?;
    Ok(Watch {
        _user: user,
        qemu,
        pidfd,
        watchdog: Some(watchdog),
        report,
        deadline: None,
    })
}

impl Watch {
    fn until_exit(mut self) -> io::Result<ExitStatus> {
        loop {
            self.wait_for_something()?;
            if let Some(status) = self.qemu.try_wait()? {
                return Ok(status);
            }
            self.obey()?;
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.signal(Signal::KILL)?;
                self.deadline = None;
            }
        }
    }

    fn wait_for_something(&self) -> io::Result<()> {
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled = vec![PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        polled.extend(
            self.watchdog
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
        );
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what the owner says, if it says anything.
    fn obey(&mut self) -> io::Result<()> {
        let Some(watchdog) = &self.watchdog else {
            return Ok(());
        };
        let mut polled = [PollFd::from_borrowed_fd(watchdog.as_fd(), PollFlags::IN)];
        if poll(&mut polled, Some(&Timespec::default()))? == 0 {
            return Ok(());
        }
        let mut byte = [0];
        if rustix::io::read(watchdog, &mut byte)? == 0 {
            self.watchdog = None;
            self.deadline = Some(Instant::now() + GRACE);
            return Ok(());
        }
        match Order::from_byte(byte[0]) {
            Some(Order::Detach) => {
                self.watchdog = None;
                Report::Detached.write_to(&self.report)
            }
            Some(Order::Drain) => {
                self.deadline = Some(Instant::now() + GRACE);
                // QEMU writes back what it holds and exits.
                self.signal(Signal::TERM)
            }
            None => Ok(()),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Ends as QEMU ended.
fn mirror(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // Without a core: the limit is 0. A signal that does not kill leaves the code below.
        rustix::process::kill_process(rustix::process::getpid(), signal).ok();
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
