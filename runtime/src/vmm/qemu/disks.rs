//! Disks of a running QEMU: what it is told to plug them in and out.
//!
//! Images are handed over as descriptors, and always as raw ones: QEMU looks for no header, which a guest could
//! have written. A disk that fails reports it to the guest, where QEMU's default is to stop the whole VM.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::joined;
use super::qmp::{Qmp, Step};
use crate::vmm::{Disk, DiskAddress, Image, VmmError};

/// How long a disk that is unplugged may have requests under way: as long as a slow disk answers.
const UNPLUG: Duration = Duration::from_secs(10);

/// Plugs all of `disks` in, or none.
pub(super) async fn plug(qmp: &Qmp, disks: Vec<Disk>) -> Result<(), VmmError> {
    let addresses: Vec<_> = disks.iter().map(|disk| disk.address).collect();
    let names: Vec<Names> = disks.iter().map(Names::of).collect();
    let (mut steps, mut of) = (Vec::new(), Vec::new());
    for (index, disk) in disks.into_iter().enumerate() {
        let more = plugging(disk)?;
        of.extend(more.iter().map(|_| index));
        steps.extend(more);
    }
    let answers = qmp.execute_all(steps).await?;
    let failed = answers.into_iter().zip(of).find_map(|(answer, disk)| {
        let message = answer.err()?.to_string();
        Some(names[disk].blame(message))
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
    let closings = addresses
        .iter()
        .map(|address| Step::new("blockdev-del", json!({ "node-name": node_name(*address) })));
    let closed = qmp.execute_all(closings.collect()).await?;
    gone?;
    // A node that is still there is still open.
    let in_use = closed.into_iter().find_map(|closed| match closed {
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

/// What plugs one disk in. Descriptors are QEMU's until its nodes have copies of their own.
fn plugging(disk: Disk) -> Result<Vec<Step>, VmmError> {
    let address = disk.address;
    let (node, device) = (node(&disk), device(&disk));
    let joined = (disk.images.len() > 1)
        .then(|| joined::file(&descriptor(&disk)))
        .transpose()
        .map_err(|source| VmmError::Prepare {
            action: "list the layers of a disk",
            source,
        })?;
    let files = disk.images.into_iter().map(|image| image.file).chain(joined);
    let files: Vec<_> = files.enumerate().collect();
    let sets: Vec<_> = files.iter().map(|(index, _)| fdset_id(address, *index)).collect();
    let given = files.into_iter().map(|(index, file)| {
        Step::new("add-fd", json!({ "fdset-id": fdset_id(address, index) })).with_descriptor(file)
    });
    let taken = sets
        .into_iter()
        .map(|set| Step::new("remove-fd", json!({ "fdset-id": set })));
    let mut steps: Vec<_> = given.collect();
    steps.push(Step::new("blockdev-add", node));
    steps.extend(taken);
    steps.push(Step::new("device_add", device));
    Ok(steps)
}

fn node(disk: &Disk) -> Value {
    let several = disk.images.len() > 1;
    let is_device = disk.images.first().is_some_and(|image| image.is_device);
    let file = json!({
        "driver": if is_device { "host_device" } else { "file" },
        // Of several, the list is the one that is opened here; it names the others, and they are locked as well.
        "filename": file_name(disk.address, if several { disk.images.len() } else { 0 }),
        "read-only": disk.read_only,
        "auto-read-only": false,
        // Locks the whole image: shared by readers, exclusive for a writer.
        "locking": "on",
    });
    json!({
        "driver": if several { "vmdk" } else { "raw" },
        "node-name": node_name(disk.address),
        "read-only": disk.read_only,
        "discard": if disk.read_only { "ignore" } else { "unmap" },
        "file": file,
    })
}

/// What QEMU is told of several images on a disk.
fn descriptor(disk: &Disk) -> String {
    let names: Vec<_> = (0..disk.images.len())
        .map(|index| file_name(disk.address, index))
        .collect();
    let own = file_name(disk.address, disk.images.len());
    let images = names
        .iter()
        .zip(&disk.images)
        .map(|(name, image)| (name.as_str(), image.bytes));
    joined::descriptor(&own, images)
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

/// What errors call the images of a disk.
struct Names {
    address: DiskAddress,
    images: Vec<String>,
}

impl Names {
    fn of(disk: &Disk) -> Self {
        let name = |image: &Image| image.name.clone();
        Self {
            address: disk.address,
            images: disk.images.iter().map(name).collect(),
        }
    }

    /// QEMU knows an image by its descriptor alone, and says which one if there are several.
    fn blame(&self, message: String) -> VmmError {
        let said = |index: &usize| message.contains(&format!("'{}'", file_name(self.address, *index)));
        let name = match (0..self.images.len()).find(said) {
            Some(index) => self.images[index].clone(),
            None => self.images.join(", "),
        };
        VmmError::Disk { name, message }
    }
}

/// Ids of devices begin with this, and no other device's does.
pub(super) const DEVICE_PREFIX: &str = "disk-";

fn device_id(address: DiskAddress) -> String {
    format!("{DEVICE_PREFIX}{address}")
}

fn node_name(address: DiskAddress) -> String {
    format!("image-{address}")
}

/// Of an image of a disk, counted from 0; the list of several comes after the last.
fn fdset_id(address: DiskAddress, image: usize) -> u64 {
    // The images of a disk are at most 255.
    (u64::from(address.target) << 32) | (u64::from(address.lun) << 16) | image as u64
}

fn file_name(address: DiskAddress, image: usize) -> String {
    format!("/dev/fdset/{}", fdset_id(address, image))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(read_only: bool, images: usize) -> Disk {
        let image = |index: usize| Image {
            file: std::fs::File::open("/dev/null").unwrap().into(),
            is_device: false,
            bytes: 512,
            name: format!("layer {index}"),
        };
        Disk {
            address: DiskAddress { target: 2, lun: 7 },
            images: (0..images).map(image).collect(),
            read_only,
        }
    }

    #[test]
    fn images_are_raw_locked_and_without_a_path() {
        let node = node(&disk(true, 1));
        assert_eq!(node["driver"], "raw");
        assert_eq!(node["file"]["driver"], "file");
        assert_eq!(node["file"]["locking"], "on");
        assert_eq!(node["file"]["filename"], "/dev/fdset/8590393344");
        assert_eq!(
            (&node["read-only"], &node["file"]["read-only"]),
            (&json!(true), &json!(true))
        );
    }

    #[test]
    fn several_images_are_opened_by_a_list_of_them() {
        let disk = disk(true, 2);
        let node = node(&disk);
        assert_eq!(
            (&node["driver"], &node["read-only"]),
            (&json!("vmdk"), &json!(true))
        );
        assert_eq!(node["file"]["filename"], "/dev/fdset/8590393346");
        let list = descriptor(&disk);
        assert!(
            list.contains("RW 1 FLAT \"/dev/fdset/8590393344\" 0\nRW 1 FLAT \"/dev/fdset/8590393345\" 0\n")
        );
        assert_eq!(plugging(disk).unwrap().len(), 3 + 1 + 3 + 1);
    }

    #[test]
    fn an_error_names_the_image_it_is_about() {
        let names = Names::of(&disk(true, 3));
        let message = |text: &str| names.blame(text.to_owned()).to_string();
        assert!(message("Could not open '/dev/fdset/8590393345': lock").starts_with("disk layer 1: "));
        assert!(message("no room").starts_with("disk layer 0, layer 1, layer 2: "));
    }

    #[test]
    fn a_failing_disk_is_the_guests_affair() {
        let device = device(&disk(false, 1));
        assert_eq!(
            (&device["rerror"], &device["werror"]),
            (&json!("report"), &json!("report"))
        );
        assert_eq!((&device["scsi-id"], &device["lun"]), (&json!(2), &json!(7)));
    }
}
