//! Disks of a sandbox's containers: plugged in when one is created, taken out when it is deleted.
//!
//! A container has a SCSI target of its own, and its disks are the target's logical units, counted from 0. So
//! the guest finds them with one look at one target. What shares a disk, `disk_layout` says.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bulkhead_agent_protocol::message::{Disk as GuestDisk, RootMount};

use super::disk_layout::{self, Source};
use super::registry::{Entry, lock};
use super::{ErrorKind, Inner, SandboxError};
use crate::rootfs::disk_file::{self, DiskFile};
use crate::rootfs::on_disks::{DiskRoot, MAX_DISKS};
use crate::vmm::{Disk, DiskAddress, Image, MAX_LUN, VmInstance, VmmError};

const _: () = assert!(MAX_DISKS <= MAX_LUN as usize + 1);

/// The targets of the bus that are taken.
#[derive(Debug, Default)]
pub(super) struct Targets(Mutex<BTreeSet<u8>>);

/// A root file system whose disks are open.
#[derive(Debug)]
pub(super) struct OpenRoot {
    plan: DiskRoot,
    files: Vec<DiskFile>,
}

/// A container's disks in the VM.
#[derive(Debug)]
pub(super) struct Plugged {
    addresses: Vec<DiskAddress>,
    /// For the guest: where each source is.
    pub sources: Vec<GuestDisk>,
    /// For the guest: how they are mounted.
    pub root: Vec<RootMount>,
}

impl Targets {
    pub(super) fn take(&self) -> Result<u8, SandboxError> {
        let mut taken = lock(&self.0);
        let free = (0..=u8::MAX).find(|target| !taken.contains(target));
        let free = free.ok_or_else(|| {
            SandboxError::new(
                ErrorKind::FailedPrecondition,
                "256 block devices and containers with disks are all that one sandbox can have",
            )
        })?;
        taken.insert(free);
        Ok(free)
    }

    fn give_back(&self, target: u8) {
        lock(&self.0).remove(&target);
    }
}

impl OpenRoot {
    /// Opens every disk.
    ///
    /// # Errors
    /// One is not there, or no disk.
    pub fn open(plan: DiskRoot) -> Result<Self, SandboxError> {
        let files = plan.disks.iter().map(disk_file::open).collect::<Result<_, _>>()?;
        Ok(Self { plan, files })
    }

    /// The disks, at `target`, and what the guest is told of them.
    fn disks(self, target: u8) -> (Vec<Disk>, Plugged) {
        let Self { plan, files } = self;
        let sources: Vec<_> = plan
            .disks
            .iter()
            .zip(&files)
            .map(|(source, file)| Source {
                is_image: source.read_only && !file.is_device,
                bytes: file.bytes,
            })
            .collect();
        let mut disks: Vec<Disk> = Vec::new();
        let mut guest = Vec::with_capacity(files.len());
        for ((source, file), seat) in plan.disks.iter().zip(files).zip(disk_layout::seats(&sources)) {
            if seat.disk == disks.len() {
                // As many as that were checked to have a number each.
                let lun = u16::try_from(seat.disk).unwrap_or(MAX_LUN);
                disks.push(Disk {
                    address: DiskAddress { target, lun },
                    images: Vec::new(),
                    read_only: source.read_only,
                });
            }
            let disk = &mut disks[seat.disk];
            disk.images.push(Image {
                file: file.file,
                is_device: file.is_device,
                bytes: file.bytes,
                name: source.path.display().to_string(),
            });
            guest.push(GuestDisk {
                target: disk.address.target.into(),
                lun: disk.address.lun.into(),
                read_only: source.read_only,
                offset: seat.offset,
                length: seat.length,
            });
        }
        let plugged = Plugged {
            addresses: disks.iter().map(|disk| disk.address).collect(),
            sources: guest,
            root: plan.mounts,
        };
        (disks, plugged)
    }
}

impl Inner {
    /// Plugs a container's disks in. They are given back with the container.
    pub(super) async fn plug(&self, entry: &Entry, root: OpenRoot) -> Result<(), SandboxError> {
        let vm = self.vm_to_plug()?;
        let target = self.targets.take()?;
        let (disks, plugged) = root.disks(target);
        // Before they are there: whatever becomes of this, they are taken out with the container.
        *lock(&entry.disks) = Some(plugged);
        Ok(vm.plug(disks).await?)
    }

    /// Takes a container's disks out, if it has any. A VM that is gone has let go of them.
    pub(super) async fn unplug(&self, entry: &Entry) {
        let Some(plugged) = lock(&entry.disks).take() else {
            return;
        };
        // Those that stay go with the VM.
        if let Err(error) = self.take_out(&plugged.addresses).await {
            tracing::warn!(container = entry.id, "its disks stay plugged in: {error}");
        }
    }

    pub(super) fn vm_to_plug(&self) -> Result<&VmInstance, SandboxError> {
        let vm = self.machine().vm();
        vm.ok_or_else(|| SandboxError::new(ErrorKind::Unavailable, "the VM is gone"))
    }

    /// Takes the disks of one target out, and gives the target back. A VM that is gone has let go of them. Where it
    /// fails the target stays taken, so that nobody finds them in their place.
    pub(super) async fn take_out(&self, disks: &[DiskAddress]) -> Result<(), VmmError> {
        if self.is_vm_alive()
            && let Some(vm) = self.machine().vm()
        {
            vm.unplug(disks).await?;
        }
        if let Some(address) = disks.first() {
            self.targets.give_back(address.target);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_used_again_once_they_are_given_back() {
        let targets = Targets::default();
        assert_eq!((targets.take().unwrap(), targets.take().unwrap()), (0, 1));
        targets.give_back(0);
        assert_eq!((targets.take().unwrap(), targets.take().unwrap()), (0, 2));
        (3..=255).for_each(|target| assert_eq!(targets.take().unwrap(), target));
        assert!(targets.take().is_err());
    }
}
