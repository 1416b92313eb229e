//! `linux.resources`: checked, and split into the limits of the host's cgroup and the guest's.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxResources,
    LinuxThrottleDevice,
};

use crate::devices;
use crate::error::{PlanError, invalid, unsupported};
use crate::group::Role;

/// Most device rules, and most entries of the other lists and maps; the largest seen in real specs is 15.
const MAX_ENTRIES: usize = 16_384;
/// cgroup v2 multiplies shares and weights up to these (v1's limits, which the specification keeps).
const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// The kernel's limits for cpu.cfs_period_us: 1 ms to 1 s.
const CPU_PERIOD: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The kernel's least quota, 1 ms.
const MIN_CPU_QUOTA: i64 = 1_000;

/// Both halves of `linux.resources`.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourcesPlan {
    /// For the host's cgroup of the container.
    pub host: LinuxResources,
    /// For the guest's.
    pub guest: LinuxResources,
    /// What is left out on one side, for the log.
    pub warnings: Vec<String>,
}

/// Checks limits, of a spec or of an Update request, and splits them.
///
/// # Errors
/// Names the field that is invalid or not supported.
pub fn plan_resources(resources: &LinuxResources) -> Result<ResourcesPlan, PlanError> {
    let mut warnings = Vec::new();
    resources.memory().as_ref().map_or(Ok(()), memory)?;
    resources.cpu().as_ref().map_or(Ok(()), cpu)?;
    resources.block_io().as_ref().map_or(Ok(()), block_io)?;
    resources.network().as_ref().map_or(Ok(()), network)?;
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(field_unsupported("rdma", "the guest has no RDMA devices"));
    }
    huge_pages(resources.hugepage_limits().as_deref().unwrap_or_default())?;
    device_rules(resources.devices().as_deref().unwrap_or_default())?;
    resources.unified().as_ref().map_or(Ok(()), unified)?;

    let resources = without_zeros(resources);
    let mut host = resources.clone();
    // The host's process of a container opens no devices, and the guest's processes open the guest's.
    host.set_devices(None);
    host.set_network(None);
    let guest = for_guest(&resources, &mut warnings);
    host.set_block_io(host.block_io().clone().filter(limits_block_io));
    Ok(ResourcesPlan {
        host,
        guest,
        warnings,
    })
}

/// containerd and its clients write 0 for "not set", which cgroup files would take for a limit.
fn without_zeros(resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    if let Some(given) = *resources.memory() {
        let mut memory = given;
        memory
            .set_limit(given.limit().filter(|n| *n != 0))
            .set_reservation(given.reservation().filter(|n| *n != 0))
            // Unlimited swap for unlimited memory is what there is anyway.
            .set_swap(
                given
                    .swap()
                    .filter(|n| *n != 0 && given.limit().is_some_and(|limit| limit != 0)),
            );
        resources.set_memory(Some(memory));
    }
    if let Some(given) = resources.cpu().clone() {
        let mut cpu = given.clone();
        cpu.set_shares(given.shares().filter(|n| *n != 0))
            .set_quota(given.quota().filter(|n| *n != 0))
            .set_period(given.period().filter(|n| *n != 0))
            .set_realtime_runtime(None)
            .set_realtime_period(None);
        resources.set_cpu(Some(cpu));
    }
    resources.set_pids(resources.pids().filter(|pids| pids.limit() != 0));
    resources
}

fn for_guest(resources: &LinuxResources, warnings: &mut Vec<String>) -> LinuxResources {
    let mut guest = resources.clone();
    guest.set_network(None);
    guest.set_devices(guest.devices().as_deref().map(devices::guest_rules));
    guest.set_hugepage_limits(None);
    guest.set_cpu(guest.cpu().clone().map(|cpu| guest_cpu(cpu, warnings)));
    // It names devices of the host, which the VM's processes use for the container.
    guest.set_block_io(None);
    guest
}

/// A set of CPUs or memory nodes names the host's; the guest numbers its own.
fn guest_cpu(mut cpu: LinuxCpu, warnings: &mut Vec<String>) -> LinuxCpu {
    let named = |set: &Option<String>| set.as_ref().is_some_and(|set| !set.is_empty());
    if named(cpu.cpus()) || named(cpu.mems()) {
        warnings.push("linux.resources.cpu.cpus and .mems name the host's and are set there alone".into());
    }
    cpu.set_cpus(None);
    cpu.set_mems(None);
    cpu
}

