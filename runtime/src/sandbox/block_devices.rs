//! Block devices of the host that containers list: each is a disk of the VM, once, however many containers of the
//! sandbox have it, and goes with the last of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::message::{BlockDevice as GuestDevice, CreateContainer, Disk as GuestDisk};
use bulkhead_oci::BlockDevice;
use tokio::sync::Mutex;

use super::registry::{Entry, lock};
use super::{ErrorKind, Inner, SandboxError, chain};
use crate::rootfs::disk_file::{self, DiskFile};
use crate::rootfs::on_disks::DiskSource;
use crate::vmm::{Disk, DiskAddress, Image};

/// What the kernel tells of block devices, by their numbers.
const BY_NUMBER: &str = "/sys/dev/block";

/// Major and minor on the host.
type Number = (u32, u32);

/// Those that are plugged in. Locked while the monitor plugs one in or takes it out, never while the guest is asked.
#[derive(Debug, Default)]
pub(super) struct BlockDevices(Mutex<BTreeMap<Number, Plugged>>);

/// One that is plugged in.
#[derive(Debug)]
struct Plugged {
    address: DiskAddress,
    read_only: bool,
    /// Containers that have it.
    users: BTreeSet<String>,
}

/// What a container has, as the guest is told.
#[derive(Debug, Default)]
pub(super) struct Had {
    disks: Vec<GuestDisk>,
    devices: Vec<GuestDevice>,
}

/// A device, opened.
struct Open {
    file: DiskFile,
    name: String,
    read_only: bool,
}

impl Inner {
    /// Plugs a container's block devices in, where they are not yet. They are given back with the container.
    pub(super) async fn plug_devices(
        &self,
        entry: &Entry,
        devices: &[BlockDevice],
    ) -> Result<(), SandboxError> {
        for device in devices {
            let mut plugged = self.block_devices.0.lock().await;
            let number = (device.major, device.minor);
            let (address, read_only) = match plugged.get_mut(&number) {
                Some(there) => {
                    if there.read_only && is_written(device) && !is_write_protected(number) {
                        return Err(taken_read_only(device, &there.users));
                    }
                    there.users.insert(entry.id.clone());
                    (there.address, there.read_only)
                }
                None => {
                    let opened = open(device)?;
                    let there = Plugged {
                        address: DiskAddress {
                            target: self.targets.take()?,
                            lun: 0,
                        },
                        read_only: opened.read_only,
                        users: BTreeSet::from([entry.id.clone()]),
                    };
                    let outcome = (there.address, there.read_only);
                    // Before it is there: whatever becomes of this, it is taken out with the container.
                    plugged.insert(number, there);
                    self.vm_to_plug()?.plug(vec![opened.on(outcome.0)]).await?;
                    outcome
                }
            };
            drop(plugged);
            lock(&entry.devices).add(device, address, read_only);
        }
        Ok(())
    }

    /// Takes out a container's block devices that no other container has.
    pub(super) async fn unplug_devices(&self, entry: &Entry) {
        let mut plugged = self.block_devices.0.lock().await;
        let its = |there: &mut Plugged| there.users.remove(&entry.id) && there.users.is_empty();
        let unused: Vec<_> = plugged.extract_if(.., |_, there| its(there)).collect();
        for (_, there) in unused {
            // In its place nobody finds it: the target stays taken.
            if let Err(error) = self.take_out(&[there.address]).await {
                tracing::warn!(container = entry.id, "its block device stays plugged in: {error}");
            }
        }
    }
}

impl Had {
    /// Adds them to what the guest is told; other disks may be there already.
    pub fn tell(self, create: &mut CreateContainer) {
        // Both are a few thousand at most.
        let before = u32::try_from(create.disks.len()).unwrap_or(u32::MAX);
        let moved = |mut device: GuestDevice| {
            device.disk = device.disk.saturating_add(before);
            device
        };
        create.block_devices = self.devices.into_iter().map(moved).collect();
        create.disks.extend(self.disks);
    }

