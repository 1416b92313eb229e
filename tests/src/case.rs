//! A test, and how it is run on one containerd version.

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::daemon::Daemon;
use crate::leak::Baseline;
use crate::settings::Settings;
use crate::shim::Shim;

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    run: fn(&Daemon),
    core: bool,
    vm_only: bool,
    since: (u32, u32),
}

/// A test that must pass with Bulkhead and with runc, on the versions that get every test.
pub const fn case(name: &'static str, run: fn(&Daemon)) -> Case {
    Case {
        name,
        run,
        core: false,
        vm_only: false,
        since: (0, 0),
    }
}

// === impl Case ===

impl Case {
    /// One of the dozen that run on every containerd version.
    pub const fn core(mut self) -> Case {
        self.core = true;
        self
    }

    /// A test of what clients of older versions of containerd cannot ask for.
    pub const fn since(mut self, major: u32, minor: u32) -> Case {
        self.since = (major, minor);
        self
    }

    /// A test of what only a VM has; with another runtime it is ignored.
    pub const fn vm_only(mut self) -> Case {
        self.vm_only = true;
        self
    }
}

fn is_since(version: &str, (major, minor): (u32, u32)) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next().unwrap_or(u32::MAX), parts.next().unwrap_or(u32::MAX)) >= (major, minor)
}

/// The daemons of a run: one per version, started at its first test, or why it could not be.
type Daemons = Arc<Mutex<HashMap<String, Result<Arc<Daemon>, String>>>>;

/// Runs all cases on the versions that the environment names, and prints as `cargo test` does.
pub fn run_all(topics: &[(&str, &[Case])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time: the leak checker compares the machine before a test with the machine after it.
    arguments.test_threads = Some(1);
    let daemons = Daemons::default();
    let settings = Settings::get();
    let mut trials = Vec::new();
    let all = settings.versions.iter().map(|version| (version, false));
    for (version, only_core) in all.chain(settings.core_versions.iter().map(|version| (version, true))) {
        for (topic, cases) in topics {
            for case in cases.iter().filter(|case| case.core || !only_core) {
                trials.push(trial(case, topic, version, &daemons));
            }
        }
    }
    panic::set_hook(Box::new(remember));
    let conclusion = libtest_mimic::run(&arguments, trials);
    daemons.lock().unwrap().clear();
    conclusion.exit_code()
}

fn trial(case: &Case, topic: &str, version: &str, daemons: &Daemons) -> Trial {
    let case = *case;
    let name = format!("{version}::{topic}::{}", case.name);
    let ignored = (case.vm_only && !Settings::get().is_vm()) || !is_since(version, case.since);
    let (version, daemons) = (version.to_owned(), daemons.clone());
    Trial::test(name, move || run(case, &version, &daemons)).with_ignored_flag(ignored)
}

fn run(case: Case, version: &str, daemons: &Daemons) -> Result<(), Failed> {
    let start = || catch_unwind(|| Arc::new(Daemon::start(version))).map_err(|_| last_words());
    let daemon = daemons
        .lock()
        .unwrap()
        .entry(version.to_owned())
        .or_insert_with(start)
        .clone()?;
    let log_start = daemon.log_length();
    let baseline = Baseline::of(&daemon);
    let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(&daemon)));
    if outcome.is_err() {
        // So that the next test begins clean.
        daemon.ensure_up();
        daemon.remove_all();
    }
    let leftovers = baseline.wait_restored(&daemon);
    let mut faults = Vec::new();
    if outcome.is_err() {
        faults.push(last_words());
    }
    if !leftovers.is_empty() {
        if catch_unwind(AssertUnwindSafe(|| Shim::end_strays(&daemon))).is_err() {
            faults.push(last_words());
        }
        faults.push(format!("left behind:\n  {}", leftovers.join("\n  ")));
    }
    if faults.is_empty() {
        return Ok(());
    }
    faults.push(format!(
        "the log of containerd {version}, its end:\n{}",
        daemon.log_since(log_start)
    ));
    Err(faults.join("\n").into())
}

/// What panics of the running test said, and where: a test may have threads.
static WORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A panic hook: the words belong to the failure that is reported, not between the tests' lines.
fn remember(info: &PanicHookInfo<'_>) {
    let words = info.payload_as_str().unwrap_or("a panic without words");
    let place = info
        .location()
        .map(|place| format!("{}:{}: ", place.file(), place.line()));
    if let Ok(mut all) = WORDS.lock() {
        all.push(format!("{}{words}", place.unwrap_or_default()));
    }
}

fn last_words() -> String {
    WORDS
        .lock()
        .map(|mut all| std::mem::take(&mut *all).join("\n"))
        .unwrap_or_default()
}
