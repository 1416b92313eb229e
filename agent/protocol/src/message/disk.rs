//! What a container has on disks of the VM: its root file system, and block devices.

use prost::Message;

/// A disk, plugged into the VM's SCSI bus before the message that names it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Disk {
    /// SCSI target, 0..=255.
    #[prost(uint32, tag = "1")]
    pub target: u32,
    /// Logical unit of it, 0..=16383.
    #[prost(uint32, tag = "2")]
    pub lun: u32,
    /// The host lets nobody write to it, and the guest must see that.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
    /// Where on that disk this one begins, in bytes: several may lie on one, one after another.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Its size in bytes, in whole sectors of 512; 0 if it is all of that disk.
    #[prost(uint64, tag = "5")]
    pub length: u64,
}

/// One mount of the root file system. The last of them is the container's root; the others are only there
/// for it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RootMount {
    /// A file system that lives on `disk`, `overlay`, or `bind`.
    #[prost(string, tag = "1")]
    pub fstype: String,
    /// `MS_*` of mount(2).
    #[prost(uint64, tag = "2")]
    pub flags: u64,
    /// The file system's own options, without those that name a place.
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
    /// Index of its disk among the container's.
    #[prost(uint32, optional, tag = "4")]
    pub disk: Option<u32>,
    /// Of an erofs image: its further devices, in the image's order.
    #[prost(uint32, repeated, tag = "5")]
    pub devices: Vec<u32>,
    /// Of a bind: what is bound.
    #[prost(message, optional, tag = "6")]
    pub source: Option<Place>,
    /// Of an overlay: the lower directories, the topmost first.
    #[prost(message, repeated, tag = "7")]
    pub lower: Vec<Place>,
    /// Of a writable overlay.
    #[prost(message, optional, tag = "8")]
    pub upper: Option<Place>,
    /// Of a writable overlay.
    #[prost(message, optional, tag = "9")]
    pub work: Option<Place>,
    /// Made before it is mounted, where they are missing.
    #[prost(message, repeated, tag = "10")]
    pub directories: Vec<Directory>,
}

/// A disk that the container sees as a block device.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BlockDevice {
    /// Its node in the container, which `linux.devices` of the spec lists without numbers.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Index of its disk among the container's: all of a disk that other containers may have as well.
    #[prost(uint32, tag = "2")]
    pub disk: u32,
    /// What the container may do with it: some of `rwm`, as in the spec's rules.
    #[prost(string, tag = "3")]
    pub access: String,
}

/// A directory in an earlier mount.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Place {
    /// Index of the mount.
    #[prost(uint32, tag = "1")]
    pub mount: u32,
    /// Below its root; empty is the root. Never leads out of it.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// A directory to make.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Directory {
    /// Where.
    #[prost(message, optional, tag = "1")]
    pub place: Option<Place>,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}
