//! PID 1 of the guest: creates containers, streams their stdio, reaps and reports.
//!
//! Started by the kernel as `/init`, it boots the guest and serves the host on the port
//! `org.bulkhead.agent`. If it ends, the kernel panics and the VM ends with it: that is meant.
//!
//! For tests, `bulkhead-agent --socket FD` serves on an open socket and leaves the machine
//! alone.
#![deny(unsafe_code)]

mod agent;
mod container;
mod disks;
mod failure;
mod guest;
mod reaper;
mod requests;
mod stdio;
mod sys;
mod zygote;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_agent_protocol::generation::{GENERATION, Role};
use bulkhead_agent_protocol::link::Link;
use bulkhead_agent_protocol::message::Hello;
use nix::time::{ClockId, clock_gettime};

use agent::{Agent, Layout};
use guest::port::{Port, wait_for_host};
use guest::sleep::{ASLEEP_ARGUMENT, WOKEN_ARGUMENT};
use zygote::Zygote;

/// How long the host may take to come to the port after the boot: it is there before the VM, unless the
/// machine is very busy.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// How long the host may be away. A host that has died does not come back, and a VM without one has no
/// purpose.
const PATIENCE: Duration = Duration::from_millis(500);

/// How this process was started.
struct Start {
    zygote: Zygote,
    port: OwnedFd,
    layout: Layout,
    started_ns: u64,
}

fn main() -> ExitCode {
    let started_ns = boot_time_ns();
    let reason = match start(started_ns) {
        Ok(start) => run(start),
        Err(reason) => reason,
    };
    eprintln!("bulkhead-agent: {reason}");
    ExitCode::FAILURE
}

fn start(started_ns: u64) -> Result<Start, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if std::process::id() == 1 {
        let (zygote, port) = match words[..] {
            [ASLEEP_ARGUMENT, fd] => {
                let Err(error) = guest::sleep::sleep(&adopt(fd)?);
                eprintln!("bulkhead-agent: asleep: {error}");
                guest::shutdown::reset();
            }
            [WOKEN_ARGUMENT, fd] => {
                // Marked close-on-exec before there is a zygote.
                let port = adopt(fd)?;
                (start_zygote()?, port)
            }
            // What the kernel passes on of its command line is not for us.
            _ => {
                let booted = guest::boot::boot().map_err(|error| error.to_string())?;
                (booted.zygote, booted.port)
            }
        };
        let layout = Layout {
            cgroups: PathBuf::from(guest::mounts::CGROUPS),
            is_guest: true,
        };
        return Ok(Start {
            zygote,
            port,
            layout,
            started_ns,
        });
    }
    let ["--socket", fd] = words[..] else {
        return Err("usage: bulkhead-agent --socket FD (or as PID 1 of a guest)".to_owned());
    };
    let port = adopt(fd)?;
    // Orphans of containers come to us, as they do to PID 1.
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| format!("become subreaper: {errno}"))?;
    let zygote = start_zygote()?;
    let layout = Layout {
        cgroups: PathBuf::from("/sys/fs/cgroup"),
        is_guest: false,
    };
    Ok(Start {
        zygote,
        port,
        layout,
        started_ns,
    })
}

/// Takes over a descriptor that an argument names.
fn adopt(fd: &str) -> Result<OwnedFd, String> {
    let number = fd.parse().map_err(|_| format!("no descriptor: {fd}"))?;
    sys::adopt(number).map_err(|errno| format!("descriptor {fd}: {errno}"))
}

fn start_zygote() -> Result<Zygote, String> {
    Zygote::start().map_err(|errno| format!("start the zygote: {errno}"))
}

/// Serves until the agent cannot go on, and says why.
fn run(start: Start) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(start)),
        Err(error) => format!("start the event loop: {error}"),
    }
}

async fn serve(start: Start) -> String {
    let signals = match reaper::listen() {
        Ok(signals) => signals,
        Err(error) => return format!("listen for ends of children: {error}"),
    };
    if !wait_for_host(&start.port, FIRST_PATIENCE).await {
        return "the host has not come to the port".to_owned();
    }
    let mut port = match Port::new(start.port) {
        Ok(port) => port,
        Err(error) => return format!("use the port: {error}"),
    };
    let connect = |port: &Port| Link::start(Role::Guest, port.clone(), port.clone(), hello(start.started_ns));
    let (mut link, mut incoming) = connect(&port);
    let (agent, events) = match Agent::new(link.clone(), start.zygote, start.layout) {
        Ok((agent, events)) => (Arc::new(agent), events),
        Err(error) => return format!("watch containers: {error}"),
    };
    let serving = async {
        loop {
            requests::serve(&agent, &link, &mut incoming).await;
            link.closed().await;
            if agent.is_to_sleep() {
                let error = guest::sleep::fall_asleep(&port);
                eprintln!("bulkhead-agent: fall asleep: {error}");
                guest::shutdown::power_off(&agent)
            }
            // An error is as good as a host that has gone: nobody can be talked to.
            port = match port.reopen(PATIENCE).await {
                Ok(Some(port)) => port,
                Ok(None) | Err(_) => {
                    guest::shutdown::stop_everything(&agent).await;
                    guest::shutdown::power_off(&agent)
                }
            };
            (link, incoming) = connect(&port);
            agent.replace_link(link.clone());
        }
    };
    tokio::select! {
        reason = reaper::run(Arc::clone(&agent), signals) => reason,
        () = agent.send_events(events) => "events can no longer be sent".to_owned(),
        () = agent.send_stats() => "counters can no longer be sent".to_owned(),
        () = agent.watch_oom() => "containers can no longer be watched".to_owned(),
        () = serving => "the port can no longer be served".to_owned(),
    }
}

fn hello(agent_started_ns: u64) -> Hello {
    let release = nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Hello {
        generation: GENERATION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_started_ns,
        ready_ns: boot_time_ns(),
        kernel_release: release,
    }
}

fn boot_time_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|time| u64::try_from(Duration::from(time).as_nanos()).ok())
        .unwrap_or_default()
}

/// Locks state that is only ever changed in single steps, so that a panic cannot leave it half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
