//! Disks that a VM is given while it runs.

use std::os::fd::OwnedFd;

/// Where a disk is on the VM's SCSI bus. The guest finds it by this and never by a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskAddress {
    /// SCSI target.
    pub target: u8,
    /// Logical unit of it, at most [`MAX_LUN`].
    pub lun: u16,
}

/// The highest logical unit of a virtio-scsi target.
pub const MAX_LUN: u16 = 16383;

/// A disk to plug in. What it holds is taken as it is, byte by byte: no header in it means anything.
#[derive(Debug)]
pub struct Disk {
    /// Its place.
    pub address: DiskAddress,
    /// The open image or device, for writing unless `read_only`. The monitor never learns a path.
    pub file: OwnedFd,
    /// A block device; otherwise a regular file.
    pub is_device: bool,
    /// Nothing that the guest does writes to it. Then others may read it at the same time; otherwise nobody
    /// else may have it.
    pub read_only: bool,
    /// What errors call it.
    pub name: String,
}

impl std::fmt::Display for DiskAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.target, self.lun)
    }
}
