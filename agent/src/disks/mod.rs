//! Containers that have disks of the VM: found on the SCSI bus, mounted as a root file system or shown as block
//! devices, and given up again.
//!
//! The host plugs a container's disks in before it asks for the container, and takes them out when the guest
//! has deleted it. Nothing here waits for the kernel to notice them: it is told where to look. A block device may
//! be of several containers, and goes with the last of them.

mod assemble;
mod bus;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bulkhead_agent_protocol::message::{BlockDevice, CreateContainer, FailureKind};

use crate::failure::Failure;
use crate::lock;
use assemble::Assembly;
use bus::{Address, Bus, Place};

/// Directory of the root file systems: `CONTAINER/root`.
const ROOTS: &str = "/run/disks";

/// What containers have on disks.
#[derive(Debug, Default)]
pub struct Disks {
    attached: Mutex<HashMap<String, Attached>>,
    /// Held while the bus is worked on: a disk that one container gives up may be just what another looks for.
    bus: tokio::sync::Mutex<()>,
}

/// What a container was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Where its root file system is, if that is on disks.
    pub root: Option<PathBuf>,
    /// Its block devices.
    pub devices: Vec<Device>,
}

/// A block device of a container.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    /// Its node in the container.
    pub path: String,
    /// Its numbers in this guest.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// What the container may do with it, as in device rules.
    pub access: String,
}

/// One container's disks.
#[derive(Debug, Clone)]
struct Attached {
    addresses: Vec<Address>,
    directory: PathBuf,
}

impl Disks {
    /// Finds the disks of a container, and puts its root file system together if it is on some of them.
    ///
    /// # Errors
    /// `InvalidArgument`, `Mount`. What has been done is for [`Disks::detach`] to undo.
    pub async fn attach(&self, request: &CreateContainer) -> Result<Given, Failure> {
        if request.root.is_empty() && request.disks.is_empty() {
            return Ok(Given::default());
        }
        let places = request.disks.iter().map(Place::try_from);
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let attached = Attached {
            addresses: bus::addresses(&places),
            directory: PathBuf::from(ROOTS).join(&request.container_id),
        };
        let directory = attached.directory.clone();
        let nodes = {
            let _working = self.bus.lock().await;
            lock(&self.attached).insert(request.container_id.clone(), attached);
            blocking(move || Bus::find()?.attach(&places)).await?
        };
        let devices = request.block_devices.iter();
        let devices = devices
            .map(|device| Device::on(device, &nodes))
            .collect::<Result<_, _>>()?;
        let mounts = request.root.clone();
        let root = if mounts.is_empty() {
            None
        } else {
            Some(blocking(move || Assembly::new(directory, &nodes)?.mount(&mounts)).await?)
        };
        Ok(Given { root, devices })
    }

    /// Unmounts a container's root file system and gives up its disks that no other container has. A container
    /// without any is no error.
    ///
    /// # Errors
    /// `Mount`: it is still in use, and may be tried again.
    pub async fn detach(&self, container_id: &str) -> Result<(), Failure> {
        let attached = lock(&self.attached).get(container_id).cloned();
        let Some(Attached { addresses, directory }) = attached else {
            return Ok(());
        };
        blocking(move || assemble::take_apart(&directory)).await?;
        let _working = self.bus.lock().await;
        let addresses = {
            let attached = lock(&self.attached);
            let others = attached.iter().filter(|(id, _)| *id != container_id);
            let theirs: Vec<_> = others.flat_map(|(_, other)| &other.addresses).collect();
            let is_shared = |address: &Address| theirs.contains(&address);
            addresses
                .into_iter()
                .filter(|address| !is_shared(address))
                .collect::<Vec<_>>()
        };
        blocking(move || Bus::find()?.detach(&addresses)).await?;
        lock(&self.attached).remove(container_id);
        Ok(())
    }

    /// Writes everything back and unmounts what it can: the machine is about to end.
    pub fn unmount_all(&self) {
        for attached in lock(&self.attached).values() {
            if let Err(failure) = assemble::take_apart(&attached.directory) {
                eprintln!("{failure}");
            }
        }
    }
}

impl Device {
    /// The device that is on the disk of one of `nodes`.
    fn on(device: &BlockDevice, nodes: &[PathBuf]) -> Result<Self, Failure> {
        let node = usize::try_from(device.disk).ok().and_then(|disk| nodes.get(disk));
        let node = node.ok_or_else(|| Failure::invalid(format!("there is no disk {}", device.disk)))?;
        let number = number_of(node).map_err(|error| {
            Failure::os(FailureKind::Mount, format!("look at {}", node.display()), &error)
        })?;
        Ok(Self {
            path: device.path.clone(),
            // Linux's numbers of devices have 32 bits in all.
            major: nix::sys::stat::major(number) as u32,
            minor: nix::sys::stat::minor(number) as u32,
            access: device.access.clone(),
        })
    }
}

fn number_of(node: &Path) -> std::io::Result<u64> {
    Ok(std::fs::metadata(node)?.rdev())
}

/// Runs what waits for disks beside everything else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        // A panic, which has been printed.
        Err(error) => Err(Failure::new(FailureKind::Other, "disks", error.to_string())),
    }
}
