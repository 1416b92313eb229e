//! `linux.devices`: only devices that the guest's kernel has by itself.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{PlanError, invalid, unsupported};
use crate::path::absolute;

/// Most devices; a large host has a few hundred, and `--privileged` lists them all.
const MAX_DEVICES: usize = 16_384;

/// Character devices with fixed numbers (the kernel's devices.txt) that the guest's kernel has too.
const GUEST_DEVICES: &[(i64, i64)] = &[
    (1, 3),    // /dev/null
    (1, 5),    // /dev/zero
    (1, 7),    // /dev/full
    (1, 8),    // /dev/random
    (1, 9),    // /dev/urandom
    (5, 0),    // /dev/tty
    (10, 200), // /dev/net/tun
    (10, 229), // /dev/fuse
];

/// The multiplexer of pseudo terminals.
const PTMX: &str = "/dev/ptmx";

/// The devices the guest makes, in the spec's order.
///
/// A device that the guest lacks is an error, for whoever lists one needs it; unless the container may use
/// all devices (`--privileged`), where the list is just whatever the host had.
pub(crate) fn translate(linux: &Linux, warnings: &mut Vec<String>) -> Result<Vec<LinuxDevice>, PlanError> {
    let devices = linux.devices().as_deref().unwrap_or_default();
    if devices.len() > MAX_DEVICES {
        let reason = format!("{} devices, more than {MAX_DEVICES}", devices.len());
        return Err(invalid("linux.devices", reason));
    }
    let rules = linux.resources().as_ref().and_then(|r| r.devices().as_deref());
    let is_privileged = rules.unwrap_or_default().iter().any(allows_everything);
    let mut kept = Vec::new();
    let mut left_out = Vec::new();
    for (n, device) in devices.iter().enumerate() {
        let field = format!("linux.devices[{n}]");
        let path = absolute(&format!("{field}.path"), device.path())?;
        if !path.starts_with("/dev") {
            return Err(invalid(
                format!("{field}.path"),
                format!("{path:?} is not below /dev"),
            ));
        }
        if path == Path::new(PTMX) {
            // Every container has one, a link to its own devpts.
            continue;
        }
        if is_in_guest(device) {
            kept.push(device.clone());
        } else if is_privileged {
            left_out.push(path);
        } else {
            let reason = format!(
                "{path:?} ({} {}:{}) is a device of the host, which the guest cannot reach",
                device.typ().as_str(),
                device.major(),
                device.minor()
            );
            return Err(unsupported(field, reason));
        }
    }
    if let Some(first) = left_out.first() {
        warnings.push(format!(
            "linux.devices: {} devices of the host are left out, {first:?} first: the guest cannot reach them",
            left_out.len()
        ));
    }
    Ok(kept)
}

fn is_in_guest(device: &LinuxDevice) -> bool {
    match device.typ() {
        LinuxDeviceType::P => true,
        LinuxDeviceType::C | LinuxDeviceType::U => GUEST_DEVICES.contains(&(device.major(), device.minor())),
        LinuxDeviceType::A | LinuxDeviceType::B => false,
    }
}

/// The rule that `--privileged` sets: allow all types, all numbers, all access.
fn allows_everything(rule: &LinuxDeviceCgroup) -> bool {
    let any_number = |number: Option<i64>| number.is_none_or(|n| n < 0);
    let any_access = |access: &str| "rwm".chars().all(|kind| access.contains(kind));
    rule.allow()
        && matches!(rule.typ(), None | Some(LinuxDeviceType::A))
        && any_number(rule.major())
        && any_number(rule.minor())
        && rule.access().as_deref().is_none_or(any_access)
}
