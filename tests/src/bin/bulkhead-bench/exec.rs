//! `exec`: `true` in a running container, from Exec to the answer of Delete.

use std::time::Instant;

use crate::report::Measurement;
use crate::start::{end, run};
use crate::{Rig, Runtime};

/// Exec, Start, Wait and Delete of `true`, through containerd.
pub fn exec(rig: &Rig<'_>) -> Vec<Measurement> {
    let tasks: Vec<_> = rig
        .runtimes
        .iter()
        .map(|runtime| (*runtime, run(rig, *runtime)))
        .collect();
    let task_of = |runtime: Runtime| {
        &tasks
            .iter()
            .find(|(of, _)| *of == runtime)
            .expect("a task of each")
            .1
    };
    let samples = rig.interleave(|runtime| {
        let exec = task_of(runtime).exec(["true"]);
        let begin = Instant::now();
        let exec = exec.create();
        let waiter = exec.waiter();
        exec.start();
        let exit = waiter.exit(bulkhead_tests::deadline::ORDINARY);
        exec.delete();
        let time = begin.elapsed();
        assert_eq!(exit.status, 0);
        vec![("exec".to_owned(), time.as_secs_f64() * 1e3)]
    });
    tasks.iter().for_each(|(_, task)| end(task));
    samples.measured_in("ms")
}
