//! The limits of a spec as the files of cgroup versions 1 and 2. Pure.

use oci_spec::runtime::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};

/// One file of a cgroup and what is written into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Whose file it is.
    pub controller: &'static str,
    /// Its name.
    pub file: &'static str,
    /// Text to write.
    pub value: String,
    /// A kernel that lacks the file is no error.
    pub optional: bool,
}

/// The kernel's default CFS period in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Text of a value, however it came.
struct Value(String);

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self(number.to_string())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

fn setting(controller: &'static str, file: &'static str, value: impl Into<Value>) -> Setting {
    Setting {
        controller,
        file,
        value: value.into().0,
        optional: false,
    }
}

/// Version 1.
pub(super) fn v1(resources: &LinuxResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        let mut add = |file, value: Option<i64>| {
            settings.extend(value.map(|value| setting("memory", file, value)));
        };
        add("memory.limit_in_bytes", memory.limit());
        add("memory.soft_limit_in_bytes", memory.reservation());
        if let Some(swap) = memory.swap() {
            let file = "memory.memsw.limit_in_bytes";
            settings.push(Setting {
                optional: true,
                ..setting("memory", file, swap)
            });
        }
    }
    if let Some(cpu) = resources.cpu() {
        settings.extend(cpu.shares().map(|shares| setting("cpu", "cpu.shares", shares)));
        settings.extend(
            cpu.period()
                .map(|period| setting("cpu", "cpu.cfs_period_us", period)),
        );
        settings.extend(cpu.quota().map(|quota| setting("cpu", "cpu.cfs_quota_us", quota)));
    }
    settings.extend(pids_max(resources));
    settings
}

/// Version 2.
pub(super) fn v2(resources: &LinuxResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        settings.extend(
            memory
                .limit()
                .map(|limit| setting("memory", "memory.max", or_max(limit))),
        );
        settings.extend(
            memory
                .reservation()
                .map(|low| setting("memory", "memory.low", or_max(low))),
        );
        if let Some(swap) = memory.swap() {
            // Version 1, and the spec, count memory and swap together.
            let alone = if swap < 0 {
                swap
            } else {
                (swap - memory.limit().unwrap_or(0)).max(0)
            };
            let file = "memory.swap.max";
            settings.push(Setting {
                optional: true,
                ..setting("memory", file, or_max(alone))
            });
        }
    }
    if let Some(cpu) = resources.cpu() {
        settings.extend(
            cpu.shares()
                .map(|shares| setting("cpu", "cpu.weight", weight(shares))),
        );
        if cpu.quota().is_some() || cpu.period().is_some() {
            let quota = cpu
                .quota()
                .filter(|quota| *quota > 0)
                .map_or("max".to_owned(), |q| q.to_string());
            let period = cpu.period().unwrap_or(DEFAULT_PERIOD);
            settings.push(setting("cpu", "cpu.max", format!("{quota} {period}")));
        }
    }
    settings.extend(pids_max(resources));
    settings
}

/// Block I/O by version 1.
pub(super) fn block_io_v1(io: &LinuxBlockIo) -> Vec<Setting> {
    let limits = throttles(io, |[file, _], device, rate| {
        setting("blkio", file, format!("{device} {rate}"))
    });
    let weight = io_weight(io).map(|weight| setting("blkio", "blkio.bfq.weight", weight));
    limits.chain(weight.map(optional)).collect()
}

/// Block I/O by version 2.
pub(super) fn block_io_v2(io: &LinuxBlockIo) -> Vec<Setting> {
    let limits = throttles(io, |[_, key], device, rate| {
        let rate = if rate == 0 {
            "max".to_owned()
        } else {
            rate.to_string()
        };
        setting("io", "io.max", format!("{device} {key}={rate}"))
    });
    // Version 1's 10..=1000 as 1..=10000, by runc's formula.
    let weight = io_weight(io).map(|weight| 1 + (weight.clamp(10, 1000) - 10) * 9999 / 990);
    let weight = weight.map(|weight| setting("io", "io.weight", weight));
    limits.chain(weight.map(optional)).collect()
}

/// Every limit of a device: the name of version 1's file and of version 2's key, the device, and the rate, of which
/// 0 is none.
fn throttles<'a>(
    io: &'a LinuxBlockIo,
    setting: impl Fn([&'static str; 2], String, u64) -> Setting + 'a,
) -> impl Iterator<Item = Setting> + 'a {
    let lists: [(_, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        (
            ["blkio.throttle.read_bps_device", "rbps"],
            io.throttle_read_bps_device(),
        ),
        (
            ["blkio.throttle.write_bps_device", "wbps"],
            io.throttle_write_bps_device(),
        ),
        (
            ["blkio.throttle.read_iops_device", "riops"],
            io.throttle_read_iops_device(),
        ),
        (
            ["blkio.throttle.write_iops_device", "wiops"],
            io.throttle_write_iops_device(),
        ),
    ];
    let limits = lists
        .into_iter()
        .flat_map(|(names, list)| list.iter().flatten().map(move |limit| (names, limit)));
    limits.map(move |(names, limit)| {
        let device = format!("{}:{}", limit.major(), limit.minor());
        setting(names, device, limit.rate())
    })
}

fn io_weight(io: &LinuxBlockIo) -> Option<u64> {
    io.weight().map(u64::from).filter(|weight| *weight != 0)
}

/// Weights work with a scheduler that most hosts' disks do not use.
fn optional(setting: Setting) -> Setting {
    Setting {
        optional: true,
        ..setting
    }
}

fn pids_max(resources: &LinuxResources) -> Option<Setting> {
    // The spec's 0 or less is no limit.
    let limit = resources.pids().as_ref()?.limit();
    Some(setting(
        "pids",
        "pids.max",
        if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        },
    ))
}

fn or_max(bytes: i64) -> String {
    if bytes < 0 {
        "max".to_owned()
    } else {
        bytes.to_string()
    }
}

/// Shares (2..=262144, default 1024) as a weight (1..=10000, default 100), by the formula of runtime-spec.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}
