//! A container's counters, read from its cgroup.

use std::collections::BTreeMap;
use std::fs;

use bulkhead_agent_protocol::message::{IoStat, Stats};

use super::cgroup::Cgroup;

/// Keys of `memory.stat` that containerd's metrics have; the others would only cost bytes every second.
const MEMORY_KEYS: [&str; 31] = [
    "active_anon",
    "active_file",
    "anon",
    "anon_thp",
    "file",
    "file_dirty",
    "file_mapped",
    "file_writeback",
    "inactive_anon",
    "inactive_file",
    "kernel_stack",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pglazyfree",
    "pglazyfreed",
    "pgmajfault",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "shmem",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "sock",
    "thp_collapse_alloc",
    "thp_fault_alloc",
    "unevictable",
    "workingset_activate",
    "workingset_nodereclaim",
    "workingset_refault",
];

/// Most devices reported; a guest has a handful.
const MAX_DEVICES: usize = 64;

/// Reads every counter of the container's cgroup; what the kernel does not have is 0.
pub fn read(container_id: &str, cgroup: &Cgroup, other_pids: Vec<u32>) -> Stats {
    let text = |name: &str| fs::read_to_string(cgroup.file(name)).unwrap_or_default();
    let (cpu, events, memory) = (text("cpu.stat"), text("memory.events"), text("memory.stat"));
    let (cpu, events, memory) = (keyed(&cpu), keyed(&events), keyed(&memory));
    let cpu = |key: &str| cpu.get(key).copied().unwrap_or_default();
    let event = |key: &str| events.get(key).copied().unwrap_or_default();
    Stats {
        container_id: container_id.to_owned(),
        cpu_usage_usec: cpu("usage_usec"),
        cpu_user_usec: cpu("user_usec"),
        cpu_system_usec: cpu("system_usec"),
        cpu_nr_periods: cpu("nr_periods"),
        cpu_nr_throttled: cpu("nr_throttled"),
        cpu_throttled_usec: cpu("throttled_usec"),
        memory_usage: number(&text("memory.current")),
        memory_limit: number(&text("memory.max")),
        memory_peak: number(&text("memory.peak")),
        swap_usage: number(&text("memory.swap.current")),
        swap_limit: number(&text("memory.swap.max")),
        memory_stat: MEMORY_KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), *memory.get(*key)?)))
            .collect(),
        oom_kills: event("oom_kill"),
        oom_events: event("oom"),
        max_events: event("max"),
        pids_current: number(&text("pids.current")),
        // Here 0, not the largest number, is "max": containerd's metrics have it so.
        pids_limit: match number(&text("pids.max")) {
            u64::MAX => 0,
            limit => limit,
        },
        io: text("io.stat")
            .lines()
            .filter_map(io_line)
            .take(MAX_DEVICES)
            .collect(),
        other_pids,
    }
}

/// How many processes of the cgroup the kernel has killed for want of memory.
pub fn oom_kills(cgroup: &Cgroup) -> u64 {
    let events = fs::read_to_string(cgroup.file("memory.events")).unwrap_or_default();
    keyed(&events).get("oom_kill").copied().unwrap_or_default()
}

/// `key value` lines.
fn keyed(text: &str) -> BTreeMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key, value.trim().parse().ok()?))
        })
        .collect()
}

/// A file with one number; `max` is the largest.
fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        digits => digits.parse().unwrap_or_default(),
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn io_line(line: &str) -> Option<IoStat> {
    let mut words = line.split(' ');
    let (major, minor) = words.next()?.split_once(':')?;
    let mut stat = IoStat {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..IoStat::default()
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().unwrap_or_default();
        match key {
            "rbytes" => stat.rbytes = value,
            "wbytes" => stat.wbytes = value,
            "rios" => stat.rios = value,
            "wios" => stat.wios = value,
            _ => {}
        }
    }
    Some(stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_parsed() {
        assert_eq!(
            keyed("usage_usec 12\nuser_usec 7\nbad\n").get("user_usec"),
            Some(&7)
        );
        assert_eq!((number("max\n"), number("42\n"), number("")), (u64::MAX, 42, 0));
        let stat = io_line("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6").unwrap();
        assert_eq!((stat.major, stat.minor, stat.rbytes, stat.wios), (8, 16, 1, 4));
        assert_eq!(io_line("nonsense"), None);
    }
}
