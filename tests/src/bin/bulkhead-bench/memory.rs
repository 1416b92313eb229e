//! What an idle container costs in memory.

use std::fs;

use bulkhead_tests::host::HostProcess;

use crate::report::Measurement;
use crate::start::{end, run};
use crate::{REFERENCE, Rig};

/// `idle-pss`: the proportional set size of each process of an idle container.
pub fn idle_pss(rig: &Rig<'_>) -> Vec<Measurement> {
    let samples = rig.interleave(|runtime| {
        let task = run(rig, runtime);
        let shim = HostProcess::shim_of(rig.daemon, task.id());
        // runc's container is a child of the shim too, though not one of its helpers.
        let helpers = if runtime == REFERENCE {
            Vec::new()
        } else {
            shim.descendants()
        };
        let mut values = vec![("idle-pss.shim".to_owned(), pss(shim.pid))];
        values.extend(
            helpers
                .iter()
                .map(|helper| (format!("idle-pss.{}", helper.name), pss(helper.pid))),
        );
        let total = values.iter().map(|(_, value)| value).sum();
        values.push(("idle-pss".to_owned(), total));
        end(&task);
        values
    });
    samples.measured_in("KiB")
}

/// A process's proportional set size in KiB.
fn pss(pid: u32) -> f64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// A process's resident set size in KiB.
pub fn rss(pid: u32) -> f64 {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn field(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {file}"))
}
