//! Many containers at once. Here the number of samples is the number of containers.

use std::thread;
use std::time::Instant;

use bulkhead_tests::host::HostProcess;
use bulkhead_tests::task::Task;

use crate::report::Measurement;
use crate::start::{end, run};
use crate::{BULKHEAD, Rig, Samples};

/// `crowd`: all of them started at once, from the Create call to each one's first output, and how many a second
/// that makes.
pub fn crowd(rig: &Rig<'_>) -> Vec<Measurement> {
    let (mut each, mut rate) = (Samples::default(), Samples::default());
    for runtime in rig.runtimes.iter().copied() {
        let begin = Instant::now();
        let start = || {
            let task = rig.container(runtime).sh("echo up; exec sleep 100000").start();
            task.stdio.stdout().wait_for("up\n");
            (begin.elapsed(), task)
        };
        let (times, tasks): (Vec<_>, Vec<_>) = thread::scope(|scope| {
            let starts: Vec<_> = (0..rig.n).map(|_| scope.spawn(start)).collect();
            starts
                .into_iter()
                .map(|start| start.join().expect("each container starts"))
                .unzip()
        });
        tasks.iter().for_each(end);
        let last = times.iter().max().expect("one container at least");
        rate.add(
            runtime,
            "crowd.rate".to_owned(),
            rig.n as f64 / last.as_secs_f64(),
        );
        for time in &times {
            each.add(runtime, "crowd".to_owned(), time.as_secs_f64());
        }
    }
    let mut measurements = each.measured_in("s");
    measurements.extend(rate.measured_in("1/s"));
    measurements
}

/// `alive`: as many VMs alive, each of which still answers when the last has started; and what each weighs then.
pub fn alive(rig: &Rig<'_>) -> Vec<Measurement> {
    if !rig.runtimes.contains(&BULKHEAD) {
        return Vec::new();
    }
    let tasks: Vec<Task<'_>> = (0..rig.n).map(|_| run(rig, BULKHEAD)).collect();
    let mut samples = Samples::default();
    for (number, task) in tasks.iter().enumerate() {
        let text = format!("{number}\n");
        task.sh(&format!("echo {number}"))
            .expect_exit(0)
            .expect_stdout(&text);
        let shim = HostProcess::shim_of(rig.daemon, task.id());
        let helpers = shim.descendants();
        let kib: u64 = std::iter::once(&shim).chain(&helpers).map(HostProcess::pss).sum();
        samples.add(BULKHEAD, "alive.pss".to_owned(), kib as f64 / 1024.0);
    }
    tasks.iter().for_each(end);
    samples.measured_in("MiB")
}