    fn add(&mut self, device: &BlockDevice, address: DiskAddress, read_only: bool) {
        self.devices.push(GuestDevice {
            path: device.path.display().to_string(),
            // A spec lists a few thousand at most.
            disk: u32::try_from(self.disks.len()).unwrap_or(u32::MAX),
            access: device.access.clone(),
        });
        self.disks.push(GuestDisk {
            target: address.target.into(),
            lun: address.lun.into(),
            read_only,
            ..GuestDisk::default()
        });
    }
}

impl Open {
    fn on(self, address: DiskAddress) -> Disk {
        Disk {
            address,
            images: vec![Image {
                file: self.file.file,
                is_device: true,
                bytes: self.file.bytes,
                name: self.name,
            }],
            read_only: self.read_only,
        }
    }
}

fn is_written(device: &BlockDevice) -> bool {
    device.access.contains('w')
}

/// Opens a device by the name that the host's kernel gave it, so that everybody's locks are on one file.
fn open(device: &BlockDevice) -> Result<Open, SandboxError> {
    let (name, number) = (describe(device), (device.major, device.minor));
    let failed = |error: &dyn std::error::Error| {
        SandboxError::new(ErrorKind::FailedPrecondition, format!("{name}: {}", chain(error)))
    };
    let path = path_of(number).map_err(|error| failed(&error))?;
    let read_only = !is_written(device) || is_write_protected(number);
    let file = disk_file::open(&DiskSource { path, read_only }).map_err(|error| failed(&error))?;
    let opened = rustix::fs::fstat(&file.file).map_err(|errno| failed(&io::Error::from(errno)))?;
    let opened = (
        rustix::fs::major(opened.st_rdev),
        rustix::fs::minor(opened.st_rdev),
    );
    if !file.is_device || opened != number {
        let other = io::Error::other(format!("its node in /dev is that of {}:{}", opened.0, opened.1));
        return Err(failed(&other));
    }
    Ok(Open {
        file,
        name,
        read_only,
    })
}

fn path_of((major, minor): Number) -> io::Result<PathBuf> {
    let about =
        fs::read_to_string(format!("{BY_NUMBER}/{major}:{minor}/uevent")).map_err(|error| {
            match error.kind() {
                io::ErrorKind::NotFound => io::Error::new(error.kind(), "the host has no such block device"),
                _ => error,
            }
        })?;
    let name = about.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.ok_or_else(|| io::Error::other("the kernel has no name for it"))?;
    Ok(Path::new("/dev").join(name))
}

/// The host's kernel lets nobody write to it.
fn is_write_protected((major, minor): Number) -> bool {
    fs::read_to_string(format!("{BY_NUMBER}/{major}:{minor}/ro")).is_ok_and(|ro| ro.trim() == "1")
}

fn taken_read_only(device: &BlockDevice, users: &BTreeSet<String>) -> SandboxError {
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    SandboxError::new(
        ErrorKind::FailedPrecondition,
        format!(
            "{}: is read-only in this sandbox, since {} asked for no more; the container that writes has to come first",
            describe(device),
            users.join(", ")
        ),
    )
}

fn describe(device: &BlockDevice) -> String {
    let BlockDevice {
        path, major, minor, ..
    } = device;
    format!("device {} (b {major}:{minor})", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(major: u32, minor: u32) -> BlockDevice {
        BlockDevice {
            path: "/dev/xvda".into(),
            major,
            minor,
            access: "rwm".into(),
        }
    }

    #[test]
    fn a_device_that_the_host_does_not_have_is_named() {
        // Block major 0 is nobody's.
        let error = open(&device(0, 7)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(
            error.to_string(),
            "device /dev/xvda (b 0:7): the host has no such block device"
        );
    }

    #[test]
    fn the_guest_is_told_which_disk_a_device_is_on() {
        let mut had = Had::default();
        had.add(&device(7, 0), DiskAddress { target: 3, lun: 0 }, false);
        had.add(&device(7, 1), DiskAddress { target: 4, lun: 0 }, true);
        let mut create = CreateContainer {
            disks: vec![GuestDisk::default(); 2],
            ..CreateContainer::default()
        };
        had.tell(&mut create);
        let targets: Vec<_> = create.disks.iter().map(|disk| disk.target).collect();
        let disks: Vec<_> = create.block_devices.iter().map(|device| device.disk).collect();
        assert_eq!((targets, disks), (vec![0, 0, 3, 4], vec![2, 3]));
    }
}