fn memory(memory: &LinuxMemory) -> Result<(), PlanError> {
    for (name, value) in [
        ("limit", memory.limit()),
        ("reservation", memory.reservation()),
        ("swap", memory.swap()),
        ("kernel", memory.kernel()),
        ("kernelTCP", memory.kernel_tcp()),
    ] {
        if let Some(value) = value.filter(|value| *value < -1) {
            let reason = format!("{value} is negative; -1 is unlimited");
            return Err(field_invalid(&format!("memory.{name}"), reason));
        }
    }
    let set = |value: Option<i64>| value.filter(|value| *value > 0);
    if let (Some(limit), Some(swap)) = (set(memory.limit()), set(memory.swap()))
        && swap < limit
    {
        let reason = format!("{swap} is below the memory limit {limit}, which it includes");
        return Err(field_invalid("memory.swap", reason));
    }
    if set(memory.swap()).is_some() && set(memory.limit()).is_none() {
        return Err(field_invalid("memory.swap", "there is no memory limit"));
    }
    if let Some(swappiness) = memory.swappiness().filter(|percent| *percent > 100) {
        let reason = format!("{swappiness} is not in 0..=100");
        return Err(field_invalid("memory.swappiness", reason));
    }
    Ok(())
}

fn cpu(cpu: &LinuxCpu) -> Result<(), PlanError> {
    // 0 is "not set" to containerd and to the kernel's other users.
    if let Some(shares) = cpu.shares().filter(|n| *n != 0 && !CPU_SHARES.contains(n)) {
        let reason = format!("{shares} is not in {}..={}", CPU_SHARES.start(), CPU_SHARES.end());
        return Err(field_invalid("cpu.shares", reason));
    }
    if let Some(period) = cpu.period().filter(|n| *n != 0 && !CPU_PERIOD.contains(n)) {
        let reason = format!(
            "{period} is not in {}..={} µs",
            CPU_PERIOD.start(),
            CPU_PERIOD.end()
        );
        return Err(field_invalid("cpu.period", reason));
    }
    if let Some(quota) = cpu.quota().filter(|n| !matches!(n, 0 | -1) && *n < MIN_CPU_QUOTA) {
        let reason = format!("{quota} is less than {MIN_CPU_QUOTA} µs; -1 is unlimited");
        return Err(field_invalid("cpu.quota", reason));
    }
    if let Some(idle) = cpu.idle().filter(|idle| !(0..=1).contains(idle)) {
        return Err(field_invalid("cpu.idle", format!("{idle} is neither 0 nor 1")));
    }
    if cpu.realtime_runtime().unwrap_or(0) != 0 || cpu.realtime_period().unwrap_or(0) != 0 {
        return Err(field_unsupported(
            "cpu.realtimeRuntime",
            "cgroup v2 has no real-time budget",
        ));
    }
    for (name, set) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        let is_list = |set: &str| {
            set.bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b',' | b'-' | b'\n'))
        };
        if let Some(set) = set.as_deref().filter(|set| !is_list(set)) {
            let reason = format!("{set:?} is not a list such as 0-3,7");
            return Err(field_invalid(&format!("cpu.{name}"), reason));
        }
    }
    Ok(())
}

fn block_io(io: &LinuxBlockIo) -> Result<(), PlanError> {
    if let Some(weight) = io.weight().filter(|n| *n != 0 && !(10..=1000).contains(n)) {
        return Err(field_invalid(
            "blockIO.weight",
            format!("{weight} is not in 10..=1000"),
        ));
    }
    if io.weight_device().as_ref().is_some_and(|list| !list.is_empty()) {
        let reason = "weights of one device need a scheduler that most hosts lack; use throttle limits";
        return Err(field_unsupported("blockIO.weightDevice", reason));
    }
    for (name, limits) in throttles(io) {
        bounded(&format!("blockIO.{name}"), limits.len())?;
        if let Some(n) = limits
            .iter()
            .position(|device| device.major() < 0 || device.minor() < 0)
        {
            let field = format!("blockIO.{name}[{n}]");
            return Err(field_invalid(&field, "a device number is negative"));
        }
    }
    Ok(())
}

