//! The guest itself: what the agent does as its PID 1.

pub mod boot;
pub mod mounts;
pub mod network;
pub mod port;
pub mod shutdown;
pub mod sleep;

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_agent_protocol::message::{ConfigureSandbox, FailureKind};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::agent::Agent;
use crate::failure::Failure;
use crate::{lock, sys};

/// Least randomness accepted from the host, in bytes: a full key of the kernel's generator.
const MIN_ENTROPY: usize = 32;

/// How long nobody asks for a network before the NIC is taken for one that is not used: the first container of a
/// restored VM has started by then, which is not to wait for it.
const UNUSED_NIC: Duration = Duration::from_secs(1);

/// Longest host name of Linux.
const MAX_HOSTNAME: usize = 64;

/// Makes this VM the sandbox of the message: randomness first, because a restored VM shares it with every
/// other of its template, then time and name.
///
/// # Errors
/// `InvalidArgument`, `Other`.
pub fn configure(agent: &Arc<Agent>, request: &ConfigureSandbox) -> Result<(), Failure> {
    if request.entropy.len() < MIN_ENTROPY {
        return Err(Failure::invalid(format!(
            "less than {MIN_ENTROPY} bytes of entropy"
        )));
    }
    if request.hostname.len() > MAX_HOSTNAME {
        return Err(Failure::invalid(format!(
            "host name of more than {MAX_HOSTNAME} bytes"
        )));
    }
    if !agent.layout.is_guest {
        return Ok(());
    }
    agent.note_configured();
    mix_in(&request.entropy).map_err(|error| Failure::os(FailureKind::Other, "mix in entropy", &error))?;
    set_clock(agent, request.unix_time_ns)?;
    tokio::spawn(take_own_address(Arc::clone(agent)));
    nix::unistd::sethostname(&request.hostname)
        .map_err(|errno| Failure::os(FailureKind::Other, "set host name", &errno))
}

/// Gives the NIC an address that no other VM's has, unless it has been given its pod's meanwhile. Until then it is down,
/// and nothing is ever sent from it.
async fn take_own_address(agent: Arc<Agent>) {
    tokio::time::sleep(UNUSED_NIC).await;
    let unused = lock(&agent.nic).take();
    if let Some(Err(failure)) = unused.map(|name| network::take_own_address(&name)) {
        eprintln!("bulkhead-agent: {failure}");
    }
}

/// Sets the wall clock.
///
/// # Errors
/// `InvalidArgument` for a time the kernel does not take.
pub fn set_clock(agent: &Agent, unix_time_ns: u64) -> Result<(), Failure> {
    if !agent.layout.is_guest {
        return Ok(());
    }
    set_wall_clock(unix_time_ns)
        .map_err(|errno| Failure::os(FailureKind::InvalidArgument, "set clock", &errno))
}

fn set_wall_clock(unix_time_ns: u64) -> nix::Result<()> {
    let time = TimeSpec::from_duration(Duration::from_nanos(unix_time_ns));
    clock_settime(ClockId::CLOCK_REALTIME, time)
}

/// Gives the kernel's generator randomness that it credits in full, and has it start anew from it.
fn mix_in(entropy: &[u8]) -> io::Result<()> {
    let device = OpenOptions::new().write(true).open("/dev/urandom")?;
    Ok(sys::ioctl::add_entropy(device, entropy)?)
}
