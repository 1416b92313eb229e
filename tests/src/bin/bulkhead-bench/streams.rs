//! Bytes in and out of a container.

use std::time::{Duration, Instant};

use bulkhead_tests::host::HostProcess;
use bulkhead_tests::task::Task;
use bulkhead_tests::{Container, mib};

use crate::memory::rss;
use crate::report::Measurement;
use crate::start::end;
use crate::{Rig, Runtime};

/// `stdio`: how long a line takes through `cat`, from the stdin fifo to the stdout fifo.
pub fn stdio(rig: &Rig<'_>) -> Vec<Measurement> {
    let run = |runtime: &Runtime| {
        let container = Container::new(rig.daemon).runtime(runtime.id).stdin();
        (*runtime, container.args(["cat"]).start())
    };
    let mut tasks: Vec<(Runtime, Task<'_>)> = rig.runtimes.iter().map(run).collect();
    let mut number = 0;
    let samples = rig.interleave(|runtime| {
        number += 1;
        let task = &mut tasks
            .iter_mut()
            .find(|(of, _)| *of == runtime)
            .expect("a task of each")
            .1;
        let line = format!("line {number}\n");
        let target = task.stdio.stdout().len() + line.len();
        let begin = Instant::now();
        task.stdio.write(line.as_bytes());
        task.stdio
            .stdout()
            .wait_for_length(target, bulkhead_tests::deadline::ORDINARY);
        vec![("stdio".to_owned(), begin.elapsed().as_secs_f64() * 1e6)]
    });
    tasks.iter().for_each(|(_, task)| end(task));
    samples.measured_in("us")
}

/// How much `stdout` moves: 1 GiB.
const VOLUME: u64 = mib(1024);
/// How many writes `stdout-short` makes: some seconds of an emulated guest.
const SHORT_WRITES: u64 = mib(32) / 100;
/// Far longer than any runtime takes for it.
const LIMIT: Duration = Duration::from_secs(600);

/// `stdout`: 1 GiB of 100-byte lines, and how much the shim's resident memory grew meanwhile.
pub fn stdout(rig: &Rig<'_>) -> Vec<Measurement> {
    // The lines are made once: it is the way out that is measured, not `yes`. 400 KiB a turn, in few
    // calls, from memory.
    let turn = 409_600 * 64;
    let turns = VOLUME / turn + 1;
    let script = format!(
        "line=$(head -c 99 /dev/zero | tr '\\0' x); yes $line | head -c 409600 > /dev/shm/lines; \
         files=$(yes /dev/shm/lines | head -n 64); read go; \
         i=0; while test $i -lt {turns}; do cat $files; i=$((i+1)); done; sleep 100000"
    );
    throughput(rig, "stdout", &script, turns * turn)
}

/// `stdout-short`: 32 MiB, each 100 bytes written by themselves, as a program that flushes each line does.
pub fn stdout_short(rig: &Rig<'_>) -> Vec<Measurement> {
    let script = format!("read go; dd if=/dev/zero bs=100 count={SHORT_WRITES} 2>/dev/null; sleep 100000");
    throughput(rig, "stdout-short", &script, SHORT_WRITES * 100)
}

/// MB/s of a script that begins at a line of input and writes `volume` bytes, and what the shim grew by.
fn throughput(rig: &Rig<'_>, name: &str, script: &str, volume: u64) -> Vec<Measurement> {
    let mut growth = Vec::new();
    let samples = rig.interleave(|runtime| {
        let (speed, grown) = move_volume(rig, runtime, script, volume);
        growth.push((runtime, grown));
        vec![(name.to_owned(), speed)]
    });
    let mut lines = samples.measured_in("MB/s");
    for runtime in &rig.runtimes {
        let of = growth
            .iter()
            .filter(|(of, _)| of == runtime)
            .map(|(_, grown)| *grown)
            .collect();
        lines.push(Measurement::of(
            format!("{name}.shim-rss-growth"),
            runtime.name,
            "MiB",
            of,
        ));
    }
    lines
}

/// MB/s, and MiB that the shim grew.
fn move_volume(rig: &Rig<'_>, runtime: Runtime, script: &str, volume: u64) -> (f64, f64) {
    let container = Container::new(rig.daemon)
        .runtime(runtime.id)
        .stdin()
        .count_stdout();
    let mut task = container.sh(script).start();
    let shim = HostProcess::shim_of(rig.daemon, task.id());
    let before = rss(shim.pid);
    let begin = Instant::now();
    task.stdio.write(b"go\n");
    let total = usize::try_from(volume).expect("a 64-bit host");
    let mut peak = before;
    // The memory is looked at while the bytes flow.
    while !task.stdio.stdout().has_length(total, Duration::from_millis(100)) {
        peak = peak.max(rss(shim.pid));
        assert!(
            begin.elapsed() < LIMIT,
            "{} of {total} bytes after {LIMIT:?}",
            task.stdio.stdout().len()
        );
    }
    let time = begin.elapsed();
    end(&task);
    assert_eq!(task.stdio.stdout().len(), total, "bytes that arrived");
    (volume as f64 / 1e6 / time.as_secs_f64(), (peak - before) / 1024.0)
}
