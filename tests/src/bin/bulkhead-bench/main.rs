//! Measures Bulkhead beside runc, in the same run and on the same containerd, taking turns.
//!
//! `bulkhead-bench [NAME...] [--json] [-n N]`; without names, all of them.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A benchmark stops at the first surprise.

mod crowd;
mod disks;
mod exec;
mod memory;
mod report;
mod start;
mod state;
mod streams;

use std::fs;
use std::path::Path;
use std::process::Command;

use bulkhead_tests::daemon::RUNC;
use bulkhead_tests::leak::Baseline;
use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Container, Daemon};
use clap::Parser;

use crate::report::Measurement;

/// Measures Bulkhead beside runc.
#[derive(Parser)]
#[command(name = "bulkhead-bench")]
struct Arguments {
    /// What to measure: start, boot, exec, stdio, stdout, stdout-short, idle-pss,
    /// give-back, layers, metadata, state, crowd, alive. All of them if none is named.
    names: Vec<String>,
    /// One JSON object a line, instead of a table.
    #[arg(long)]
    json: bool,
    /// How many samples to take, where a benchmark's own number is not wanted.
    #[arg(short, long)]
    n: Option<usize>,
    /// The containerd version to run on; the first that the tests use if none is given.
    #[arg(long)]
    containerd: Option<String>,
}

/// One benchmark: what it is called, how many samples it takes by itself, and what takes them.
struct Bench {
    name: &'static str,
    n: usize,
    run: fn(&Rig<'_>) -> Vec<Measurement>,
}

/// What a benchmark works with.
pub struct Rig<'a> {
    daemon: &'a Daemon,
    runtimes: Vec<Runtime>,
    n: usize,
}

/// A runtime that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runtime {
    /// As a table shows it.
    name: &'static str,
    /// As containerd knows it.
    id: &'static str,
    /// Boots each VM, whatever templates there are.
    cold: bool,
}

const BENCHES: [Bench; 13] = [
    Bench {
        name: "start",
        n: 10,
        run: start::start,
    },
    Bench {
        name: "boot",
        n: 10,
        run: start::boot,
    },
    Bench {
        name: "exec",
        n: 50,
        run: exec::exec,
    },
    Bench {
        name: "stdio",
        n: 200,
        run: streams::stdio,
    },
    Bench {
        name: "stdout",
        n: 3,
        run: streams::stdout,
    },
    Bench {
        name: "stdout-short",
        n: 3,
        run: streams::stdout_short,
    },
    Bench {
        name: "idle-pss",
        n: 3,
        run: memory::idle_pss,
    },
    Bench {
        name: "give-back",
        n: 3,
        run: memory::give_back,
    },
    Bench {
        name: "layers",
        n: 5,
        run: disks::layers,
    },
    Bench {
        name: "metadata",
        n: 3,
        run: disks::metadata,
    },
    Bench {
        name: "state",
        n: 500,
        run: state::state,
    },
    Bench {
        name: "crowd",
        n: 50,
        run: crowd::crowd,
    },
    Bench {
        name: "alive",
        n: 110,
        run: crowd::alive,
    },
];

const BULKHEAD: Runtime = Runtime {
    name: "bulkhead",
    id: "io.containerd.bulkhead.v2",
    cold: false,
};
const COLD: Runtime = Runtime {
    name: "cold",
    cold: true,
    ..BULKHEAD
};
const REFERENCE: Runtime = Runtime {
    name: "runc",
    id: RUNC,
    cold: false,
};
/// Of [`COLD`].
const COLD_CONFIG: &str = "templates = false\n";

fn main() -> Result<(), String> {
    let arguments = Arguments::parse();
    let mut wanted = Vec::new();
    for name in &arguments.names {
        let known = BENCHES.iter().find(|bench| bench.name == name);
        wanted.push(known.ok_or_else(|| format!("no benchmark is called {name:?}"))?);
    }
    if wanted.is_empty() {
        wanted.extend(&BENCHES);
    }
    let settings = Settings::get();
    let version = arguments
        .containerd
        .as_ref()
        .or(settings.versions.first())
        .ok_or("no containerd version")?;
    let daemon = Daemon::start(version);
    let runtimes = if settings.is_vm() {
        vec![BULKHEAD, REFERENCE]
    } else {
        vec![REFERENCE]
    };
    if settings.is_vm() {
        build_template(&settings.dist.join("bulkhead"))?;
    }
    fs::write(daemon.path("cold.toml"), COLD_CONFIG).map_err(|error| format!("cold.toml: {error}"))?;
    let baseline = Baseline::of(&daemon);
    for bench in wanted {
        eprintln!("{} ...", bench.name);
        let rig = Rig {
            daemon: &daemon,
            runtimes: runtimes.clone(),
            n: arguments.n.unwrap_or(bench.n),
        };
        report::print(&(bench.run)(&rig), arguments.json);
    }
    match baseline.wait_restored(&daemon) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("left behind: {}", left.join(", "))),
    }
}

/// Makes the template that the measured sandboxes are restored from, so that none of them has it made meanwhile.
fn build_template(program: &Path) -> Result<(), String> {
    let output = Command::new(program).args(["template", "build"]).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

// === impl Rig ===

impl<'d> Rig<'d> {
    /// A container of `runtime`.
    fn container(&self, runtime: Runtime) -> Container<'d> {
        let container = Container::new(self.daemon).runtime(runtime.id);
        if !runtime.cold {
            return container;
        }
        let config = self.daemon.path("cold.toml");
        container
            .flag("--runtime-config-path")
            .flag(config.display().to_string())
    }

    /// Calls `sample` for each runtime in turn, once unmeasured and then `n` times.
    fn interleave(&self, mut sample: impl FnMut(Runtime) -> Vec<(String, f64)>) -> Samples {
        let mut samples = Samples::default();
        for round in 0..=self.n {
            for runtime in &self.runtimes {
                let values = sample(*runtime);
                if round > 0 {
                    values
                        .into_iter()
                        .for_each(|(name, value)| samples.add(*runtime, name, value));
                }
            }
        }
        samples
    }
}

/// Samples by what was measured and of which runtime, in the order they first came.
#[derive(Default)]
struct Samples {
    series: Vec<(String, Runtime, Vec<f64>)>,
}

// === impl Samples ===

impl Samples {
    fn add(&mut self, runtime: Runtime, name: String, value: f64) {
        match self
            .series
            .iter_mut()
            .find(|(known, of, _)| *known == name && *of == runtime)
        {
            Some((_, _, values)) => values.push(value),
            None => self.series.push((name, runtime, vec![value])),
        }
    }

    fn measured_in(self, unit: &'static str) -> Vec<Measurement> {
        let series = self.series.into_iter();
        series
            .map(|(bench, runtime, values)| Measurement::of(bench, runtime.name, unit, values))
            .collect()
    }
}
