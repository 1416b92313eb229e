//! What an idle container costs in memory.

use std::fs;

use std::time::Instant;

use bulkhead_tests::deadline::{self, LONG};
use bulkhead_tests::host::HostProcess;
use bulkhead_tests::mib;

use crate::report::Measurement;
use crate::start::{end, run};
use crate::{BULKHEAD, REFERENCE, Rig};

/// What a container fills and frees, and what of it may still be with QEMU when it counts as given back.
const FILL_MIB: u64 = 1024;
const REST_MIB: u64 = FILL_MIB / 10;

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
        let pss = |process: &HostProcess| process.pss() as f64;
        let mut values = vec![("idle-pss.shim".to_owned(), pss(&shim))];
        values.extend(
            helpers
                .iter()
                .map(|helper| (format!("idle-pss.{}", helper.name), pss(helper))),
        );
        let total = values.iter().map(|(_, value)| value).sum();
        values.push(("idle-pss".to_owned(), total));
        end(&task);
        values
    });
    samples.measured_in("KiB")
}

/// `give-back`: a container fills 1 GiB and frees it; from then until the host has nine tenths of it back. A process
/// gives its memory back at once, so that only a VM is measured.
pub fn give_back(rig: &Rig<'_>) -> Vec<Measurement> {
    if !rig.runtimes.contains(&BULKHEAD) {
        return Vec::new();
    }
    let rig = Rig {
        runtimes: vec![BULKHEAD],
        ..*rig
    };
    let samples = rig.interleave(|runtime| {
        let room = format!("type=tmpfs,src=tmpfs,dst=/fill,options=size={}m", 2 * FILL_MIB);
        let container = rig.container(runtime).memory_limit(mib(2 * FILL_MIB));
        let container = container.flag("--mount").flag(room);
        let task = container.args(["sleep", "100000"]).start();
        let vmm = HostProcess::shim_of(rig.daemon, task.id()).vmm();
        let resident = || vmm.pss() as f64 / 1024.0;
        let before = resident();
        task.sh(&format!("dd if=/dev/zero of=/fill/file bs=1M count={FILL_MIB}"))
            .expect_exit(0);
        let filled = resident() - before;
        assert!(filled > (FILL_MIB - REST_MIB) as f64, "{filled} MiB of the fill");
        task.sh("rm /fill/file").expect_exit(0);
        let begin = Instant::now();
        let goal = before + REST_MIB as f64;
        deadline::poll("the memory back", LONG, || (resident() < goal).then_some(()));
        let time = begin.elapsed();
        end(&task);
        vec![("give-back".to_owned(), time.as_secs_f64())]
    });
    samples.measured_in("s")
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
