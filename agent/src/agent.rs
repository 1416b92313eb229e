//! What every part of the agent shares, and the tasks that watch instead of answering.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_agent_protocol::link::Link;
use bulkhead_agent_protocol::message::{Body, Envelope, Oom, Stats};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use crate::container::cgroup::CONTAINERS;
use crate::container::oom::OomWatch;
use crate::container::registry::Registry;
use crate::container::{Container, State, stats};
use crate::disks::Disks;
use crate::guest::network;
use crate::lock;
use crate::zygote::Zygote;
use crate::zygote::spare::{self, Spare};

/// How often counters are read and, if they changed, sent.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Events waiting for the link. When the host does not read, the reaper waits here, and exits wait in
/// the kernel as zombies: nothing is lost and nothing grows.
const EVENT_QUEUE: usize = 256;

/// Shared by all tasks.
pub struct Agent {
    /// Replaced when the host has come back.
    link: Mutex<Link>,
    /// Makes processes.
    pub zygote: Zygote,
    /// The first container's init, if the VM was saved with one.
    pub spare: Mutex<Option<Spare>>,
    /// Where things are.
    pub layout: Layout,
    /// What runs.
    pub registry: Mutex<Registry>,
    /// Processes killed for want of memory.
    pub oom: OomWatch,
    /// The NIC as it was called at the boot, if there is one that has the address of every other VM's.
    pub nic: Mutex<Option<String>>,
    /// Root file systems on disks.
    pub disks: Disks,
    /// To the host, in order.
    pub events: mpsc::Sender<Body>,
    /// Told at each reaping.
    pub reaped: Notify,
    /// Told when a container that follows the host's mounts is started.
    pub followed: Notify,
    /// It has been told who it is.
    configured: AtomicBool,
    /// The VM is to be saved: once the link has ended, it sleeps.
    is_to_sleep: AtomicBool,
}

/// What needs the event loop but not the host, and is the same in each copy of a VM: no hash table among it, whose
/// keys would be.
pub struct Ready {
    oom: OomWatch,
    nic: Option<String>,
    spare: Option<Spare>,
}

/// Where things are in the guest.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Mount point of cgroup v2.
    pub cgroups: PathBuf,
    /// The agent is the guest's PID 1, and the guest is its own.
    pub is_guest: bool,
}

impl Layout {
    /// The cgroup of a container, as a path below the mount.
    pub fn cgroup_of(&self, container_id: &str) -> PathBuf {
        PathBuf::from(CONTAINERS).join(container_id)
    }
}

impl Ready {
    /// Gets ready; with a spare init, if the VM `is_to_be_saved`. To be called in the event loop's context.
    ///
    /// # Errors
    /// Which step failed, and why.
    pub fn new(zygote: &Zygote, layout: &Layout, is_to_be_saved: bool) -> Result<Self, String> {
        let nic = if layout.is_guest {
            network::nic_name().map_err(|failure| failure.to_string())?
        } else {
            None
        };
        let spare = is_to_be_saved.then(|| Spare::make(zygote, &layout.cgroups));
        let spare = spare.transpose().map_err(|failure| failure.to_string())?;
        let oom = OomWatch::new().map_err(|error| format!("watch containers: {error}"))?;
        if let Some(Spare { cgroup, .. }) = &spare {
            oom.add(spare::NAME, cgroup)
                .map_err(|failure| failure.to_string())?;
        }
        Ok(Self { oom, nic, spare })
    }
}

impl Agent {
    /// The agent with nothing running, and the queue that [`Agent::send_events`] empties.
    pub fn new(link: Link, zygote: Zygote, layout: Layout, ready: Ready) -> (Self, mpsc::Receiver<Body>) {
        let (events, queue) = mpsc::channel(EVENT_QUEUE);
        let agent = Self {
            link: Mutex::new(link),
            zygote,
            layout,
            registry: Mutex::default(),
            oom: ready.oom,
            nic: Mutex::new(ready.nic),
            spare: Mutex::new(ready.spare),
            disks: Disks::default(),
            events,
            reaped: Notify::new(),
            followed: Notify::new(),
            configured: AtomicBool::new(false),
            is_to_sleep: AtomicBool::new(false),
        };
        (agent, queue)
    }

