//! `linux.devices`: devices that the guest's kernel has by itself, and block devices of the host, which become
//! disks of the VM.

use std::path::{Path, PathBuf};

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

/// Highest major and minor of a block device: what `dev_t` of Linux has bits for.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// A block device of the host that the container gets as a disk of its VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Where the container sees it, below /dev. The guest's spec has the node, without numbers: those that the
    /// guest gives the disk are not known yet.
    pub path: PathBuf,
    /// Its numbers on the host.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// What the device rules let the container do with it: some of `rwm`. Without `w` nothing can write to the disk.
    pub access: String,
}

/// Both halves of `linux.devices`.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    /// Plugged into the VM by the host.
    pub disks: Vec<BlockDevice>,
    /// Made by the guest, in the spec's order; those of `disks` are among them.
    pub guest: Vec<LinuxDevice>,
}

/// Who makes which device.
///
/// A device that the guest lacks is an error, for whoever lists one needs it; unless the container may use
/// all devices (`--privileged`), where the list is just whatever the host had.
pub(crate) fn translate(linux: &Linux, warnings: &mut Vec<String>) -> Result<Devices, PlanError> {
    let devices = linux.devices().as_deref().unwrap_or_default();
    if devices.len() > MAX_DEVICES {
        let reason = format!("{} devices, more than {MAX_DEVICES}", devices.len());
        return Err(invalid("linux.devices", reason));
    }
    let rules = linux.resources().as_ref().and_then(|r| r.devices().as_deref());
    let rules = rules.unwrap_or_default();
    let is_privileged = rules.iter().any(allows_everything);
    let mut all = Devices::default();
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
            all.guest.push(device.clone());
        } else if is_privileged {
            left_out.push(path);
        } else if device.typ() == LinuxDeviceType::B {
            let disk = block_device(&field, path, device, rules)?;
            let mut node = device.clone();
            node.set_major(0);
            node.set_minor(0);
            all.guest.push(node);
            all.disks.push(disk);
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
    warnings.extend(foreign_rules(rules, &all.disks));
    Ok(all)
}

fn block_device(
    field: &str,
    path: PathBuf,
    device: &LinuxDevice,
    rules: &[LinuxDeviceCgroup],
) -> Result<BlockDevice, PlanError> {
    let number = |name: &str, number: i64, most: u32| {
        let number = u32::try_from(number).ok().filter(|number| *number <= most);
        number.ok_or_else(|| invalid(format!("{field}.{name}"), format!("is not in 0..={most}")))
    };
    let major = number("major", device.major(), MAX_MAJOR)?;
    let minor = number("minor", device.minor(), MAX_MINOR)?;
    let is_allowed = |letter: &char| allows(rules, major, minor, *letter);
    Ok(BlockDevice {
        path,
        major,
        minor,
        access: "rwm".chars().filter(is_allowed).collect(),
    })
}

/// Whether the rules allow one kind of access to a block device: the last that is about it decides.
fn allows(rules: &[LinuxDeviceCgroup], major: u32, minor: u32, letter: char) -> bool {
    let is_of = |rule: &&LinuxDeviceCgroup| {
        matches(rule, major, minor)
            && rule
                .access()
                .as_deref()
                .is_none_or(|access| access.contains(letter))
    };
    rules
        .iter()
        .rev()
        .find(is_of)
        .is_some_and(LinuxDeviceCgroup::allow)
}

fn matches(rule: &LinuxDeviceCgroup, major: u32, minor: u32) -> bool {
    let within = |wanted: Option<i64>, number: u32| wanted.is_none_or(|n| n < 0 || n == i64::from(number));
    matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::B))
        && within(rule.major(), major)
        && within(rule.minor(), minor)
}

/// The rules for the guest. Numbers of block devices are the host's: in the guest they could be another
/// container's disk, so what they say is said again there of the disk itself.
pub(crate) fn guest_rules(rules: &[LinuxDeviceCgroup]) -> Vec<LinuxDeviceCgroup> {
    let for_guest = |rule: &LinuxDeviceCgroup| match rule.typ() {
        _ if !names_numbers(rule) => Some(rule.clone()),
        Some(LinuxDeviceType::B) => None,
        None | Some(LinuxDeviceType::A) => {
            let mut characters = rule.clone();
            characters.set_typ(Some(LinuxDeviceType::C));
            Some(characters)
        }
        _ => Some(rule.clone()),
    };
    rules.iter().filter_map(for_guest).collect()
}

fn names_numbers(rule: &LinuxDeviceCgroup) -> bool {
    [rule.major(), rule.minor()]
        .into_iter()
        .flatten()
        .any(|number| number >= 0)
}

/// A warning if a rule allows block devices of which none is in the list.
fn foreign_rules(rules: &[LinuxDeviceCgroup], disks: &[BlockDevice]) -> Option<String> {
    let is_foreign = |rule: &&LinuxDeviceCgroup| {
        rule.allow()
            && rule.typ() == Some(LinuxDeviceType::B)
            && names_numbers(rule)
            && !disks.iter().any(|disk| matches(rule, disk.major, disk.minor))
    };
    let foreign = rules.iter().find(is_foreign)?;
    let number = |number: Option<i64>| {
        number
            .filter(|n| *n >= 0)
            .map_or("*".to_owned(), |n| n.to_string())
    };
    Some(format!(
        "linux.resources.devices: the rule for b {}:{} is left out: it names devices of the host, and only those \
         that linux.devices lists are in the guest",
        number(foreign.major()),
        number(foreign.minor())
    ))
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
