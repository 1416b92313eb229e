//! The SCSI bus, by what sysfs shows of it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::message::{Disk, FailureKind};

use crate::failure::Failure;
use crate::sys::ioctl;

/// The adapters that there are.
const HOSTS: &str = "/sys/class/scsi_host";
/// What is on their buses, by `HOST:CHANNEL:TARGET:LUN`.
const DEVICES: &str = "/sys/bus/scsi/devices";
/// The driver of the VM's bus.
const DRIVER: &str = "virtio_scsi";
/// The highest logical unit of that bus.
const MAX_LUN: u32 = 16383;
/// How long a disk that was found may take to be one: its driver reads it first, beside others.
const APPEAR: Duration = Duration::from_secs(10);
/// How long a file system may take to let its disk go once nothing has it mounted.
const RELEASE: Duration = Duration::from_secs(2);
/// How often is looked, which the kernel has no better word for.
const LOOK: Duration = Duration::from_millis(1);

/// As many partitions as the kernel gives a disk.
const MAX_PARTITIONS: u8 = 255;

/// Where a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    target: u8,
    lun: u16,
}

/// Where a container's disk is: a disk of the bus, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    address: Address,
    read_only: bool,
    /// In bytes.
    part: Option<Range<u64>>,
}

/// The VM's bus.
#[derive(Debug)]
pub struct Bus {
    host: u32,
}

impl TryFrom<&Disk> for Place {
    type Error = Failure;

    fn try_from(disk: &Disk) -> Result<Self, Failure> {
        let nowhere = || Failure::invalid(format!("no disk can be at {}:{}", disk.target, disk.lun));
        let target = u8::try_from(disk.target).map_err(|_| nowhere())?;
        let lun = Some(disk.lun).filter(|lun| *lun <= MAX_LUN).ok_or_else(nowhere)?;
        let lun = u16::try_from(lun).map_err(|_| nowhere())?;
        let end = disk.offset.checked_add(disk.length).ok_or_else(nowhere)?;
        Ok(Self {
            address: Address { target, lun },
            read_only: disk.read_only,
            part: (disk.length > 0).then_some(disk.offset..end),
        })
    }
}

/// The disks of the bus on which `places` are, each once, in the order of their first places.
pub fn addresses(places: &[Place]) -> Vec<Address> {
    let mut addresses: Vec<Address> = Vec::new();
    for Place { address, .. } in places {
        if !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    addresses
}

impl Bus {
    /// The one bus there is.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Self, Failure> {
        let hosts = fs::read_dir(HOSTS).map_err(failed("look for the SCSI bus"))?;
        let number = hosts.flatten().find_map(|host| {
            let driver = fs::read_to_string(host.path().join("proc_name")).ok()?;
            let name = host.file_name();
            (driver.trim() == DRIVER)
                .then(|| name.to_str()?.strip_prefix("host")?.parse().ok())
                .flatten()
        });
        number
            .map(|host| Self { host })
            .ok_or_else(|| Failure::new(FailureKind::Mount, "disks", "the VM has no SCSI bus"))
    }

    /// Has the kernel look for the disks, and returns the device nodes of the places, in the same order.
    ///
    /// # Errors
    /// One is not there, or can be written where it must not.
    pub fn attach(&self, places: &[Place]) -> Result<Vec<PathBuf>, Failure> {
        let addresses = addresses(places);
        let mut targets: Vec<_> = addresses.iter().map(|address| address.target).collect();
        targets.dedup();
        for target in targets {
            let scan = format!("{HOSTS}/host{}/scan", self.host);
            write(Path::new(&scan), &format!("0 {target} -"))
                .map_err(failed(format!("look for disks of target {target}")))?;
        }
        let until = Instant::now() + APPEAR;
        let mut nodes = vec![PathBuf::new(); places.len()];
        for address in addresses {
            let there = || {
                places
                    .iter()
                    .enumerate()
                    .filter(|(_, place)| place.address == address)
            };
            let read_only = there().any(|(_, place)| place.read_only);
            let disk = self.node(address, read_only, until)?;
            let mut number = 0;
            for (index, place) in there() {
                nodes[index] = match &place.part {
                    None => disk.clone(),
                    Some(part) => {
                        number += 1;
                        partition(&disk, number, part)?
                    }
                };
            }
        }
        Ok(nodes)
    }

    /// Gives disks up: those that are not there are no error.
    ///
    /// # Errors
    /// One is still mounted.
    pub fn detach(&self, addresses: &[Address]) -> Result<(), Failure> {
        let until = Instant::now() + RELEASE;
        for address in addresses {
            let device = self.device(*address);
            if let Some(name) = block_name(&device) {
                wait_until_free(&Path::new("/dev").join(name), until)?;
            }
            match write(&device.join("delete"), "1") {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(format!("give disk {} up", device.display()))(error)),
            }
        }
        Ok(())
    }

    fn device(&self, Address { target, lun }: Address) -> PathBuf {
        PathBuf::from(format!("{DEVICES}/{}:0:{target}:{lun}", self.host))
    }

    /// The node of a disk that the kernel has found. Its driver works beside us.
    fn node(&self, address: Address, read_only: bool, until: Instant) -> Result<PathBuf, Failure> {
        let device = self.device(address);
        let missing = |what: &str| {
            let message = format!("disk {}:{}: {what}", address.target, address.lun);
            Failure::new(FailureKind::Mount, "disks", message)
        };
        if !device.exists() {
            return Err(missing("is not there"));
        }
        let name = loop {
            if let Some(name) = block_name(&device).filter(|name| is_there(name)) {
                break name;
            }
            if Instant::now() > until {
                return Err(missing("is not a disk"));
            }
            std::thread::sleep(LOOK);
        };
        let writable = fs::read_to_string(format!("/sys/class/block/{name}/ro"))
            .map_err(failed(format!("ask whether {name} can be written")))?;
        if read_only && writable.trim() != "1" {
            return Err(missing("can be written, and must not be"));
        }
        Ok(Path::new("/dev").join(name))
    }
}

