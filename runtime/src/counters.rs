//! What has happened on this node since it booted, counted: one small file below the state directory, for
//! `bulkhead metrics` and whoever collects what that prints.
//!
//! Shims come and go, so none of them can count. Each adds to the file under a lock, beside its work and never
//! before it: a count that cannot be made is a line in the debug log.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;

use crate::state::Origin;

/// Below the state directory. No namespace of containerd's starts with a dot.
const DIRECTORY: &str = ".counters";
/// In there: what has been counted, what is to take its place, and what is locked meanwhile.
const FILE: &str = "counters.json";
const NEXT: &str = "counters.json.next";
const LOCK: &str = "lock";

/// The counters: name, what it says, and its label.
const COUNTERS: [(&str, &str, &str); 2] = [
    (
        LAUNCHES,
        "Sandboxes launched, by how their VM came to be.",
        "origin",
    ),
    (
        REJECTED,
        "Templates that were there and were not restored from, by what was wrong with them.",
        "reason",
    ),
];
const LAUNCHES: &str = "bulkhead_launches_total";
const REJECTED: &str = "bulkhead_template_rejected_total";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A sandbox is up.
    Launched(Origin),
    /// A template that was there was of no use.
    Rejected(Rejection),
}

/// What was wrong with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It is not whole.
    Torn,
    /// It is not this user's alone.
    Foreign,
    /// It is of another VM than its name says.
    Stale,
    /// It could not be read.
    Unreadable,
    /// It was read, and no VM came of it.
    Failed,
}

/// By counter and label value; 0 where there is nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, BTreeMap<String, u64>>);

impl Event {
    /// Each that there is.
    const ALL: [Self; 8] = [
        Self::Launched(Origin::Restored),
        Self::Launched(Origin::Booted),
        Self::Launched(Origin::BootedInstead),
        Self::Rejected(Rejection::Torn),
        Self::Rejected(Rejection::Foreign),
        Self::Rejected(Rejection::Stale),
        Self::Rejected(Rejection::Unreadable),
        Self::Rejected(Rejection::Failed),
    ];

    /// Its counter, and the value of the label.
    fn series(self) -> (&'static str, &'static str) {
        match self {
            Self::Launched(Origin::Restored) => (LAUNCHES, "restored"),
            Self::Launched(Origin::Booted) => (LAUNCHES, "booted"),
            Self::Launched(Origin::BootedInstead) => (LAUNCHES, "booted_instead"),
            Self::Rejected(Rejection::Torn) => (REJECTED, "torn"),
            Self::Rejected(Rejection::Foreign) => (REJECTED, "foreign"),
            Self::Rejected(Rejection::Stale) => (REJECTED, "stale"),
            Self::Rejected(Rejection::Unreadable) => (REJECTED, "unreadable"),
            Self::Rejected(Rejection::Failed) => (REJECTED, "failed"),
        }
    }
}

/// Counts an event in the background.
pub fn count(state_dir: &Path, event: Event) {
    let state_dir = state_dir.to_owned();
    let add = move || {
        if let Err(error) = add(&state_dir, event) {
            tracing::debug!("{event:?} is not counted: {error}");
        }
    };
    match Handle::try_current() {
        // Nobody waits for it: what a process that exits has not counted yet is lost.
        Ok(runtime) => drop(runtime.spawn_blocking(add)),
        Err(_) => add(),
    }
}

/// Counts an event.
///
/// # Errors
/// The file cannot be written. One that cannot be read begins anew.
pub fn add(state_dir: &Path, event: Event) -> io::Result<()> {
    let directory = state_dir.join(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let create = |name: &str| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(directory.join(name))
    };
    let lock = create(LOCK)?;
    // Held for as long as it takes to write a hundred bytes, by whoever has it.
    flock(&lock, FlockOperation::LockExclusive)?;
    let mut counters = Counters::read(state_dir).unwrap_or_else(|error| {
        tracing::debug!("counters begin anew: {error}");
        Counters::default()
    });
    let (counter, label) = event.series();
    let value = counters.0.entry(counter.to_owned()).or_default();
    *value.entry(label.to_owned()).or_default() += 1;
    let mut next: File = create(NEXT)?;
    // What a writer that was killed has left.
    next.set_len(0)?;
    next.write_all(&serde_json::to_vec(&counters.0)?)?;
    fs::rename(directory.join(NEXT), directory.join(FILE))
}

impl Counters {
    /// What has been counted so far; nothing, where no file is.
    ///
    /// # Errors
    /// The file is there, and cannot be read.
    pub fn read(state_dir: &Path) -> io::Result<Self> {
        match fs::read(state_dir.join(DIRECTORY).join(FILE)) {
            Ok(json) => Ok(Self(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// All of them, in the text format of Prometheus.
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        for (name, help, label) in COUNTERS {
            text.push_str(&header(name, help, "counter"));
            let values = Event::ALL.map(Event::series).into_iter();
            for (_, value) in values.filter(|(counter, _)| *counter == name) {
                let count = self.0.get(name).and_then(|counter| counter.get(value));
                let count = count.copied().unwrap_or_default();
                text.push_str(&format!("{name}{{{label}=\"{value}\"}} {count}\n"));
            }
        }
        text
    }
}

/// What comes before a metric's series in the text format of Prometheus.
pub fn header(name: &str, help: &str, kind: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_count_at_once_is_all_there() {
        const EACH: u64 = 20;
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        std::thread::scope(|scope| {
            for event in [
                Event::Launched(Origin::Restored),
                Event::Launched(Origin::Restored),
                Event::Rejected(Rejection::Torn),
            ] {
                let state_dir = &state_dir;
                scope.spawn(move || (0..EACH).for_each(|_| add(state_dir, event).unwrap()));
            }
        });
        let text = Counters::read(&state_dir).unwrap().exposition();
        assert!(
            text.contains("bulkhead_launches_total{origin=\"restored\"} 40\n"),
            "{text}"
        );
        assert!(
            text.contains("bulkhead_template_rejected_total{reason=\"torn\"} 20\n"),
            "{text}"
        );
        assert!(
            text.contains("bulkhead_launches_total{origin=\"booted\"} 0\n"),
            "{text}"
        );
    }

    #[test]
    fn a_file_that_is_no_counters_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(DIRECTORY)).unwrap();
        fs::write(directory.path().join(DIRECTORY).join(FILE), "{\"half").unwrap();
        assert!(Counters::read(directory.path()).is_err());
        add(directory.path(), Event::Launched(Origin::Booted)).unwrap();
        let text = Counters::read(directory.path()).unwrap().exposition();
        assert!(text.contains("{origin=\"booted\"} 1\n"), "{text}");
    }

    /// The rules of the format: a help and a type before a counter's series, and every series once.
    #[test]
    fn the_text_is_prometheus() {
        let text = Counters::default().exposition();
        let mut described = None;
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(!help.is_empty());
                    described = Some((name, false));
                }
                ["#", "TYPE", name, "counter"] => {
                    assert_eq!(described, Some((name, false)));
                    described = Some((name, true));
                }
                [series, "0"] => {
                    let (name, label) = series.split_once('{').unwrap();
                    assert_eq!(described, Some((name, true)), "{line}");
                    assert!(name.ends_with("_total") && label.ends_with("\"}"), "{line}");
                    assert!(seen.insert(series), "{line}");
                }
                _ => panic!("{line}"),
            }
        }
        // As many as there are events.
        assert_eq!(seen.len(), 8);
    }
}
