//! OCI resources as the files of a cgroup v2. Pure: what to write, not the writing.

use bulkhead_agent_protocol::message::FailureKind;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::failure::Failure;

/// One write: file of the cgroup's directory, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// File name.
    pub file: String,
    /// Its new content.
    pub value: String,
}

/// Default period of the CPU bandwidth controller, microseconds, as the kernel has it.
const DEFAULT_PERIOD: u64 = 100_000;

/// The settings that make `resources` so, in order. What is absent stays as it is. Device rules are not
/// among them (see `devices`).
///
/// # Errors
/// `Unsupported` for what cgroup v2 or a guest does not have, `InvalidArgument` for nonsense.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, Failure> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut settings)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut settings)?;
    }
    if let Some(pids) = resources.pids() {
        // Zero and negative both mean no limit, as in runc.
        let limit = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        push(&mut settings, "pids.max", limit);
    }
    if let Some(block_io) = resources.block_io() {
        block_io_settings(block_io, &mut settings)?;
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = huge.page_size();
        if !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Failure::invalid(format!("hugepageLimits: page size {size:?}")));
        }
        push(
            &mut settings,
            &format!("hugetlb.{size}.max"),
            huge.limit().to_string(),
        );
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(Failure::unsupported(
            "resources.rdma: a guest has no such devices",
        ));
    }
    let network = resources.network().as_ref();
    if network.is_some_and(|net| net.class_id().is_some() || net.priorities().is_some()) {
        return Err(Failure::unsupported(
            "resources.network: cgroup v2 has no such controller",
        ));
    }
    for (file, value) in resources.unified().iter().flatten() {
        unified_setting(file, value, &mut settings)?;
    }
    Ok(settings)
}

fn push(settings: &mut Vec<Setting>, file: &str, value: impl Into<String>) {
    settings.push(Setting {
        file: file.to_owned(),
        value: value.into(),
    });
}

fn bytes(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

fn memory_settings(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), Failure> {
    if memory.kernel_tcp().is_some_and(|limit| limit > 0) {
        return Err(Failure::unsupported(
            "resources.memory.kernelTCP: cgroup v2 has no such limit",
        ));
    }
    if memory.swappiness().is_some() {
        return Err(Failure::unsupported(
            "resources.memory.swappiness: cgroup v2 has no such setting",
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Failure::unsupported(
            "resources.memory.disableOOMKiller: cgroup v2 cannot disable it",
        ));
    }
    // 0 is "unset" in the specs of docker and its kin.
    let limit = memory.limit().filter(|limit| *limit != 0);
    match (limit, memory.swap().filter(|swap| *swap != 0)) {
        // OCI's swap is memory and swap together, cgroup v2's is swap alone.
        (Some(limit), Some(swap)) if limit > 0 && swap > 0 => {
            let alone = swap.checked_sub(limit).filter(|alone| *alone >= 0);
            let alone = alone.ok_or_else(|| {
                Failure::invalid(format!(
                    "memory swap limit {swap} is below the memory limit {limit}"
                ))
            })?;
            push(settings, "memory.swap.max", alone.to_string());
        }
        (_, Some(swap)) if swap < 0 => push(settings, "memory.swap.max", "max"),
        (Some(limit), None) if limit < 0 => push(settings, "memory.swap.max", "max"),
        (_, Some(_)) => {
            return Err(Failure::invalid("a memory swap limit needs a memory limit"));
        }
        (_, None) => {}
    }
    if let Some(limit) = limit {
        push(settings, "memory.max", bytes(limit));
    }
    if let Some(reservation) = memory.reservation().filter(|bytes| *bytes != 0) {
        push(settings, "memory.low", bytes(reservation));
    }
    Ok(())
}

fn cpu_settings(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<(), Failure> {
    if cpu.realtime_runtime().is_some_and(|us| us != 0) || cpu.realtime_period().is_some_and(|us| us != 0) {
        return Err(Failure::unsupported(
            "resources.cpu: cgroup v2 has no realtime bandwidth",
        ));
    }
    if let Some(idle) = cpu.idle() {
        push(settings, "cpu.idle", idle.to_string());
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        push(settings, "cpu.weight", weight(shares).to_string());
    }
    // Zero and negative quotas mean none; "max" alone leaves the period as it is.
    let quota = match cpu.quota() {
        Some(quota) if quota > 0 => Some(quota.to_string()),
        Some(_) => Some("max".to_owned()),
        None => None,
    };
    match (quota, cpu.period().filter(|period| *period != 0)) {
        (Some(quota), period) => {
            let period = period.unwrap_or(DEFAULT_PERIOD);
            push(settings, "cpu.max", format!("{quota} {period}"));
        }
        (None, Some(period)) => push(settings, "cpu.max", format!("max {period}")),
        (None, None) => {}
    }
    if let Some(burst) = cpu.burst() {
        push(settings, "cpu.max.burst", burst.to_string());
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            push(settings, file, value.clone());
        }
    }
    Ok(())
}

/// cgroup v1's shares (2..=262144) as cgroup v2's weight (1..=10000), by the formula that runc, crun and
/// the kubelet share.
fn weight(shares: u64) -> u64 {
    const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
    1 + (shares.clamp(*SHARES.start(), *SHARES.end()) - SHARES.start()) * 9999 / 262_142
}

fn block_io_settings(block_io: &LinuxBlockIo, settings: &mut Vec<Setting>) -> Result<(), Failure> {
    let lists = [
        block_io.weight_device().as_ref().map(Vec::len),
        block_io.throttle_read_bps_device().as_ref().map(Vec::len),
        block_io.throttle_write_bps_device().as_ref().map(Vec::len),
        block_io.throttle_read_iops_device().as_ref().map(Vec::len),
        block_io.throttle_write_iops_device().as_ref().map(Vec::len),
    ];
    if lists.into_iter().flatten().any(|length| length > 0) {
        return Err(Failure::unsupported(
            "resources.blockIO: the devices named are the host's",
        ));
    }
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(Failure::unsupported(
            "resources.blockIO.leafWeight: cgroup v2 has no such setting",
        ));
    }
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        // cgroup v1's 10..=1000 as io.weight's 1..=10000, as in runc.
        let weight = 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
        push(settings, "io.weight", format!("default {weight}"));
    }
    Ok(())
}

