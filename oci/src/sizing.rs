//! How large a VM a sandbox gets: decided before it starts, from what is known of all its containers then.
//!
//! First the annotations of Bulkhead, then the pod's totals as CRI gives them, then the spec's own limits,
//! then the configured default. The result is rounded up to a class, so that one saved VM serves many
//! sandboxes; the exact limits are kept by cgroups, in the guest and on the host.

use std::collections::HashMap;

use displaydoc::Display;
use oci_spec::runtime::LinuxResources;
use thiserror::Error;

/// vCPUs of the VM, 1 to [`MAX_VCPUS`].
pub const VCPUS: &str = "io.bulkhead.vcpus";
/// Memory of the VM in MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`].
pub const MEMORY_MIB: &str = "io.bulkhead.memory_mib";
/// All annotations of ours that there are. None names a path, a program or its arguments: a pod's author is not the
/// node's operator.
pub const ANNOTATIONS: [&str; 2] = [VCPUS, MEMORY_MIB];
/// CRI: sum of the pod's memory limits in bytes; 0 is none.
pub const CRI_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
/// CRI: the pod's CPU quota in µs per period; 0 and -1 are none.
pub const CRI_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
/// CRI: the pod's CPU period in µs.
pub const CRI_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// Most vCPUs, also of a class: the guest kernel is built for 64.
pub const MAX_VCPUS: u32 = 64;
/// The smallest class: a guest with less memory would spend most of it on itself.
pub const MIN_MEMORY_MIB: u32 = 256;
/// The largest class, 1 TiB: more than any node's pods ask for, and few enough classes (13).
pub const MAX_MEMORY_MIB: u32 = MIN_MEMORY_MIB << 12;

/// What the guest needs beside its containers: kernel text, data and slab, the agent and the runtime's helpers.
const GUEST_OVERHEAD_MIB: u64 = 64;
/// And in proportion: the kernel's `struct page` takes 1/64 of memory, page tables about as much again.
const GUEST_OVERHEAD_DIVISOR: u64 = 32;
/// The kernel's default CFS period in µs, for a quota that comes without one.
const DEFAULT_CPU_PERIOD: u64 = 100_000;

/// A VM's size; always one of the classes, so that saved VMs can be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    /// Virtual processors: a power of two, at most [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Memory in MiB: [`MIN_MEMORY_MIB`] times a power of two, at most [`MAX_MEMORY_MIB`].
    pub memory_mib: u32,
}

/// Why no size could be found.
#[derive(Debug, Display, Error, Clone, PartialEq, Eq)]
pub enum SizingError {
    /// annotation {annotation} is {value:?}, not {expected}
    Annotation {
        /// Its key.
        annotation: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        expected: String,
    },
}

impl Size {
    /// The smallest class with at least this much of both; the largest where there is none.
    pub fn class(vcpus: u64, memory_mib: u64) -> Self {
        let vcpus = vcpus.clamp(1, MAX_VCPUS.into()).next_power_of_two();
        let memory = memory_mib.clamp(MIN_MEMORY_MIB.into(), MAX_MEMORY_MIB.into());
        // Both bounds are powers of two, so that rounding up stays within them and within u32.
        let memory = memory.next_power_of_two();
        Self {
            vcpus: vcpus as u32,
            memory_mib: memory as u32,
        }
    }
}

/// Finds the class for a sandbox. `resources` and `annotations` are those of the spec that starts it,
/// `default` is the configuration's.
///
/// # Errors
/// An annotation is not a number, or out of range.
pub fn size(
    resources: Option<&LinuxResources>,
    annotations: Option<&HashMap<String, String>>,
    default: Size,
) -> Result<Size, SizingError> {
    let annotations = Annotations(annotations);
    let vcpus = match annotations.number(VCPUS, 1, MAX_VCPUS.into())? {
        Some(vcpus) => Some(vcpus as u64),
        None => cri_vcpus(annotations)?.or_else(|| spec_vcpus(resources?)),
    };
    let memory_mib = match annotations.number(MEMORY_MIB, MIN_MEMORY_MIB.into(), MAX_MEMORY_MIB.into())? {
        // The operator's figure is the VM's whole memory.
        Some(mib) => Some(mib as u64),
        None => cri_memory(annotations)?.or_else(|| limit_mib(resources?.memory().as_ref()?.limit()?)),
    };
    Ok(Size::class(
        vcpus.unwrap_or(default.vcpus.into()),
        memory_mib.unwrap_or(default.memory_mib.into()),
    ))
}

fn cri_vcpus(annotations: Annotations<'_>) -> Result<Option<u64>, SizingError> {
    let quota = annotations.number(CRI_CPU_QUOTA, -1, i64::MAX)?;
    let period = annotations.number(CRI_CPU_PERIOD, 0, i64::MAX)?;
    Ok(quota.and_then(|quota| quota_vcpus(quota, period.unwrap_or(0) as u64)))
}

fn spec_vcpus(resources: &LinuxResources) -> Option<u64> {
    let cpu = resources.cpu().as_ref()?;
    quota_vcpus(cpu.quota()?, cpu.period().unwrap_or(0))
}

/// As many as the quota can keep busy.
fn quota_vcpus(quota: i64, period: u64) -> Option<u64> {
    let quota = u64::try_from(quota).ok().filter(|quota| *quota > 0)?;
    let period = if period == 0 { DEFAULT_CPU_PERIOD } else { period };
    Some(quota.div_ceil(period))
}

