//! Starts a helper with exactly what it is to have.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use rustix::pipe::{PipeFlags, pipe_with};

use super::handle::{Child, ProcessHandle};
use super::report::Reports;
use super::watchdog::Watchdog;
use super::{ProcessError, Resource};

/// Where a helper finds its configuration: a sealed memfd, because other users can read argv and environ.
pub const CONFIG_FD: RawFd = 3;
/// Where a helper finds its end of the watchdog pipe.
pub const WATCHDOG_FD: RawFd = 4;
/// Where a helper writes its reports.
pub const REPORT_FD: RawFd = 5;
/// The first number free for a launch's own descriptors.
pub const FIRST_FREE_FD: RawFd = 6;
/// Descriptors are moved above every target before they are put in place, so that none overwrites another.
const SPARE_FD: RawFd = 64;

/// A helper to start: what it is, and all that it gets. Signals start at their defaults, unmasked; the
/// environment is empty; standard streams are /dev/null unless given; a process group of its own keeps
/// signals to the owner's group away.
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    descriptors: Vec<(OwnedFd, RawFd)>,
    config: Option<Vec<u8>>,
    watchdog: bool,
    reports: bool,
    pid_namespace: bool,
    resources: Vec<Resource>,
}

impl Launch {
    /// Starts from nothing.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            stdout: None,
            stderr: None,
            descriptors: Vec::new(),
            config: None,
            watchdog: false,
            reports: false,
            pid_namespace: false,
            resources: Vec::new(),
        }
    }

    /// Adds an argument. Only what anyone may read: everything else goes by [`Launch::config`].
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Where its standard output goes.
    #[must_use]
    pub fn stdout(mut self, descriptor: OwnedFd) -> Self {
        self.stdout = Some(descriptor);
        self
    }

    /// Where its standard error goes.
    #[must_use]
    pub fn stderr(mut self, descriptor: OwnedFd) -> Self {
        self.stderr = Some(descriptor);
        self
    }

    /// Gives it `descriptor` under the number `target`, which is [`FIRST_FREE_FD`] or more.
    #[must_use]
    pub fn descriptor(mut self, descriptor: OwnedFd, target: RawFd) -> Self {
        self.descriptors.push((descriptor, target));
        self
    }

    /// Gives it a configuration, as a sealed memfd at [`CONFIG_FD`].
    #[must_use]
    pub fn config(mut self, config: Vec<u8>) -> Self {
        self.config = Some(config);
        self
    }

    /// Ties its life to this process: a watchdog pipe at [`WATCHDOG_FD`].
    #[must_use]
    pub fn watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// Lets it report, at [`REPORT_FD`].
    #[must_use]
    pub fn reports(mut self) -> Self {
        self.reports = true;
        self
    }

    /// Makes it the first process of a PID namespace of its own: it sees no other process, and whatever it
    /// might start ends with it.
    #[must_use]
    pub fn pid_namespace(mut self) -> Self {
        self.pid_namespace = true;
        self
    }

    /// Something to be dropped once the process is known to have exited, and not before.
    #[must_use]
    pub fn resource(mut self, resource: impl Send + 'static) -> Self {
        self.resources.push(Box::new(resource));
        self
    }

    /// Starts it. Needs a tokio runtime, whose task reaps it.
    pub fn spawn(mut self) -> Result<ProcessHandle, ProcessError> {
        let failed = |source: io::Error, program: &Path| ProcessError::Spawn {
            program: program.to_owned(),
            source,
        };
        let program = self.program.clone();
        let (watchdog, reports) = self.plumb().map_err(|error| failed(error, &program))?;
        let pid = if self.pid_namespace {
            self.exec_in_pid_namespace()
        } else {
            self.exec()
        };
        let pid = pid.map_err(|error| failed(error, &program))?;
        let child = Child {
            program: program.clone(),
            pid,
            watchdog,
            reports,
            resources: std::mem::take(&mut self.resources),
        };
        ProcessHandle::adopt(child).map_err(|error| failed(error, &program))
    }

    /// Makes the pipes and the memfd, and queues the helper's ends.
    fn plumb(&mut self) -> io::Result<(Option<Watchdog>, Option<Reports>)> {
        if let Some(config) = self.config.take() {
            self.descriptors.push((sealed(&config)?, CONFIG_FD));
        }
        let mut watchdog = None;
        if self.watchdog {
            let (ours, theirs) = Watchdog::new()?;
            self.descriptors.push((theirs, WATCHDOG_FD));
            watchdog = Some(ours);
        }
        let mut reports = None;
        if self.reports {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            self.descriptors.push((theirs, REPORT_FD));
            reports = Some(Reports::new(ours)?);
        }
        Ok((watchdog, reports))
    }

    /// The namespace that children are born into is a property of the thread that starts them: here, one
    /// that starts nothing else.
    fn exec_in_pid_namespace(&mut self) -> io::Result<Pid> {
        let exec = || {
            unshare(CloneFlags::CLONE_NEWPID)?;
            self.exec()
        };
        std::thread::scope(|scope| scope.spawn(exec).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
    }

    fn exec(&mut self) -> io::Result<Pid> {
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_open(0, "/dev/null", OFlag::O_RDONLY, Mode::empty())?;
        let mut spares = Vec::new();
        for (descriptor, target) in [(self.stdout.take(), 1), (self.stderr.take(), 2)] {
            match descriptor {
                Some(descriptor) => put(&mut actions, &mut spares, &descriptor, target)?,
                None => actions.add_open(target, "/dev/null", OFlag::O_WRONLY, Mode::empty())?,
            }
        }
        let mut given = vec![0, 1, 2];
        for (descriptor, target) in self.descriptors.drain(..) {
            put(&mut actions, &mut spares, &descriptor, target)?;
            given.push(target);
        }
        for stray in open_descriptors()?
            .into_iter()
            .filter(|number| !given.contains(number))
        {
            actions.add_close(stray)?;
        }

        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;

        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let mut arguments = vec![program.clone()];
        for argument in &self.arguments {
            arguments.push(CString::new(argument.as_bytes())?);
        }
        let environment: [&std::ffi::CStr; 0] = [];
        Ok(posix_spawn(
            program.as_c_str(),
            &actions,
            &attributes,
            &arguments,
            &environment,
        )?)
    }
}

/// Queues `descriptor` to become `target` in the child; `spares` keeps it open until then.
fn put(
    actions: &mut PosixSpawnFileActions,
    spares: &mut Vec<OwnedFd>,
    descriptor: &OwnedFd,
    target: RawFd,
) -> io::Result<()> {
    let spare = rustix::io::fcntl_dupfd_cloexec(descriptor, SPARE_FD)?;
    actions.add_dup2(spare.as_raw_fd(), target)?;
    spares.push(spare);
    Ok(())
}

/// What is open here, some of it perhaps not close-on-exec: an ancestor may have leaked it to us.
fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let numbers = std::fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let numbers: io::Result<Vec<_>> = numbers.collect();
    Ok(numbers?
        .iter()
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

/// A memfd with `content` that nobody can change any more, read from its beginning.
fn sealed(content: &[u8]) -> io::Result<OwnedFd> {
    use nix::fcntl::SealFlag;
    let fd = memfd_create(c"bulkhead", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content)?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}
