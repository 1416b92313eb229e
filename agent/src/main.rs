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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_agent_protocol::generation::{GENERATION, Role};
use bulkhead_agent_protocol::link::Link;
use bulkhead_agent_protocol::message::Hello;
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::signal::unix::Signal;

use agent::{Agent, Layout, Ready};
use guest::port::{Port, wait_for_host};
use guest::sleep::ASLEEP_ARGUMENT;
use zygote::Zygote;

/// How long the host may take to come to the port after the boot: it is there before the VM, unless the
/// machine is very busy.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// How long the host may be away. A host that has died does not come back, and a VM without one has no
/// purpose.
const PATIENCE: Duration = Duration::from_millis(500);

/// Exit code of an agent that cannot go on.
const FAILURE: i32 = 1;

/// How this process was started.
struct Start {
    zygote: Zygote,
    port: OwnedFd,
    layout: Layout,
    started_ns: u64,
    /// Nobody's VM yet: to be saved, and restored any number of times.
    sleeps: bool,
}

fn main() {
    let started_ns = boot_time_ns();
    let reason = match start(started_ns) {
        Ok(start) => run(start),
        Err(reason) => reason,
    };
    eprintln!("bulkhead-agent: {reason}");
    sys::fork::end(FAILURE)
}

fn start(started_ns: u64) -> Result<Start, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if std::process::id() == 1 {
        let (zygote, port, sleeps) = match words[..] {
            [ASLEEP_ARGUMENT, fd] => {
                // Marked close-on-exec before there is a zygote.
                let port = adopt(fd)?;
                guest::sleep::prepare(&port).map_err(|error| format!("fall asleep: {error}"))?;
                (start_zygote()?, port, true)
            }
            // What the kernel passes on of its command line is not for us.
            _ => {
                let booted = guest::boot::boot().map_err(|error| error.to_string())?;
                (booted.zygote, booted.port, false)
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
            sleeps,
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
        sleeps: false,
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
    let runtime = if start.sleeps {
        // It draws the keys of its thread's hash tables, which every copy of this VM would have.
        let thread = std::thread::spawn(event_loop);
        thread
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("it panicked")))
    } else {
        event_loop()
    };
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return format!("start the event loop: {error}"),
    };
    let prepared = {
        let _inside = runtime.enter();
        reaper::listen()
            .map_err(|error| format!("listen for ends of children: {error}"))
            .and_then(|signals| Ok((signals, Ready::new(&start.zygote, &start.layout, start.sleeps)?)))
    };
    let (signals, ready) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => return reason,
    };
    // Not from inside the loop, which begins by drawing keys.
    if start.sleeps
        && let Err(error) = guest::sleep::sleep(&start.port)
    {
        eprintln!("bulkhead-agent: asleep: {error}");
        guest::shutdown::reset();
    }
    runtime.block_on(serve(start, signals, ready))
}

fn event_loop() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn serve(start: Start, signals: Signal, ready: Ready) -> String {
    if !wait_for_host(&start.port, FIRST_PATIENCE).await {
        return "the host has not come to the port".to_owned();
    }
    let mut port = match Port::new(start.port) {
        Ok(port) => port,
        Err(error) => return format!("use the port: {error}"),
    };
    let connect = |port: &Port| Link::start(Role::Guest, port.clone(), port.clone(), hello(start.started_ns));
    let (mut link, mut incoming) = connect(&port);
    let (agent, events) = Agent::new(link.clone(), start.zygote, start.layout, ready);
    let agent = Arc::new(agent);
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
        () = container::submounts::let_go(&agent) => "volumes can no longer be watched".to_owned(),
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