/// The lists of limits of single devices, by their names in the specification.
fn throttles(io: &LinuxBlockIo) -> [(&'static str, &[LinuxThrottleDevice]); 4] {
    fn list(list: &Option<Vec<LinuxThrottleDevice>>) -> &[LinuxThrottleDevice] {
        list.as_deref().unwrap_or_default()
    }
    [
        ("throttleReadBpsDevice", list(io.throttle_read_bps_device())),
        ("throttleWriteBpsDevice", list(io.throttle_write_bps_device())),
        ("throttleReadIOPSDevice", list(io.throttle_read_iops_device())),
        ("throttleWriteIOPSDevice", list(io.throttle_write_iops_device())),
    ]
}

/// Whether it asks for anything. Clients send it empty, and 0 for no weight.
fn limits_block_io(io: &LinuxBlockIo) -> bool {
    io.weight().is_some_and(|weight| weight != 0) || throttles(io).iter().any(|(_, list)| !list.is_empty())
}

/// Block I/O is the VM's: its processes read and write for every container in it, and nothing tells for which.
///
/// # Errors
/// The container is one of several and has limits of its own.
pub(crate) fn check_block_io(
    host: &mut LinuxResources,
    role: Role,
    warnings: &mut Vec<String>,
) -> Result<(), PlanError> {
    let Some(io) = host.block_io().as_ref().filter(|_| role != Role::Alone) else {
        return Ok(());
    };
    if let Some((name, _)) = throttles(io).into_iter().find(|(_, list)| !list.is_empty()) {
        let reason = "the containers of a pod share their VM's I/O, which can only be limited as a whole";
        return Err(field_unsupported(&format!("blockIO.{name}"), reason));
    }
    warnings.push(
        "linux.resources.blockIO.weight is ignored: the containers of a pod share their VM's I/O".into(),
    );
    host.set_block_io(None);
    Ok(())
}

fn network(network: &LinuxNetwork) -> Result<(), PlanError> {
    let has_class = network.class_id().is_some_and(|id| id != 0);
    if has_class || network.priorities().as_ref().is_some_and(|list| !list.is_empty()) {
        let reason = "net_cls and net_prio are of cgroup v1; the guest has v2";
        return Err(field_unsupported("network", reason));
    }
    Ok(())
}

/// kubelet sends a limit of 0 for every page size there is, which a guest without huge pages keeps.
fn huge_pages(limits: &[LinuxHugepageLimit]) -> Result<(), PlanError> {
    bounded("hugepageLimits", limits.len())?;
    match limits.iter().position(|limit| limit.limit() != 0) {
        Some(n) => {
            let field = format!("hugepageLimits[{n}]");
            Err(field_unsupported(&field, "the guest has no huge pages to give"))
        }
        None => Ok(()),
    }
}

fn device_rules(rules: &[LinuxDeviceCgroup]) -> Result<(), PlanError> {
    bounded("devices", rules.len())?;
    for (n, rule) in rules.iter().enumerate() {
        let access = rule.access().as_deref().unwrap_or_default();
        if !access.bytes().all(|kind| b"rwm".contains(&kind)) {
            let reason = format!("{access:?} has other letters than r, w and m");
            return Err(field_invalid(&format!("devices[{n}].access"), reason));
        }
        if [rule.major(), rule.minor()]
            .into_iter()
            .flatten()
            .any(|number| number < -1)
        {
            let field = format!("devices[{n}]");
            return Err(field_invalid(&field, "a device number is negative; -1 is any"));
        }
    }
    Ok(())
}

fn unified(files: &HashMap<String, String>) -> Result<(), PlanError> {
    bounded("unified", files.len())?;
    for (file, value) in files {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !file.contains('.') || file.starts_with('.') || !file.bytes().all(is_name) {
            let reason = format!("{file:?} is not the name of a cgroup v2 file");
            return Err(field_invalid("unified", reason));
        }
        if value.contains('\0') {
            let field = format!("unified[{file:?}]");
            return Err(field_invalid(&field, "contains a NUL byte"));
        }
    }
    Ok(())
}

fn bounded(field: &str, entries: usize) -> Result<(), PlanError> {
    if entries > MAX_ENTRIES {
        return Err(field_invalid(
            field,
            format!("{entries} entries, more than {MAX_ENTRIES}"),
        ));
    }
    Ok(())
}

fn field_invalid(field: &str, reason: impl Into<String>) -> PlanError {
    invalid(format!("linux.resources.{field}"), reason)
}

fn field_unsupported(field: &str, reason: impl Into<String>) -> PlanError {
    unsupported(format!("linux.resources.{field}"), reason)
}