fn unified_setting(file: &str, value: &str, settings: &mut Vec<Setting>) -> Result<(), Failure> {
    let well_formed = file.contains('.')
        && file
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if !well_formed || file.starts_with('.') {
        return Err(Failure::invalid(format!(
            "resources.unified: {file:?} is no cgroup file"
        )));
    }
    // The agent's own instruments, and what would move processes out of the container's cgroup.
    if file.starts_with("cgroup.") {
        return Err(Failure::new(
            FailureKind::Unsupported,
            "request",
            format!("resources.unified: {file} cannot be set"),
        ));
    }
    for line in value.lines() {
        push(settings, file, line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(json: &str) -> Result<Vec<(String, String)>, Failure> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        Ok(settings(&resources)?
            .into_iter()
            .map(|s| (s.file, s.value))
            .collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    }

    #[test]
    fn memory_and_swap_are_told_apart() {
        let settings = from(r#"{"memory":{"limit":1000,"swap":1500,"reservation":700}}"#).unwrap();
        let expected = [
            ("memory.swap.max", "500"),
            ("memory.max", "1000"),
            ("memory.low", "700"),
        ];
        assert_eq!(settings, pairs(&expected));
        assert_eq!(
            from(r#"{"memory":{"limit":-1}}"#).unwrap(),
            pairs(&[("memory.swap.max", "max"), ("memory.max", "max")])
        );
        assert!(from(r#"{"memory":{"limit":1000,"swap":500}}"#).is_err());
        assert!(from(r#"{"memory":{"swap":500}}"#).is_err());
    }

    #[test]
    fn cpu_limits_become_weight_and_max() {
        let settings = from(r#"{"cpu":{"shares":1024,"quota":150000,"period":100000,"cpus":"0-1"}}"#);
        let expected = [
            ("cpu.weight", "39"),
            ("cpu.max", "150000 100000"),
            ("cpuset.cpus", "0-1"),
        ];
        assert_eq!(settings.unwrap(), pairs(&expected));
        assert_eq!(
            from(r#"{"cpu":{"quota":-1}}"#).unwrap(),
            pairs(&[("cpu.max", "max 100000")])
        );
        assert_eq!((weight(2), weight(262_144), weight(1)), (1, 10_000, 1));
    }

    #[test]
    fn no_pids_limit_is_max() {
        assert_eq!(
            from(r#"{"pids":{"limit":0}}"#).unwrap(),
            pairs(&[("pids.max", "max")])
        );
        assert_eq!(
            from(r#"{"pids":{"limit":7}}"#).unwrap(),
            pairs(&[("pids.max", "7")])
        );
    }

    #[test]
    fn unified_files_are_checked_and_written_line_by_line() {
        let settings = from(r#"{"unified":{"memory.high":"5"}}"#).unwrap();
        assert_eq!(settings, pairs(&[("memory.high", "5")]));
        for bad in ["../x", "cgroup.procs", "memory/max", ".x", "plain"] {
            assert!(
                from(&format!(r#"{{"unified":{{"{bad}":"1"}}}}"#)).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_a_guest_cannot_do_is_an_error() {
        for json in [
            r#"{"memory":{"swappiness":10}}"#,
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"cpu":{"realtimeRuntime":1}}"#,
            r#"{"rdma":{"mlx":{"hcaHandles":1}}}"#,
        ] {
            assert_eq!(from(json).unwrap_err().kind(), FailureKind::Unsupported, "{json}");
        }
        assert_eq!(from("{}").unwrap(), []);
    }
}
