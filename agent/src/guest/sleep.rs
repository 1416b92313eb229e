//! A guest that waits to be saved, and is restored any number of times.
//!
//! Nothing that is decided by chance in an agent's life may be in every copy. So the agent that booted the guest
//! replaces itself, by exec, by one that has seen nothing yet. That one gets everything ready which is the same
//! for all (its zygote, its event loop), and only then sleeps: what runs before need not run in each copy. Once it
//! has been woken it draws what must differ: the guards of its stacks here, keys of hash tables and epochs of links
//! when they are first needed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::wake::{ASLEEP, Call, Calls, Wake};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sys;

/// First argument of the agent that is to sleep; the port's descriptor is the second one.
pub const ASLEEP_ARGUMENT: &str = "--asleep";

/// This program, wherever it was: the file system that it was started from is hidden by now.
const PROGRAM: &str = "/proc/self/exe";

/// How long the host may be away from the port before the guest ends itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(2);

/// Free memory that is left alone, in bytes: the kernel keeps some for itself, and kills rather than give it.
const LEFT_FREE: usize = 24 << 20;

/// Most that is cleared, in bytes. A boot leaves its traces in some 50 MiB, wherever they are: beyond this,
/// looking everywhere takes longer than it is worth.
const MOST_CLEARED: usize = 1 << 30;

/// What a host says to a sleeper fits in here.
const READ: usize = 512;

/// Replaces this process by an agent that sleeps at the port.
pub fn fall_asleep(port: &impl AsFd) -> io::Error {
    match keep_open(port) {
        Ok(number) => Command::new(PROGRAM).args([ASLEEP_ARGUMENT, &number]).exec(),
        Err(errno) => errno.into(),
    }
}

/// Leaves nothing of the agent that was here before, so that little has to be saved. Before the zygote is forked.
///
/// # Errors
/// As `fcntl(2)`, or /proc is not what it should be.
pub fn prepare(port: &OwnedFd) -> io::Result<()> {
    // It has ended with its agent.
    while matches!(waitpid(None::<Pid>, None), Ok(_) | Err(Errno::EINTR)) {}
    fcntl(port, FcntlArg::F_SETFL(OFlag::O_RDWR))?;
    clear_free_memory()
}

/// Sleeps until the host has a VM of its own, and makes the guest one. Blocks: nothing else is to run.
///
/// # Errors
/// The guest cannot be made a VM of its own, or its host has gone: then it has no purpose.
pub fn sleep(port: &OwnedFd) -> io::Result<()> {
    let wake = wait_for_wake(port)?;
    super::mix_in(&wake.entropy)?;
    super::set_wall_clock(wake.unix_time_ns)?;
    Ok(sys::guards::renew()?)
}

/// Makes what the boot has left in free memory zeros, which are not saved: a copy loads faster and weighs less.
fn clear_free_memory() -> io::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let text = fs::read_to_string("/proc/meminfo")?;
    let free = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemFree:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0_usize);
    let length = (free * 1024).saturating_sub(LEFT_FREE).min(MOST_CLEARED);
    // Where there is none to be had, there is nothing to clear.
    sys::use_memory_once(length).ok();
    Ok(())
}

fn wait_for_wake(port: &OwnedFd) -> io::Result<Box<Wake>> {
    let mut calls = Calls::default();
    loop {
        let mut bytes = [0; READ];
        let length = match nix::unistd::read(port, &mut bytes) {
            Ok(0) => {
                wait_for_host(port)?;
                continue;
            }
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        for byte in &bytes[..length] {
            match calls.push(*byte) {
                Some(Call::AreYouAsleep) => {
                    nix::unistd::write(port, &ASLEEP)?;
                }
                Some(Call::Wake(wake)) => return Ok(wake),
                None => {}
            }
        }
    }
}

fn wait_for_host(port: &OwnedFd) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut fds = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO)?;
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if !events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the host has left"));
        }
        thread::sleep(LOOK);
    }
}

/// Has the port outlive the next exec. It cannot be opened anew: closing it tells the host that nobody is here.
fn keep_open(port: &impl AsFd) -> nix::Result<String> {
    let fd = port.as_fd();
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(fd.as_raw_fd().to_string())
}
