//! Disks of a running QEMU: what it is told to plug them in and out.
//!
//! Images are handed over as descriptors, and always as raw ones: QEMU looks for no header, which a guest could
//! have written. A disk that fails reports it to the guest, where QEMU's default is to stop the whole VM.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::qmp::{Qmp, Step};
use crate::vmm::{Disk, DiskAddress, VmmError};

/// Commands for one disk.
const STEPS: usize = 4;
/// How long a disk that is unplugged may have requests under way: as long as a slow disk answers.
const UNPLUG: Duration = Duration::from_secs(10);

/// Plugs all of `disks` in, or none.
pub(super) async fn plug(qmp: &Qmp, disks: Vec<Disk>) -> Result<(), VmmError> {
    let addresses: Vec<_> = disks.iter().map(|disk| disk.address).collect();
    let names: Vec<_> = disks.iter().map(|disk| disk.name.clone()).collect();
    let answers = qmp
        .execute_all(disks.into_iter().flat_map(steps).collect())
        .await?;
    let failed = answers.into_iter().enumerate().find_map(|(step, answer)| {
        let error = answer.err()?;
        Some(VmmError::Disk {
            name: names[step / STEPS].clone(),
            message: error.to_string(),
        })
    });
    let Some(error) = failed else { return Ok(()) };
    if let Err(undoing) = unplug(qmp, &addresses).await {
        tracing::warn!("after {error}: {undoing}");
    }
    Err(error)
}

/// Takes disks out, whether the guest still uses them or not. Those that are not there are no error.
pub(super) async fn unplug(qmp: &Qmp, addresses: &[DiskAddress]) -> Result<(), VmmError> {
    let removals = addresses
        .iter()
        .map(|address| Step::new("device_del", json!({ "id": device_id(*address) })));
    let removed = qmp.execute_all(removals.collect()).await?;
    let leaving: HashSet<_> = addresses
        .iter()
        .zip(removed)
        .filter(|(_, removed)| removed.is_ok())
        .map(|(address, _)| device_id(*address))
        .collect();
    let gone = qmp.wait_deleted(leaving, UNPLUG).await;
    let closings = addresses.iter().flat_map(|address| {
        [
            Step::new("blockdev-del", json!({ "node-name": node_name(*address) })),
            Step::new("remove-fd", json!({ "fdset-id": fdset_id(*address) })),
        ]
    });
    let closed = qmp.execute_all(closings.collect()).await?;
    gone?;
    // Descriptors have been removed already, as a rule; a node that is still there is still open.
    let in_use = closed.into_iter().step_by(2).find_map(|closed| match closed {
        Err(VmmError::Refused { message, .. }) if message.contains("in use") => Some(message),
        _ => None,
    });
    match in_use {
        Some(message) => Err(VmmError::Refused {
            command: "blockdev-del",
            message,
        }),
        None => Ok(()),
    }
}

/// What plugs one disk in, [`STEPS`] of them.
fn steps(disk: Disk) -> [Step; STEPS] {
    let fdset = fdset_id(disk.address);
    let (node, device) = (node(&disk), device(&disk));
    [
        Step::new("add-fd", json!({ "fdset-id": fdset })).with_descriptor(disk.file),
        Step::new("blockdev-add", node),
        // The node has its own copy by now.
        Step::new("remove-fd", json!({ "fdset-id": fdset })),
        Step::new("device_add", device),
    ]
}

fn node(disk: &Disk) -> Value {
    let file = json!({
        "driver": if disk.is_device { "host_device" } else { "file" },
        "filename": format!("/dev/fdset/{}", fdset_id(disk.address)),
        "read-only": disk.read_only,
        "auto-read-only": false,
        // Locks the whole image: shared by readers, exclusive for a writer.
        "locking": "on",
    });
    json!({
        "driver": "raw",
        "node-name": node_name(disk.address),
        "read-only": disk.read_only,
        "discard": if disk.read_only { "ignore" } else { "unmap" },
        "file": file,
    })
}

fn device(disk: &Disk) -> Value {
    json!({
        "driver": "scsi-hd",
        "id": device_id(disk.address),
        "bus": "scsi.0",
        "channel": 0,
        "scsi-id": disk.address.target,
        "lun": disk.address.lun,
        "drive": node_name(disk.address),
        "share-rw": false,
        "rerror": "report",
        "werror": "report",
    })
}

/// Ids of devices begin with this, and no other device's does.
pub(super) const DEVICE_PREFIX: &str = "disk-";

fn device_id(address: DiskAddress) -> String {
    format!("{DEVICE_PREFIX}{address}")
}

fn node_name(address: DiskAddress) -> String {
    format!("image-{address}")
}

fn fdset_id(address: DiskAddress) -> u32 {
    u32::from(address.target) << 16 | u32::from(address.lun)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(read_only: bool) -> Disk {
        Disk {
            address: DiskAddress { target: 2, lun: 7 },
            file: std::fs::File::open("/dev/null").unwrap().into(),
            is_device: false,
            read_only,
            name: "layer".into(),
        }
    }

    #[test]
    fn images_are_raw_locked_and_without_a_path() {
        let node = node(&disk(true));
        assert_eq!(node["driver"], "raw");
        assert_eq!(node["file"]["driver"], "file");
        assert_eq!(node["file"]["locking"], "on");
        assert_eq!(node["file"]["filename"], "/dev/fdset/131079");
        assert_eq!(
            (&node["read-only"], &node["file"]["read-only"]),
            (&json!(true), &json!(true))
        );
    }

    #[test]
    fn a_failing_disk_is_the_guests_affair() {
        let device = device(&disk(false));
        assert_eq!(
            (&device["rerror"], &device["werror"]),
            (&json!("report"), &json!("report"))
        );
        assert_eq!((&device["scsi-id"], &device["lun"]), (&json!(2), &json!(7)));
    }
}
