//! Waiting: always for something, never longer than a stated time.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::settings::Settings;

/// For what takes a second on an idle machine: ten times that, and the emulated guest besides.
pub const ORDINARY: Duration = Duration::from_secs(30);
/// For what boots a VM or moves megabytes.
pub const LONG: Duration = Duration::from_secs(90);
/// How often a state is looked at that nothing reports.
const POLL: Duration = Duration::from_millis(20);

/// `limit` on this machine: longer by the factor that `BULKHEAD_SLOW` says. Whatever waits, waits this long.
pub fn scaled(limit: Duration) -> Duration {
    limit * Settings::get().slowness
}

/// Polls `probe` until it yields a value. Panics, naming `what`, when `limit` has passed.
#[track_caller]
pub fn poll<T>(what: impl Display, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    try_poll(limit, probe).unwrap_or_else(|| panic!("{what}: not seen within {limit:?}"))
}

/// Polls `probe` until it yields a value or `limit` has passed.
pub fn try_poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let limit = scaled(limit);
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
