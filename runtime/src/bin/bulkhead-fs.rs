//! The file-sharing server: the `virtiofsd` crate in a jail.
//!
//! It sees the shared directory and nothing else: namespaces of its own, the directory as its root, the
//! capabilities of a file server, no way to gain others, and only the system calls that serving files takes.
//! What the host mounts below the directory appears here too, and what it unmounts goes: the root is a slave
//! of the host's.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_runtime::fs_server::{FsServerConfig, LISTENER_FD, LOCK_FD};
use bulkhead_runtime::jail::filter::{Filter, Program};
use bulkhead_runtime::jail::{landlock, limits, privileges, root};
use bulkhead_runtime::process::{Order, REPORT_FD, Report, WATCHDOG_FD, inherited};
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as BackendError, VhostUserDaemon};
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// What the server itself needs beside those: 509 memory slots, 100 of its own, as `virtiofsd` reserves.
const OWN_DESCRIPTORS: u64 = 609;
/// How long the guest may see its own or the directory's change late. The host changes volumes too.
const CACHE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it serves on after its owner has gone: the 2 seconds that the VM has, and then some.
const GRACE: Duration = Duration::from_secs(3);
fn main() -> ExitCode {
    let Ok(report) = inherited::take(REPORT_FD) else {
        eprintln!("bulkhead-fs is started by containerd-shim-bulkhead-v2");
        return ExitCode::FAILURE;
    };
    log::set_max_level(log::LevelFilter::Warn);
    // The only call in this program: it cannot have been set before.
    log::set_logger(&Stderr).ok();
    match serve(&report) {
        Ok(()) => ExitCode::SUCCESS,
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

/// Serves until the VMM hangs up.
fn serve(report: &OwnedFd) -> io::Result<()> {
    let config: FsServerConfig = inherited::config()?;
    let watchdog = inherited::take(WATCHDOG_FD)?;
    let listener = std::os::unix::net::UnixListener::from(inherited::take(LISTENER_FD)?);
    let _lock = inherited::take(LOCK_FD)?;
    config.placement.enter()?;
    let descriptors = limits::of_a_file_server()?;
    root::leave_namespaces_but_see_mounts()?;
    let proc_self_fd = root::become_directory(&config.directory)?;
    privileges::keep(privileges::OF_A_FILE_SERVER)?;
    landlock::restrict(landlock::of_a_file_server()).map_err(other)?;
    // Before there is a second thread: each one starts with it.
    Filter::of(Program::FileServer)
        .and_then(|filter| filter.apply())
        .map_err(other)?;

    let file_system = PassthroughFs::new(Config {
        entry_timeout: CACHE_TIMEOUT,
        attr_timeout: CACHE_TIMEOUT,
        // Keeps pages across opens; attributes older than CACHE_TIMEOUT are asked for again, and a changed
        // mtime or size drops the pages. With `Auto` every open drops them, and a translating VMM then
        // translates each program anew: exec of `true` took 196 ms instead of 16.
        cache_policy: CachePolicy::Always,
        xattr: true,
        proc_sfd_rawfd: Some(proc_self_fd),
        // Files of different mounts may share an inode number; the guest tells them apart by device.
        announce_submounts: true,
        // Handles would need a capability that opens any file of the host's file system.
        inode_file_handles: InodeFileHandlesMode::Never,
        guest_fd_limit: descriptors.saturating_sub(OWN_DESCRIPTORS),
        ..Config::default()
    })?;
    let backend = VhostUserFsBackendBuilder::default()
        .build(file_system)
        .map_err(io::Error::other)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon =
        VhostUserDaemon::new("bulkhead-fs".to_owned(), Arc::new(backend), memory).map_err(other)?;
    daemon.start(&mut Listener::from(listener)).map_err(other)?;
    Report::Ready { child: None }.write_to(report)?;

    let detached = report.try_clone()?;
    std::thread::Builder::new().spawn(move || watch(File::from(watchdog), &detached))?;
    match daemon.wait() {
        Ok(()) | Err(BackendError::HandleRequest(VhostError::Disconnected | VhostError::PartialMessage)) => {
            Ok(())
        }
        Err(error) => Err(other(error)),
    }
}

/// Ends the process when its owner has gone or says so.
fn watch(mut watchdog: File, report: &OwnedFd) {
    let mut byte = [0];
    loop {
        match watchdog.read(&mut byte) {
            Ok(0) => {
                std::thread::sleep(GRACE);
                exit(0);
            }
            Ok(_) => match Order::from_byte(byte[0]) {
                Some(Order::Detach) => {
                    // An owner that is not there to hear it has what it wanted.
                    Report::Detached.write_to(report).ok();
                    return;
                }
                Some(Order::Drain) => exit(0),
                None => {}
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => exit(1),
        }
    }
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// Writes warnings and errors to stderr, which the shim collects.
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("bulkhead-fs: {}", record.args());
        }
    }

    fn flush(&self) {}
}
