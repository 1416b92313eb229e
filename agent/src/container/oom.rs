//! Watches containers for processes killed for want of memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::cgroup::Cgroup;
use crate::failure::Failure;
use crate::lock;
use crate::sys::watch::{Owner, watch};

/// All containers' `memory.events`, in one descriptor.
pub struct OomWatch {
    inotify: AsyncFd<Owner<Inotify>>,
    watched: Mutex<BTreeMap<WatchDescriptor, String>>,
}

impl OomWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// As `inotify_init1(2)`.
    pub fn new() -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self {
            inotify: watch(inotify, Interest::READABLE)?,
            watched: Mutex::default(),
        })
    }

    /// Watches a container until its cgroup is removed.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn add(&self, container_id: &str, cgroup: &Cgroup) -> Result<(), Failure> {
        let file = cgroup.file("memory.events");
        let watch = self
            .inotify
            .get_ref()
            .0
            .add_watch(&file, AddWatchFlags::IN_MODIFY)
            .map_err(|errno| Failure::os(FailureKind::Cgroup, "watch memory.events", &errno))?;
        lock(&self.watched).insert(watch, container_id.to_owned());
        Ok(())
    }

    /// From now on what was added as `name` is `container_id`.
    pub fn rename(&self, name: &str, container_id: &str) {
        let mut watched = lock(&self.watched);
        if let Some(known) = watched.values_mut().find(|known| *known == name) {
            container_id.clone_into(known);
        }
    }

    /// Waits; returns the containers whose counters changed.
    ///
    /// # Errors
    /// If the kernel's queue cannot be read.
    pub async fn changed(&self) -> std::io::Result<Vec<String>> {
        let events = self
            .inotify
            .async_io(Interest::READABLE, |inotify| match inotify.0.read_events() {
                Err(Errno::EAGAIN) => Err(std::io::ErrorKind::WouldBlock.into()),
                outcome => Ok(outcome?),
            })
            .await?;
        let mut watched = lock(&self.watched);
        let mut changed = Vec::new();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                watched.remove(&event.wd);
            } else if let Some(container_id) = watched.get(&event.wd) {
                changed.push(container_id.clone());
            }
        }
        Ok(changed)
    }
}
