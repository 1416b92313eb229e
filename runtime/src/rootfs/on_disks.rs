//! Root file systems that the guest puts together from disks of its own.
//!
//! What containerd orders decides: a file system that lives on a device or in an image, alone, or several of
//! them and one mount at the end that refers to nothing else. Everything else is mounted on the host and
//! shared. What a source is, is looked up only when it is opened.

use std::path::PathBuf;

use bulkhead_agent_protocol::message::{Directory, RootMount};
use nix::mount::MsFlags;

use super::order::{Order, in_guest};
use super::place::{Place, invalid};
use super::{RootfsError, RootfsMount};

/// What the guest's kernel can mount from a disk.
const DISK_FILE_SYSTEMS: [&str; 2] = ["erofs", "ext4"];
/// As many lower directories as an overlay can have, and a disk to write to.
pub const MAX_DISKS: usize = 501;

/// A root file system on disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRoot {
    /// Its disks.
    pub disks: Vec<DiskSource>,
    /// How the guest mounts them, the last being the root.
    pub mounts: Vec<RootMount>,
}

/// Where a disk comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSource {
    /// An image or a block device of the host.
    pub path: PathBuf,
    /// It is only read.
    pub read_only: bool,
}

/// The plan, if the root file system can be one on disks. Pure.
///
/// # Errors
/// An order is malformed, or there are more disks than a container can have.
pub fn plan(mounts: &[RootfsMount]) -> Result<Option<DiskRoot>, RootfsError> {
    // Before anything is read: what is not for disks is for others to judge.
    if !mounts
        .iter()
        .any(|mount| DISK_FILE_SYSTEMS.contains(&mount.fstype.as_str()))
    {
        return Ok(None);
    }
    let orders: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| Order::parse(mount, index))
        .collect::<Result<_, _>>()?;
    let Some((root, parts)) = orders.split_last() else {
        return Ok(None);
    };
    let is_at_root = mounts.iter().all(|mount| mount.target.as_os_str().is_empty());
    let refers_to_disks = root.places().all(|place| matches!(place, Place::Mount { .. }));
    let is_whole = if root.is_formatted {
        let source = match root.fstype.as_str() {
            "overlay" => true,
            "bind" => matches!(root.source, Place::Mount { .. }),
            _ => false,
        };
        source && parts.iter().all(is_on_disk)
    } else {
        parts.is_empty() && is_on_disk(root)
    };
    if !(is_at_root && refers_to_disks && is_whole) {
        return Ok(None);
    }
    let mut plan = DiskRoot {
        disks: Vec::new(),
        mounts: Vec::new(),
    };
    for (index, order) in orders.iter().enumerate() {
        plan.add(order, index)?;
    }
    if plan.disks.len() > MAX_DISKS {
        let reason = format!("{} disks are more than {MAX_DISKS}", plan.disks.len());
        return Err(invalid(mounts.len() - 1, reason));
    }
    Ok(Some(plan))
}

/// A file system of its own, from an image or a device.
fn is_on_disk(order: &Order) -> bool {
    let is_path = matches!(&order.source, Place::Host(path) if path.is_absolute());
    let is_known = DISK_FILE_SYSTEMS.contains(&order.fstype.as_str());
    is_known && is_path && !order.is_formatted && order.places().next().is_none()
}

impl DiskRoot {
    fn add(&mut self, order: &Order, index: usize) -> Result<(), RootfsError> {
        let mut mount = RootMount {
            fstype: order.fstype.clone(),
            flags: order.flags.bits(),
            options: order.data.clone(),
            source: in_guest(&order.source),
            lower: order.lower.iter().filter_map(in_guest).collect(),
            upper: order.upper.as_ref().and_then(in_guest),
            work: order.work.as_ref().and_then(in_guest),
            ..RootMount::default()
        };
        mount.directories = order
            .directories
            .iter()
            .map(|(place, mode)| Directory {
                place: in_guest(place),
                mode: *mode,
            })
            .collect();
        if is_on_disk(order)
            && let Place::Host(path) = &order.source
        {
            // erofs is never written, whatever the order says.
            let read_only = order.fstype == "erofs" || order.flags.contains(MsFlags::MS_RDONLY);
            if read_only {
                mount.flags |= MsFlags::MS_RDONLY.bits();
            }
            mount.disk = Some(self.disk(path.clone(), read_only));
            for device in &order.devices {
                let device = PathBuf::from(device);
                if !device.is_absolute() {
                    return Err(invalid(
                        index,
                        format!("device {} is not absolute", device.display()),
                    ));
                }
                let disk = self.disk(device, true);
                mount.devices.push(disk);
            }
        }
        self.mounts.push(mount);
        Ok(())
    }