    /// The connection to the host.
    pub fn link(&self) -> Link {
        lock(&self.link).clone()
    }

    /// Uses another connection from now on.
    pub fn replace_link(&self, link: Link) {
        *lock(&self.link) = link;
    }

    /// Notes that this VM is somebody's from now on.
    pub fn note_configured(&self) {
        self.configured.store(true, Ordering::Relaxed);
    }

    /// Agrees to sleep once the link has ended, if this VM is nobody's yet. Says whether it does.
    pub fn agree_to_sleep(&self) -> bool {
        let agrees = self.layout.is_guest && !self.configured.load(Ordering::Relaxed);
        self.is_to_sleep.fetch_or(agrees, Ordering::Relaxed);
        agrees
    }

    /// Whether it has agreed to.
    pub fn is_to_sleep(&self) -> bool {
        self.is_to_sleep.load(Ordering::Relaxed)
    }

    /// Sends events in order, for ever.
    pub async fn send_events(&self, mut queue: mpsc::Receiver<Body>) {
        while let Some(body) = queue.recv().await {
            let envelope = Envelope {
                id: 0,
                body: Some(body),
            };
            // A link that is lost takes its events with it: the host that comes back asks anew.
            let _ = self.link().send(envelope).await;
        }
    }

    /// Waits until the link has been given every event.
    pub async fn events_sent(&self) {
        while self.events.capacity() < EVENT_QUEUE {
            tokio::task::yield_now().await;
        }
        // Once more, for the one that was taken out last.
        tokio::task::yield_now().await;
    }

    /// Sends changed counters once a second, for ever.
    pub async fn send_stats(&self) {
        let mut ticks = interval(STATS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let ids: Vec<String> = lock(&self.registry).all().map(|(id, _)| id.clone()).collect();
            for id in ids {
                self.send_stats_of(&id);
            }
        }
    }

    /// Sends a container's counters now if they have changed. While the queue is full they are dropped:
    /// newer ones will come.
    pub fn send_stats_of(&self, id: &str) {
        let mut registry = lock(&self.registry);
        if let Ok(container) = registry.get(id)
            && container.state != State::Stopped
            && let Some(stats) = fresh_stats(id, container)
        {
            // Full or closed: see above.
            let _ = self.events.try_send(Body::Stats(stats));
        }
    }

    /// Tells the host of processes killed for want of memory, for ever.
    pub async fn watch_oom(&self) {
        while let Ok(changed) = self.oom.changed().await {
            for id in changed {
                let event = lock(&self.registry)
                    .get(&id)
                    .ok()
                    .and_then(|container| new_oom(&id, container));
                if let Some(event) = event
                    && self.events.send(event).await.is_err()
                {
                    return;
                }
            }
        }
    }

    /// Has the kernel forget the files of the share that it only remembers, so that the host can unmount them, and so
    /// that another container's files can be at the same place: what is remembered of the former the host no longer opens.
    pub async fn forget_shared_files(&self) {
        let forget = || std::fs::write("/proc/sys/vm/drop_caches", "2");
        if self.layout.is_guest
            && let Ok(Err(error)) = tokio::task::spawn_blocking(forget).await
        {
            eprintln!("bulkhead-agent: forget the files of the share: {error}");
        }
    }
}

/// The container's counters, unless the host has them already.
pub fn fresh_stats(id: &str, container: &mut Container) -> Option<Stats> {
    let stats = stats::read(id, &container.cgroup, container.other_pids());
    if container.last_stats.as_ref() == Some(&stats) {
        return None;
    }
    container.last_stats = Some(stats.clone());
    Some(stats)
}

/// An event if the kernel has killed processes since the last one.
pub fn new_oom(id: &str, container: &mut Container) -> Option<Body> {
    let kills = stats::oom_kills(&container.cgroup);
    if kills <= container.oom_kills {
        return None;
    }
    container.oom_kills = kills;
    Some(Body::Oom(Oom {
        container_id: id.to_owned(),
    }))
}
