//! `state`: calls that must be answered from the shim's memory, asked of the shim itself.

use std::time::Instant;

use bulkhead_tests::shim::Direct;

use crate::report::Measurement;
use crate::start::{end, run};
use crate::{Rig, Runtime};

/// State, Pids and Stats, over the shim's own socket.
pub fn state(rig: &Rig<'_>) -> Vec<Measurement> {
    let tasks: Vec<_> = rig
        .runtimes
        .iter()
        .map(|runtime| (*runtime, run(rig, *runtime)))
        .collect();
    let shims: Vec<_> = tasks
        .iter()
        .map(|(runtime, task)| (*runtime, Direct::connect(rig.daemon, task.id())))
        .collect();
    let shim_of = |runtime: Runtime| {
        &shims
            .iter()
            .find(|(of, _)| *of == runtime)
            .expect("a shim of each")
            .1
    };
    let samples = rig.interleave(|runtime| {
        let shim = shim_of(runtime);
        let time = |name: &str, call: &dyn Fn()| {
            let begin = Instant::now();
            call();
            (format!("state.{name}"), begin.elapsed().as_secs_f64() * 1e6)
        };
        vec![
            time("State", &|| shim.state()),
            time("Pids", &|| shim.pids()),
            time("Stats", &|| shim.stats()),
        ]
    });
    drop(shims);
    tasks.iter().for_each(|(_, task)| end(task));
    samples.measured_in("us")
}