/// Makes a partition of a disk, and returns its node.
fn partition(disk: &Path, number: usize, bytes: &Range<u64>) -> Result<PathBuf, Failure> {
    let stage = || format!("find layer {number} at {bytes:?} on {}", disk.display());
    let number = u8::try_from(number)
        .map_err(|_| Failure::invalid(format!("{}: more than {MAX_PARTITIONS} layers", disk.display())))?;
    let opened = fs::File::open(disk).map_err(failed(stage()))?;
    ioctl::add_partition(&opened, number, bytes).map_err(|errno| failed(stage())(errno.into()))?;
    let mut node = disk.as_os_str().to_owned();
    node.push(number.to_string());
    Ok(node.into())
}

/// The name that the kernel gave a disk for now.
fn block_name(device: &Path) -> Option<String> {
    let mut names = fs::read_dir(device.join("block")).ok()?.flatten();
    names.next()?.file_name().into_string().ok()
}

/// Whether the node is that disk's, as a name may have been another's a moment ago, and can be opened: the kernel
/// shows both before it is ready.
fn is_there(name: &str) -> bool {
    let numbers = fs::read_to_string(format!("/sys/class/block/{name}/dev"));
    let node = fs::File::open(Path::new("/dev").join(name)).and_then(|node| node.metadata());
    let (Ok(numbers), Ok(node)) = (numbers, node) else {
        return false;
    };
    let (major, minor) = (
        nix::sys::stat::major(node.rdev()),
        nix::sys::stat::minor(node.rdev()),
    );
    node.file_type().is_block_device() && numbers.trim() == format!("{major}:{minor}")
}

/// A mounted file system holds its disk exclusively, until long after the last unmount has returned.
fn wait_until_free(node: &Path, until: Instant) -> Result<(), Failure> {
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(node);
        match opened {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                if Instant::now() > until {
                    return Err(failed(format!("give disk {} up", node.display()))(error));
                }
                std::thread::sleep(LOOK);
            }
            // A disk that cannot even be opened is held by nobody.
            _ => return Ok(()),
        }
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn failed(stage: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let stage = stage.into();
    move |error| Failure::os(FailureKind::Mount, stage, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(target: u32, lun: u32) -> Disk {
        Disk {
            target,
            lun,
            read_only: true,
            ..Disk::default()
        }
    }

    #[test]
    fn addresses_are_bounded() {
        let place = Place::try_from(&disk(255, MAX_LUN)).unwrap();
        assert_eq!(
            place.address,
            Address {
                target: 255,
                lun: 16383
            }
        );
        let endless = Disk {
            offset: 512,
            length: u64::MAX,
            ..disk(0, 0)
        };
        for wrong in [disk(256, 0), disk(0, MAX_LUN + 1), endless] {
            assert!(Place::try_from(&wrong).is_err());
        }
    }

    #[test]
    fn parts_of_a_disk_are_on_one_disk() {
        let part = |offset| {
            let disk = Disk {
                offset,
                length: 512,
                ..disk(3, 1)
            };
            Place::try_from(&disk).unwrap()
        };
        let whole = Place::try_from(&disk(3, 0)).unwrap();
        assert_eq!((part(1024).part, &whole.part), (Some(1024..1536), &None));
        let lun = |address: &Address| address.lun;
        let addresses = addresses(&[part(1024), whole, part(512)]);
        assert_eq!(addresses.iter().map(lun).collect::<Vec<_>>(), [1, 0]);
    }
}