    fn disk(&mut self, path: PathBuf, read_only: bool) -> u32 {
        self.disks.push(DiskSource { path, read_only });
        // There are never as many as that.
        u32::try_from(self.disks.len() - 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fstype: &str, source: &str, options: &[&str]) -> RootfsMount {
        RootfsMount {
            fstype: fstype.into(),
            source: source.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..RootfsMount::default()
        }
    }

    fn layer(number: u32) -> RootfsMount {
        mount("erofs", &format!("/s/{number}/layer.erofs"), &["ro", "loop"])
    }

    /// As containerd's erofs snapshotter with `default_size` orders a container of two layers.
    fn erofs() -> Vec<RootfsMount> {
        let overlay = [
            "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
            "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
            "workdir={{ mount 0 }}/work",
            "upperdir={{ mount 0 }}/upper",
            "lowerdir={{ overlay 1 2 }}",
            "index=off",
        ];
        vec![
            mount("ext4", "/s/9/rwlayer.img", &["rw", "loop"]),
            layer(2),
            layer(1),
            mount("format/mkdir/overlay", "overlay", &overlay),
        ]
    }

    #[test]
    fn a_blockfile_snapshot_is_one_disk() {
        let plan = plan(&[mount("ext4", "/s/1", &["loop"])]).unwrap().unwrap();
        assert_eq!(
            plan.disks,
            [DiskSource {
                path: "/s/1".into(),
                read_only: false
            }]
        );
        assert_eq!((plan.mounts[0].disk, plan.mounts[0].flags), (Some(0), 0));
    }

    #[test]
    fn erofs_layers_and_a_writable_one() {
        let plan = plan(&erofs()).unwrap().unwrap();
        let read_only: Vec<_> = plan.disks.iter().map(|disk| disk.read_only).collect();
        assert_eq!(read_only, [false, true, true]);
        let root = plan.mounts.last().unwrap();
        let lower: Vec<_> = root.lower.iter().map(|place| place.mount).collect();
        assert_eq!(lower, [1, 2]);
        assert_eq!(root.upper.as_ref().unwrap().path, "upper");
        assert_eq!(root.options, ["index=off"]);
        assert_eq!(root.directories.len(), 2);
        assert_eq!(root.directories[1].mode, 0o755);
    }

    #[test]
    fn merged_layers_are_devices_of_one_image() {
        let merged = mount(
            "erofs",
            "/s/2/fsmeta.erofs",
            &["ro", "loop", "device=/s/1/l", "device=/s/2/l"],
        );
        let view = mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"]);
        let plan = plan(&[merged, view]).unwrap().unwrap();
        assert_eq!(plan.disks.len(), 3);
        assert_eq!(plan.mounts[0].devices, [1, 2]);
        assert_eq!(plan.mounts[1].source.as_ref().unwrap().mount, 0);
    }

    #[test]
    fn what_refers_to_the_host_stays_there() {
        let upper = [
            "upperdir=/s/9/fs",
            "workdir=/s/9/work",
            "lowerdir={{ overlay 0 1 }}",
        ];
        let on_host = [
            vec![
                layer(2),
                layer(1),
                mount("format/mkdir/overlay", "overlay", &upper),
            ],
            vec![mount("overlay", "overlay", &["lowerdir=/a:/b"])],
            vec![mount("bind", "/s/1/fs", &["rbind"])],
            vec![mount("xfs", "/dev/mapper/x", &[])],
            vec![mount("ext4", "/s/1", &["loop"]), mount("bind", "/x", &["bind"])],
            vec![layer(1), mount("format/bind", "/etc", &["rbind"])],
        ];
        for mounts in on_host {
            assert_eq!(plan(&mounts).unwrap(), None, "{mounts:?}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let verity = mount("erofs", "/s/1/l", &["ro", "loop", "X-containerd.dmverity=/s/1/m"]);
        assert!(plan(&[verity]).unwrap_err().to_string().contains("dmverity"));
        let many: Vec<_> = (0..=500).map(layer).collect();
        let overlay = mount("format/overlay", "overlay", &["lowerdir={{ overlay 0 500 }}"]);
        assert!(plan(&[many.clone(), vec![overlay.clone()]].concat()).is_ok());
        assert!(plan(&[many, vec![layer(501), overlay]].concat()).is_err());
    }
}
