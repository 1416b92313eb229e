//! Containers whose root file system is on disks of the VM: found on the SCSI bus, mounted, and given up again.
//!
//! The host plugs a container's disks in before it asks for the container, and takes them out when the guest
//! has deleted it. Nothing here waits for the kernel to notice them: it is told where to look.

mod assemble;
mod bus;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use bulkhead_agent_protocol::message::{CreateContainer, FailureKind};

use crate::failure::Failure;
use crate::lock;
use assemble::Assembly;
use bus::{Address, Bus, Place};

/// Directory of the root file systems: `CONTAINER/root`.
const ROOTS: &str = "/run/disks";

/// What containers have on disks.
#[derive(Debug, Default)]
pub struct Disks(Mutex<HashMap<String, Attached>>);

/// One container's disks.
#[derive(Debug, Clone)]
struct Attached {
    addresses: Vec<Address>,
    directory: PathBuf,
}

impl Disks {
    /// Finds the disks of a container and puts its root file system together. Returns where it is; `None` if the
    /// request has none on disks.
    ///
    /// # Errors
    /// `InvalidArgument`, `Mount`. What has been done is for [`Disks::detach`] to undo.
    pub async fn attach(&self, request: &CreateContainer) -> Result<Option<PathBuf>, Failure> {
        if request.root.is_empty() && request.disks.is_empty() {
            return Ok(None);
        }
        let places = request.disks.iter().map(Place::try_from);
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let attached = Attached {
            addresses: bus::addresses(&places),
            directory: PathBuf::from(ROOTS).join(&request.container_id),
        };
        lock(&self.0).insert(request.container_id.clone(), attached.clone());
        let mounts = request.root.clone();
        blocking(move || {
            let nodes = Bus::find()?.attach(&places)?;
            Assembly::new(attached.directory, &nodes)?.mount(&mounts)
        })
        .await
        .map(Some)
    }

    /// Unmounts a container's root file system and gives its disks up. A container without any is no error.
    ///
    /// # Errors
    /// `Mount`: it is still in use, and may be tried again.
    pub async fn detach(&self, container_id: &str) -> Result<(), Failure> {
        let attached = lock(&self.0).get(container_id).cloned();
        let Some(Attached { addresses, directory }) = attached else {
            return Ok(());
        };
        blocking(move || {
            assemble::take_apart(&directory)?;
            Bus::find()?.detach(&addresses)
        })
        .await?;
        lock(&self.0).remove(container_id);
        Ok(())
    }

    /// Writes everything back and unmounts what it can: the machine is about to end.
    pub fn unmount_all(&self) {
        for attached in lock(&self.0).values() {
            if let Err(failure) = assemble::take_apart(&attached.directory) {
                eprintln!("{failure}");
            }
        }
    }
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
