//! A guest that waits to be saved, and is restored any number of times.
//!
//! Nothing that is decided by chance in the agent's life may be in every copy: the epoch of its link, the keys
//! of its hash tables, where its memory lies. So the agent replaces itself by exec twice. Before it sleeps, by
//! this small loop, whose memory holds nothing of the kind; after it has been woken, by a new agent, which
//! begins with fresh randomness of the kernel's, and forks its zygote then.

use std::convert::Infallible;
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

/// First argument of the program that sleeps; the port's descriptor is the second one.
pub const ASLEEP_ARGUMENT: &str = "--asleep";
/// First argument of the agent that has been woken; the port's descriptor is the second one.
pub const WOKEN_ARGUMENT: &str = "--woken";

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

/// Replaces this process, the zygote's parent included, by one that sleeps at the port.
pub fn fall_asleep(port: &impl AsFd) -> io::Error {
    match keep_open(port) {
        Ok(number) => become_program(ASLEEP_ARGUMENT, &number),
        Err(errno) => errno.into(),
    }
}

/// Sleeps until the host has a VM of its own, makes the guest one, and replaces this process by its agent.
///
/// # Errors
/// The guest cannot be made a VM of its own, or its host has gone: then it has no purpose.
pub fn sleep(port: &OwnedFd) -> io::Result<Infallible> {
    // The zygote has ended with the agent; a copy that begins with its remains would have to reap them.
    while matches!(waitpid(None::<Pid>, None), Ok(_) | Err(Errno::EINTR)) {}
    fcntl(port, FcntlArg::F_SETFL(OFlag::O_RDWR))?;
    clear_free_memory()?;
    let wake = wait_for_wake(port)?;
    super::mix_in(&wake.entropy)?;
    super::set_wall_clock(wake.unix_time_ns)?;
    drop(wake);
    let number = keep_open(port)?;
    Err(become_program(WOKEN_ARGUMENT, &number))
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

fn become_program(argument: &str, port: &str) -> io::Error {
    Command::new(PROGRAM).args([argument, port]).exec()
}
