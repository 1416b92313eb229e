//! What a container finds in its /dev, besides what is mounted there.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknodat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, Spec};

use super::mount_options::MountOptions;
use super::root::Root;
use crate::failure::{Failure, OsError};
use crate::sys::mount::{Attributes, change};

const DEV: &str = "/dev";

/// Name, major and minor of the character devices that every container has.
const DEFAULTS: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("random", 1, 8),
];

/// Everybody may use a device, as far as the device rules let them.
const DEVICE_MODE: Mode = Mode::from_bits_retain(0o666);

/// Names below /dev that are links, and where to.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Whether every /dev has something of this name.
pub fn has(name: &OsStr) -> bool {
    let devices = DEFAULTS.iter().map(|(name, _, _)| *name);
    let links = LINKS.iter().map(|(name, _)| *name);
    devices
        .chain(links)
        .chain(["ptmx", "kcore"])
        .any(|known| name == known)
}

/// Makes devices and links, unless somebody else's /dev is bound there. What the image has already stays.
///
/// # Errors
/// `Mount`, naming the device.
pub fn make(root: &Root, spec: &Spec) -> Result<(), Failure> {
    if mount_of_dev(spec).is_some_and(|mount| MountOptions::of(mount).bind.is_some()) {
        return Ok(());
    }
    let dev = root
        .directory(Path::new(DEV))
        .map_err(|errno| failed(DEV, errno))?;
    let wanted = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    fill(root, &dev, wanted.unwrap_or_default())
}

/// Makes in `dev`, an empty directory, what a container has there whose spec lists no devices.
///
/// # Errors
/// `Mount`, naming the device.
pub fn make_usual(dev: &OwnedFd) -> Result<(), Failure> {
    let root = dev.try_clone().map(|directory| Root { directory });
    let root = root.map_err(|error| Failure::os(FailureKind::Mount, "make devices", &error))?;
    fill(&root, dev, &[])
}

fn fill(root: &Root, dev: &OwnedFd, wanted: &[LinuxDevice]) -> Result<(), Failure> {
    // The modes are meant as they are.
    let before = umask(Mode::empty());
    let made = make_devices(root, dev, wanted);
    umask(before);
    made?;
    for (name, target) in LINKS {
        link(target, dev, name)?;
    }
    if nix::unistd::access("/proc/kcore", nix::unistd::AccessFlags::F_OK).is_ok() {
        link("/proc/kcore", dev, "kcore")?;
    }
    // Whatever the image has there: terminals are those of the container's own devpts.
    match unlinkat(dev, "ptmx", UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed("/dev/ptmx", errno)),
    }
    link("pts/ptmx", dev, "ptmx")
}

/// Makes a /dev read-only that was asked to be so, now that everything is in it. Call it in the container.
///
/// # Errors
/// `Mount`.
pub fn seal(spec: &Spec) -> Result<(), Failure> {
    let read_only = |mount: &Mount| {
        let options = MountOptions::of(mount);
        options.bind.is_none() && options.flags.contains(nix::mount::MsFlags::MS_RDONLY)
    };
    if mount_of_dev(spec).is_some_and(read_only) {
        return change(Path::new(DEV), &Attributes::READ_ONLY).map_err(|errno| failed(DEV, errno));
    }
    Ok(())
}

fn mount_of_dev(spec: &Spec) -> Option<&Mount> {
    let mounts = spec.mounts().as_deref()?;
    mounts
        .iter()
        .rev()
        .find(|mount| mount.destination() == Path::new(DEV))
}

fn make_devices(root: &Root, dev: &OwnedFd, wanted: &[LinuxDevice]) -> Result<(), Failure> {
    for device in wanted {
        let path = device.path();
        make_device(root, device).map_err(|errno| failed(&path.to_string_lossy(), errno))?;
    }
    for (name, major, minor) in DEFAULTS {
        if !wanted
            .iter()
            .any(|device| *device.path() == Path::new(DEV).join(name))
        {
            node(
                dev,
                Path::new(name),
                SFlag::S_IFCHR,
                DEVICE_MODE,
                makedev(major, minor),
            )
            .map_err(|errno| failed(&format!("{DEV}/{name}"), errno))?;
        }
    }
    Ok(())
}

fn make_device(root: &Root, device: &LinuxDevice) -> nix::Result<()> {
    let path = device.path();
    if !path.starts_with(DEV) {
        return Err(Errno::EINVAL);
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(Errno::EINVAL),
    };
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    let mode = device.file_mode().map_or(DEVICE_MODE, Mode::from_bits_truncate);
    let (directory, name) = root.parent_of(path)?;
    let name = Path::new(name);
    node(
        &directory,
        name,
        kind,
        mode,
        makedev(number(device.major()), number(device.minor())),
    )?;
    let (uid, gid) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    if uid.is_some() || gid.is_some() {
        fchownat(&directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn node(directory: impl AsFd, name: &Path, kind: SFlag, mode: Mode, number: u64) -> nix::Result<()> {
    match mknodat(directory, name, kind, mode, number) {
        Err(Errno::EEXIST) => Ok(()),
        outcome => outcome,
    }
}

fn link(target: &str, directory: &OwnedFd, name: &str) -> Result<(), Failure> {
    match symlinkat(target, directory, name) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(failed(&format!("{DEV}/{name}"), errno)),
    }
}

fn failed(path: &str, errno: Errno) -> Failure {
    let message = format!("error creating device {path}: {}", errno.words());
    Failure::new(FailureKind::Mount, "make devices", message).with_errno(errno as i32)
}
