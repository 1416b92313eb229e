//! From nothing to the first output.

use std::time::Instant;

use bulkhead_tests::deadline::{self, ORDINARY};
use bulkhead_tests::task::Task;
use nix::libc::SIGKILL;

use crate::report::Measurement;
use crate::{BULKHEAD, COLD, Rig, Runtime};

/// `start`: from the Create call, which runs `shim start`, to the first byte on stdout; and its
/// parts, as the client sees them.
pub fn start(rig: &Rig<'_>) -> Vec<Measurement> {
    let samples = with_cold(rig).interleave(|runtime| {
        let mut container = rig.container(runtime).sh("echo up; exec sleep 1000");
        container.record();
        let begin = Instant::now();
        let task = container.task();
        let created = begin.elapsed();
        task.start();
        let started = begin.elapsed();
        task.stdio.stdout().wait_for("up\n");
        let output = begin.elapsed();
        end(&task);
        let part = |name: &str, time: std::time::Duration| (name.to_owned(), time.as_secs_f64() * 1e3);
        vec![
            part("start", output),
            part("start.create", created),
            part("start.start", started - created),
            part("start.output", output - started),
        ]
    });
    samples.measured_in("ms")
}

/// `boot`: what the shim logs of the phases of a sandbox's start. Only a VM has them.
pub fn boot(rig: &Rig<'_>) -> Vec<Measurement> {
    if !rig.runtimes.contains(&BULKHEAD) {
        return Vec::new();
    }
    let rig = Rig {
        runtimes: vec![BULKHEAD, COLD],
        ..*rig
    };
    let samples = rig.interleave(|runtime| {
        let log_start = rig.daemon.log_length();
        let task = run(&rig, runtime);
        let phases = deadline::poll("the shim's timings in the log", ORDINARY, || {
            Some(phases(&rig.daemon.log_since(log_start))).filter(|phases| !phases.is_empty())
        });
        end(&task);
        phases
    });
    samples.measured_in("ms")
}

/// The same, and Bulkhead without templates.
fn with_cold<'d>(rig: &Rig<'d>) -> Rig<'d> {
    let cold = rig.runtimes.contains(&BULKHEAD).then_some(COLD);
    Rig {
        runtimes: rig.runtimes.iter().copied().chain(cold).collect(),
        ..*rig
    }
}

/// A running task that sleeps.
pub fn run<'d>(rig: &Rig<'d>, runtime: Runtime) -> Task<'d> {
    rig.container(runtime).args(["sleep", "100000"]).start()
}

/// Kills and deletes a task.
pub fn end(task: &Task<'_>) {
    task.kill(SIGKILL);
    task.wait();
    task.delete();
}

/// The phases of the log's lines such as `… timings="Timings { host: 63.4ms, boot: 2.5s }"`, in ms: of the
/// sandbox's launch as `boot`, and of the container's creation. Nothing before both are there.
fn phases(log: &str) -> Vec<(String, f64)> {
    let (Some(boot), Some(create)) = (
        timings(log, "Timings", "boot"),
        timings(log, "CreateTimings", "create"),
    ) else {
        return Vec::new();
    };
    boot.into_iter().chain(create).collect()
}

/// The phases in the newest line with a structure `kind`.
fn timings(log: &str, kind: &str, prefix: &str) -> Option<Vec<(String, f64)>> {
    let opening = format!("{kind} {{");
    let list = log.lines().rev().find_map(|line| {
        let list = line.split_once("timings=")?.1.trim_start_matches(['"', '\\']);
        list.strip_prefix(&opening)?.split('}').next()
    })?;
    let phase = |item: &str| {
        let (name, time) = item.split_once(':')?;
        let name = match name.trim() {
            name if name == prefix => name.to_owned(),
            name => format!("{prefix}.{name}"),
        };
        Some((name, milliseconds(time.trim())?))
    };
    Some(list.split(',').filter_map(phase).collect())
}

/// A time as Rust prints durations, in ms.
fn milliseconds(time: &str) -> Option<f64> {
    let units = [("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6), ("s", 1e3)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((time.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_from_log_lines() {
        let boot = r#"level=info msg="sandbox is up" timings="Timings { host: 63.5ms, boot: 2.5s, x: 7µs }""#;
        let create = r#"level=info msg="container is made" timings="CreateTimings { guest: 9ms }""#;
        let expected = [
            ("boot.host", 63.5),
            ("boot", 2500.0),
            ("boot.x", 0.007),
            ("create.guest", 9.0),
        ];
        assert_eq!(
            phases(&format!("{boot}\n{create}\n")),
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        assert!(phases(boot).is_empty());
    }
}
