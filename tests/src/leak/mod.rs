//! Proves that a test left nothing behind: everything that a sandbox makes on the host is listed
//! before and after, and the lists must become equal within a bounded wait.
//!
//! The lists hold only what belongs to the test's own daemon (its directory, its namespace, the
//! sockets of its containers' ids), so that other work on the machine does not disturb. With
//! `BULKHEAD_EXCLUSIVE=1` they hold everything of that kind.

mod history;
mod host;
mod processes;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::deadline;
use crate::settings::Settings;

/// A shim may take this long after the last Delete to end its VM and itself; it takes one or two seconds
/// on a machine of its own.
const SETTLE: Duration = Duration::from_secs(30);

/// What was there before a test.
pub struct Baseline {
    before: BTreeSet<String>,
    events: usize,
}

/// Tells what belongs to one daemon.
struct Scope {
    exclusive: bool,
    /// Text that a path, a command line or a mount of this daemon contains.
    marks: Vec<String>,
    /// Names of the sockets that shims of this daemon's containers listen on.
    sockets: BTreeSet<String>,
}

// === impl Baseline ===

impl Baseline {
    /// The state of the machine now.
    pub fn of(daemon: &Daemon) -> Baseline {
        Baseline {
            before: snapshot(daemon),
            events: daemon.events().all().len(),
        }
    }

    /// Waits until nothing is there that was not before, and names what remains.
    pub fn wait_restored(&self, daemon: &Daemon) -> Vec<String> {
        let added = || {
            snapshot(daemon)
                .difference(&self.before)
                .cloned()
                .collect::<Vec<_>>()
        };
        let clean = deadline::try_poll(SETTLE, || added().is_empty().then_some(()));
        let mut leftovers = if clean.is_some() { Vec::new() } else { added() };
        let lost: Vec<String> = self.before.difference(&snapshot(daemon)).cloned().collect();
        leftovers.extend(lost.into_iter().map(|item| format!("gone: {item}")));
        leftovers.extend(history::faults(&daemon.events().all()[self.events..]));
        leftovers
    }
}

/// Removes what all containers of a daemon have in common, when the last of them is gone.
pub fn remove_common(daemon: &Daemon) {
    host::remove_cgroup_parents(daemon);
}

// === impl Scope ===

impl Scope {
    fn of(daemon: &Daemon) -> Scope {
        Scope {
            exclusive: Settings::get().exclusive,
            marks: vec![daemon.dir().display().to_string(), daemon.name().to_owned()],
            sockets: daemon
                .ids()
                .iter()
                .map(|id| host::socket_name(daemon, id))
                .collect(),
        }
    }

    fn claims(&self, text: &str) -> bool {
        self.exclusive || self.is_marked(text)
    }

    fn is_marked(&self, text: &str) -> bool {
        self.marks.iter().any(|mark| text.contains(mark))
    }
}

fn snapshot(daemon: &Daemon) -> BTreeSet<String> {
    let scope = Scope::of(daemon);
    let mut items = BTreeSet::new();
    processes::list(&scope, daemon, &mut items);
    host::list(&scope, daemon, &mut items);
    items
}
