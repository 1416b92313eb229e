//! Terminals of a container: of its own /dev/pts, so that their names mean something in it.

use std::os::fd::OwnedFd;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use oci_spec::runtime::Process;

use crate::failure::Failure;
use crate::sys;
use crate::sys::mount::{attach, clone_file};

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Permissions of the file that the console is mounted on, as in runc.
const CONSOLE_MODE: Mode = Mode::from_bits_retain(0o666);

/// The two ends of a terminal.
pub struct Terminal {
    /// For the agent.
    pub master: OwnedFd,
    /// For the process.
    pub peer: OwnedFd,
}

impl Terminal {
    /// A terminal for `process`, of its size and its user's. Call it in the container's mount namespace.
    ///
    /// # Errors
    /// `Pty`.
    pub fn open(process: &Process) -> Result<Self, Failure> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let master = nix::fcntl::open("/dev/pts/ptmx", flags, Mode::empty())
            .map_err(failed("open /dev/pts/ptmx of the container"))?;
        let kind = fstatfs(&master)
            .map_err(failed("examine /dev/pts/ptmx"))?
            .filesystem_type();
        if kind.0 != DEVPTS_MAGIC {
            return Err(failed("open /dev/pts/ptmx: not a pseudo terminal")(Errno::ENODEV));
        }
        let peer = sys::ioctl::open_terminal_peer(&master).map_err(failed("open the terminal's peer"))?;
        let owner = nix::unistd::Uid::from_raw(process.user().uid());
        nix::unistd::fchown(&peer, Some(owner), None).map_err(failed("give the terminal to the user"))?;
        if let Some(size) = process.console_size() {
            // Before the process exists, so that it never sees another.
            let cells = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
            sys::ioctl::set_window_size(&master, cells(size.width()), cells(size.height()))
                .map_err(failed("set the terminal's size"))?;
        }
        Ok(Self { master, peer })
    }

    /// Makes it the container's /dev/console.
    ///
    /// # Errors
    /// `Pty`.
    pub fn mount_as_console(&self) -> Result<(), Failure> {
        // Not through a link, which an image could lead elsewhere (CVE-2025-52565).
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let console =
            nix::fcntl::open("/dev/console", flags, CONSOLE_MODE).map_err(failed("make /dev/console"))?;
        clone_file(&self.peer)
            .and_then(|tree| attach(tree, console))
            .map_err(failed("mount the terminal on /dev/console"))
    }
}

fn failed(stage: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::os(FailureKind::Pty, stage, &errno)
}