fn cri_memory(annotations: Annotations<'_>) -> Result<Option<u64>, SizingError> {
    Ok(annotations.number(CRI_MEMORY, -1, i64::MAX)?.and_then(limit_mib))
}

/// What the VM needs so that its containers can use `limit` bytes. No limit at all, also in the form of a
/// limit that no class can hold (tools write 2^63 rounded to pages), leaves the default.
fn limit_mib(limit: i64) -> Option<u64> {
    let mib = u64::try_from(limit)
        .ok()
        .filter(|bytes| *bytes > 0)?
        .div_ceil(1 << 20);
    let whole = mib + GUEST_OVERHEAD_MIB + mib / GUEST_OVERHEAD_DIVISOR;
    (mib <= MAX_MEMORY_MIB.into()).then_some(whole)
}

/// Annotations, read as numbers.
#[derive(Clone, Copy)]
struct Annotations<'a>(Option<&'a HashMap<String, String>>);

impl Annotations<'_> {
    fn number(self, annotation: &'static str, min: i64, max: i64) -> Result<Option<i64>, SizingError> {
        let Some(value) = self
            .0
            .and_then(|map| map.get(annotation))
            .filter(|v| !v.is_empty())
        else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(SizingError::Annotation {
                annotation,
                value: value.chars().take(64).collect(),
                expected: format!("a number in {min}..={max}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Size = Size {
        vcpus: 1,
        memory_mib: 512,
    };

    fn limits(memory: i64, quota: i64, period: u64) -> LinuxResources {
        let json =
            format!(r#"{{"memory":{{"limit":{memory}}},"cpu":{{"quota":{quota},"period":{period}}}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    fn sized(resources: &LinuxResources, annotations: &[(&str, &str)]) -> Result<(u32, u32), SizingError> {
        let map = annotations
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        size(Some(resources), Some(&map), DEFAULT).map(|size| (size.vcpus, size.memory_mib))
    }

    #[test]
    fn without_limits_the_default_is_taken() {
        assert_eq!(size(None, None, DEFAULT), Ok(DEFAULT));
        assert_eq!(sized(&limits(-1, -1, 0), &[]), Ok((1, 512)));
        assert_eq!(sized(&limits(0, 0, 0), &[]), Ok((1, 512)));
        assert_eq!(sized(&limits(i64::MAX / 4096 * 4096, -1, 0), &[]), Ok((1, 512)));
    }

    #[test]
    fn limits_are_rounded_up_to_a_class_with_room_for_the_guest() {
        const MIB: i64 = 1 << 20;
        assert_eq!(sized(&limits(32 * MIB, 50_000, 100_000), &[]), Ok((1, 256)));
        assert_eq!(sized(&limits(187 * MIB, 100_001, 100_000), &[]), Ok((2, 256)));
        assert_eq!(sized(&limits(188 * MIB, 300_000, 0), &[]), Ok((4, 512)));
        assert_eq!(sized(&limits(256 * MIB, 1, 1_000_000), &[]), Ok((1, 512)));
        assert_eq!(sized(&limits(MIB << 20, i64::MAX, 1_000), &[]), Ok((64, 1 << 20)));
    }

    #[test]
    fn a_pods_totals_go_before_the_placeholders_limits() {
        let pod = [
            (CRI_MEMORY, "1073741824"),
            (CRI_CPU_QUOTA, "250000"),
            (CRI_CPU_PERIOD, "100000"),
        ];
        assert_eq!(sized(&limits(1 << 20, 1_000, 100_000), &pod), Ok((4, 2048)));
        let unlimited = [
            (CRI_MEMORY, "0"),
            (CRI_CPU_QUOTA, "0"),
            (CRI_CPU_PERIOD, "100000"),
        ];
        assert_eq!(sized(&limits(0, 0, 0), &unlimited), Ok((1, 512)));
    }

    #[test]
    fn the_operators_annotations_go_before_all() {
        let both = [(VCPUS, "3"), (MEMORY_MIB, "768"), (CRI_MEMORY, "1")];
        assert_eq!(sized(&limits(1 << 40, 0, 0), &both), Ok((4, 1024)));
    }

    #[test]
    fn annotations_are_typed_and_ranged() {
        for bad in [
            (VCPUS, "0"),
            (VCPUS, "65"),
            (VCPUS, "two"),
            (VCPUS, "1.5"),
            (VCPUS, " 1"),
            (MEMORY_MIB, "255"),
            (MEMORY_MIB, "1048577"),
            (MEMORY_MIB, "1G"),
            (CRI_MEMORY, "x"),
            (CRI_CPU_PERIOD, "-1"),
        ] {
            let SizingError::Annotation { annotation, .. } = sized(&limits(0, 0, 0), &[bad]).unwrap_err();
            assert_eq!(annotation, bad.0);
        }
    }

    #[test]
    fn every_class_is_its_own_class() {
        for n in 0..=12 {
            let memory_mib = MIN_MEMORY_MIB << n;
            assert_eq!(Size::class(1, memory_mib.into()).memory_mib, memory_mib);
        }
        assert_eq!(
            Size::class(u64::MAX, u64::MAX),
            Size {
                vcpus: MAX_VCPUS,
                memory_mib: MAX_MEMORY_MIB
            }
        );
    }
}
