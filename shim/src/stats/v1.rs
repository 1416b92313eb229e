//! `io.containerd.cgroups.v1.Metrics`, from counters of cgroup v2.

use bulkhead_agent_protocol::message::{IoStat, Stats};
use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, MemoryEntry, MemoryOomControl, MemoryStat, Metrics, PidsStat,
    Throttle,
};

use super::memory;

/// v1 counts processor time in nanoseconds.
const NS_PER_USEC: u64 = 1000;

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
        blkio: Some(blkio(stats)).into(),
        memory_oom_control: Some(MemoryOomControl {
            oom_kill: stats.oom_kills,
            ..MemoryOomControl::default()
        })
        .into(),
        ..Metrics::default()
    }
}

fn cpu(stats: &Stats) -> CPUStat {
    let total = ns(stats.cpu_usage_usec);
    CPUStat {
        usage: Some(CPUUsage {
            total,
            kernel: ns(stats.cpu_system_usec),
            user: ns(stats.cpu_user_usec),
            // v2 does not count per processor, and clients take this list's length for their number.
            per_cpu: vec![total],
            ..CPUUsage::default()
        })
        .into(),
        throttling: Some(Throttle {
            periods: stats.cpu_nr_periods,
            throttled_periods: stats.cpu_nr_throttled,
            throttled_time: ns(stats.cpu_throttled_usec),
            ..Throttle::default()
        })
        .into(),
        ..CPUStat::default()
    }
}

fn memory_stat(stats: &Stats) -> MemoryStat {
    let of = |key| memory(stats, key);
    MemoryStat {
        cache: of("file"),
        rss: of("anon"),
        rss_huge: of("anon_thp"),
        mapped_file: of("file_mapped"),
        dirty: of("file_dirty"),
        writeback: of("file_writeback"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: stats.memory_limit,
        hierarchical_swap_limit: stats.swap_limit,
        // v2 counts hierarchies only, so totals are the same.
        total_cache: of("file"),
        total_rss: of("anon"),
        total_rss_huge: of("anon_thp"),
        total_mapped_file: of("file_mapped"),
        total_dirty: of("file_dirty"),
        total_writeback: of("file_writeback"),
        total_pg_fault: of("pgfault"),
        total_pg_maj_fault: of("pgmajfault"),
        total_inactive_anon: of("inactive_anon"),
        total_active_anon: of("active_anon"),
        total_inactive_file: of("inactive_file"),
        total_active_file: of("active_file"),
        total_unevictable: of("unevictable"),
        usage: entry(
            stats.memory_usage,
            stats.memory_limit,
            stats.memory_peak,
            stats.max_events,
        ),
        // v1's "swap" is memory and swap together.
        swap: entry(
            stats.memory_usage.saturating_add(stats.swap_usage),
            stats.memory_limit.saturating_add(stats.swap_limit),
            0,
            0,
        ),
        kernel: entry(of("kernel"), u64::MAX, 0, 0),
        kernel_tcp: entry(of("sock"), u64::MAX, 0, 0),
        ..MemoryStat::default()
    }
}

fn entry(usage: u64, limit: u64, max: u64, failcnt: u64) -> protobuf::MessageField<MemoryEntry> {
    Some(MemoryEntry {
        usage,
        limit,
        max,
        failcnt,
        ..MemoryEntry::default()
    })
    .into()
}

fn blkio(stats: &Stats) -> BlkIOStat {
    let pairs = |read: fn(&IoStat) -> u64, write: fn(&IoStat) -> u64| {
        let of_one = |io: &IoStat| {
            [
                blkio_entry(io, "Read", read(io)),
                blkio_entry(io, "Write", write(io)),
            ]
        };
        stats.io.iter().flat_map(of_one).collect()
    };
    BlkIOStat {
        io_service_bytes_recursive: pairs(|io| io.rbytes, |io| io.wbytes),
        io_serviced_recursive: pairs(|io| io.rios, |io| io.wios),
        ..BlkIOStat::default()
    }
}

fn blkio_entry(io: &IoStat, op: &str, value: u64) -> BlkIOEntry {
    BlkIOEntry {
        op: op.to_owned(),
        major: io.major,
        minor: io.minor,
        value,
        ..BlkIOEntry::default()
    }
}

fn ns(usec: u64) -> u64 {
    usec.saturating_mul(NS_PER_USEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cri_and_nerdctl_read() {
        let metrics = metrics(&super::super::sample());
        assert_eq!(
            (metrics.cpu.usage.total, metrics.cpu.usage.kernel),
            (1_000_000, 400_000)
        );
        assert_eq!(metrics.cpu.usage.per_cpu.len(), 1);
        assert_eq!(metrics.cpu.throttling.throttled_time, 30_000);
        assert_eq!(
            (metrics.memory.usage.usage, metrics.memory.usage.limit),
            (4096, 1 << 20)
        );
        assert_eq!(
            (metrics.memory.total_inactive_file, metrics.memory.total_rss),
            (50, 100)
        );
        assert_eq!(
            (metrics.memory.total_pg_fault, metrics.memory.total_pg_maj_fault),
            (7, 1)
        );
        assert_eq!(metrics.memory.swap.usage, 4106);
        assert_eq!(metrics.memory_oom_control.oom_kill, 1);
        let bytes: Vec<_> = metrics
            .blkio
            .io_service_bytes_recursive
            .iter()
            .map(|entry| (entry.op.as_str(), entry.value))
            .collect();
        assert_eq!(bytes, [("Read", 11), ("Write", 12)]);
    }

    #[test]
    fn no_limit_stays_no_limit() {
        let stats = Stats {
            memory_limit: u64::MAX,
            swap_limit: u64::MAX,
            ..Stats::default()
        };
        assert_eq!(metrics(&stats).memory.swap.limit, u64::MAX);
    }
}
