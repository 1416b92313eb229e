//! Disks that a VM is given while it runs.

use std::ops::Range;
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
/// The most images of one disk: as many partitions as Linux gives one.
pub const MAX_IMAGES: usize = 255;
/// What images that share a disk are made of, whole ones: a sector.
pub const SECTOR: u64 = 512;
/// Where the first of several images begins. What lies before is zero: the guest's kernel looks there for a table
/// of partitions, and an image is not to bring one.
pub const FIRST_IMAGE: u64 = 4096;

/// A disk to plug in. What it holds is taken as it is, byte by byte: no header in it means anything.
#[derive(Debug)]
pub struct Disk {
    /// Its place.
    pub address: DiskAddress,
    /// One is the whole disk. Several, at most [`MAX_IMAGES`], are regular files that are only read; they lie one
    /// after another, from [`FIRST_IMAGE`] on.
    pub images: Vec<Image>,
    /// Nothing that the guest does writes to it. Then others may read it at the same time; otherwise nobody
    /// else may have it.
    pub read_only: bool,
}

/// What a disk holds.
#[derive(Debug)]
pub struct Image {
    /// The open image or device, for writing unless the disk is only read. The monitor never learns a path.
    pub file: OwnedFd,
    /// A block device; otherwise a regular file.
    pub is_device: bool,
    /// Size of a regular file. With others on a disk it has whole [`SECTOR`]s.
    pub bytes: u64,
    /// What errors call it.
    pub name: String,
}

/// Where each of several images lies on its disk, by their sizes.
pub fn ranges(sizes: impl IntoIterator<Item = u64>) -> impl Iterator<Item = Range<u64>> {
    sizes.into_iter().scan(FIRST_IMAGE, |begin, bytes| {
        let range = *begin..*begin + bytes;
        *begin = range.end;
        Some(range)
    })
}

impl std::fmt::Display for DiskAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.target, self.lun)
    }
}
