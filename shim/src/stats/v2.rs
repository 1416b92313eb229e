//! `io.containerd.cgroups.v2.Metrics`: field by field what the guest sends.

use bulkhead_agent_protocol::message::{IoStat, Stats};
use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};

use super::memory;

/// Converts.
pub fn metrics(stats: &Stats) -> Metrics {
    Metrics {
        pids: Some(PidsStat {
            current: stats.pids_current,
            limit: stats.pids_limit,
            ..PidsStat::default()
        })
        .into(),
        cpu: Some(cpu(stats)).into(),
        memory: Some(memory_stat(stats)).into(),
        io: Some(IOStat {
            usage: stats.io.iter().map(io_entry).collect(),
            ..IOStat::default()
        })
        .into(),
        memory_events: Some(MemoryEvents {
            max: stats.max_events,
            oom: stats.oom_events,
            oom_kill: stats.oom_kills,
            ..MemoryEvents::default()
        })
        .into(),
        ..Metrics::default()
    }
}

fn cpu(stats: &Stats) -> CPUStat {
    CPUStat {
        usage_usec: stats.cpu_usage_usec,
        user_usec: stats.cpu_user_usec,
        system_usec: stats.cpu_system_usec,
        nr_periods: stats.cpu_nr_periods,
        nr_throttled: stats.cpu_nr_throttled,
        throttled_usec: stats.cpu_throttled_usec,
        ..CPUStat::default()
    }
}

fn memory_stat(stats: &Stats) -> MemoryStat {
    MemoryStat {
        anon: memory(stats, "anon"),
        file: memory(stats, "file"),
        kernel_stack: memory(stats, "kernel_stack"),
        slab: memory(stats, "slab"),
        sock: memory(stats, "sock"),
        shmem: memory(stats, "shmem"),
        file_mapped: memory(stats, "file_mapped"),
        file_dirty: memory(stats, "file_dirty"),
        file_writeback: memory(stats, "file_writeback"),
        anon_thp: memory(stats, "anon_thp"),
        inactive_anon: memory(stats, "inactive_anon"),
        active_anon: memory(stats, "active_anon"),
        inactive_file: memory(stats, "inactive_file"),
        active_file: memory(stats, "active_file"),
        unevictable: memory(stats, "unevictable"),
        slab_reclaimable: memory(stats, "slab_reclaimable"),
        slab_unreclaimable: memory(stats, "slab_unreclaimable"),
        pgfault: memory(stats, "pgfault"),
        pgmajfault: memory(stats, "pgmajfault"),
        // One counter until 5.8, one for each kind since.
        workingset_refault: memory(stats, "workingset_refault")
            + memory(stats, "workingset_refault_anon")
            + memory(stats, "workingset_refault_file"),
        workingset_activate: memory(stats, "workingset_activate")
            + memory(stats, "workingset_activate_anon")
            + memory(stats, "workingset_activate_file"),
        workingset_nodereclaim: memory(stats, "workingset_nodereclaim"),
        pgrefill: memory(stats, "pgrefill"),
        pgscan: memory(stats, "pgscan"),
        pgsteal: memory(stats, "pgsteal"),
        pgactivate: memory(stats, "pgactivate"),
        pgdeactivate: memory(stats, "pgdeactivate"),
        pglazyfree: memory(stats, "pglazyfree"),
        pglazyfreed: memory(stats, "pglazyfreed"),
        thp_fault_alloc: memory(stats, "thp_fault_alloc"),
        thp_collapse_alloc: memory(stats, "thp_collapse_alloc"),
        usage: stats.memory_usage,
        usage_limit: stats.memory_limit,
        swap_usage: stats.swap_usage,
        swap_limit: stats.swap_limit,
        max_usage: stats.memory_peak,
        ..MemoryStat::default()
    }
}

fn io_entry(io: &IoStat) -> IOEntry {
    IOEntry {
        major: io.major,
        minor: io.minor,
        rbytes: io.rbytes,
        wbytes: io.wbytes,
        rios: io.rios,
        wios: io.wios,
        ..IOEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cri_reads() {
        let metrics = metrics(&super::super::sample());
        assert_eq!(metrics.cpu.usage_usec, 1_000);
        assert_eq!(
            (metrics.memory.usage, metrics.memory.usage_limit),
            (4096, 1 << 20)
        );
        assert_eq!((metrics.memory.inactive_file, metrics.memory.anon), (50, 100));
        assert_eq!((metrics.memory.pgfault, metrics.memory.pgmajfault), (7, 1));
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, 64));
        assert_eq!(metrics.memory_events.oom_kill, 1);
        assert_eq!((metrics.io.usage[0].rbytes, metrics.io.usage[0].wios), (11, 14));
    }
}
