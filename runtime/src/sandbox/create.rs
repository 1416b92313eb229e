//! Creating a container: the host's part first, then the guest's; undone in reverse where it fails.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bulkhead_agent_protocol::message::{Body, CreateContainer};
use bulkhead_oci::PidNamespace;

use super::disks::OpenRoot;
use super::registry::{Entry, Resources, lock};
use super::timings::CreateTimings;
use super::{ContainerRequest, ErrorKind, Inner, SandboxError, bereaved, deadlines};
use crate::anchor::{self, Anchor, Place};
use crate::cgroup;
use crate::hooks::{self, HookStatus};
use crate::rootfs;
use crate::share::SHARED;
use crate::state::ContainerState;
use crate::undo::Undo;

impl Inner {
    /// Creates a container. Runs to its end or undoes what it did; not to be dropped half-way.
    pub(super) async fn create(
        self: &Arc<Self>,
        request: ContainerRequest,
    ) -> Result<Arc<Entry>, SandboxError> {
        let pids = self.pid_namespace(&request)?;
        let request = Arc::new(request);
        let entry = Arc::new(Entry::new(&request));
        self.registry.insert(Arc::clone(&entry))?;
        match self.create_entry(&request, &entry, pids).await {
            Ok(()) => Ok(entry),
            Err(error) => {
                self.undo_create(&entry).await;
                Err(error)
            }
        }
    }

    /// Whose PID namespace the container is to join, if any.
    fn pid_namespace(&self, request: &ContainerRequest) -> Result<Option<String>, SandboxError> {
        let PidNamespace::OfProcess(pid) = request.plan.host.pid else {
            return Ok(None);
        };
        match self.registry.of_pid(pid) {
            Some(other) => Ok(Some(other.id.clone())),
            None => Err(SandboxError::new(
                ErrorKind::Unimplemented,
                format!(
                    "linux.namespaces[pid].path: process {pid} is of no running container of this sandbox; \
                     only containers of one VM can share a PID namespace"
                ),
            )),
        }
    }

    async fn create_entry(
        self: &Arc<Self>,
        request: &Arc<ContainerRequest>,
        entry: &Arc<Entry>,
        pids: Option<String>,
    ) -> Result<(), SandboxError> {
        let spec = serde_json::to_vec(&request.plan.guest)
            .map_err(|error| SandboxError::doing(ErrorKind::Internal, "spec", &error))?;
        let create = CreateContainer {
            container_id: entry.id.clone(),
            spec,
            pid_namespace_of: pids,
            ..CreateContainer::default()
        };
        let begun = Instant::now();
        let root = self.prepare(Arc::clone(request), Arc::clone(entry)).await?;
        let prepared = begun.elapsed();
        if let Some(root) = root {
            self.plug(entry, root).await?;
        }
        self.plug_devices(entry, &request.plan.host.devices).await?;
        let plugged = begun.elapsed();
        let pid = self.start_anchor(entry, "").await?;
        let anchored = begun.elapsed();
        // Nobody else sets it.
        entry.pid.set(pid).ok();
        let entering = enter_cgroup(entry, pid);
        if entry.hooks.create_runtime.is_empty() {
            let (entered, created) = tokio::join!(entering, self.create_in_guest(request, entry, create));
            entered.and(created)?;
        } else {
            // A hook finds everything in its place.
            entering.await?;
            hooks::run(
                &entry.hooks.create_runtime,
                &entry.hook_state(HookStatus::Creating),
            )
            .await?;
            self.create_in_guest(request, entry, create).await?;
        }
        let timings = CreateTimings {
            host: prepared,
            disks: plugged - prepared,
            anchor: anchored - plugged,
            guest: begun.elapsed() - anchored,
        };
        tracing::info!(container = entry.id, ?timings, "container is made");
        Ok(())
    }

    async fn create_in_guest(
        &self,
        request: &ContainerRequest,
        entry: &Entry,
        mut create: CreateContainer,
    ) -> Result<(), SandboxError> {
        let (stdio, streams) = self.agent.open_streams(request.stdio)?;
        create.stdio = Some(stdio);
        if entry.start_hooks.is_some() {
            let state = serde_json::to_vec(&entry.hook_state(HookStatus::Created));
            let state = state.map_err(|error| SandboxError::doing(ErrorKind::Internal, "hooks", &error))?;
            create.hook_state = Some(state);
        }
        if let Some(plugged) = lock(&entry.disks).as_ref() {
            create.disks.clone_from(&plugged.sources);
            create.root.clone_from(&plugged.root);
        }
        std::mem::take(&mut *lock(&entry.devices)).tell(&mut create);
        self.agent
            .request(
                "CreateContainer",
                Body::CreateContainer(create),
                deadlines::CREATE,
            )
            .await?;
        *lock(&entry.streams) = Some(streams);
        Ok(())
    }

    /// Mounts, share and cgroup, on a thread that may block. Returns the root file system's disks, if it is to
    /// be on disks.
    async fn prepare(
        self: &Arc<Self>,
        request: Arc<ContainerRequest>,
        entry: Arc<Entry>,
    ) -> Result<Option<OpenRoot>, SandboxError> {
        let sandbox = Arc::clone(self);
        let work = move || {
            let (resources, root) = sandbox.prepare_blocking(&request)?;
            entry.keep(resources);
            Ok(root)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => Err(SandboxError::new(
                ErrorKind::Internal,
                "preparing the container panicked",
            )),
        }
    }

    fn prepare_blocking(
        &self,
        request: &ContainerRequest,
    ) -> Result<(Resources, Option<OpenRoot>), SandboxError> {
        let (host, plan) = (&self.machine().host, &request.plan.host);
        let mut undo = Undo::new();
        let missing = host.hierarchies.missing(&plan.cgroups_path)?;
        host.record.update(|state| {
            state
                .containers
                .insert(request.id.clone(), self.container_state(request, missing.clone()));
        })?;

        let disks = rootfs::on_disks::plan(&request.rootfs)?;
        let disks = disks.map(OpenRoot::open).transpose()?;
        let share = host.share.container(&request.id, &mut undo)?;
        if disks.is_some() {
            share.add_empty_rootfs(&mut undo)?;
        } else {
            let own = request.bundle.join("rootfs");
            if rootfs::layers::is_formatted(&request.rootfs) {
                let scratch = self.layers(&request.id);
                rootfs::layers::mount_formatted(&request.rootfs, &own, &scratch, &mut undo)?;
            } else if !request.rootfs.is_empty() {
                rootfs::mount_all(&request.rootfs, &own, &mut undo)?;
            }
            if plan.rootfs_read_only {
                rootfs::mount_points::make(&request.plan);
            }
            share.add_rootfs(&plan.rootfs, plan.rootfs_read_only, &mut undo)?;
        }
        for bind in &plan.binds {
            share.add_bind(bind, &mut undo).map_err(|error| {
                let what = format!("mount for {}", bind.destination.display());
                SandboxError::doing(super::error::kind_of_mount(&error), &what, &error)
            })?;
        }

        undo.push(
            format!("remove cgroup {}", plan.cgroups_path.display()),
            move || cgroup::remove(&missing),
        );
        let cgroup = host.hierarchies.create(&plan.cgroups_path)?;
        if let Some(resources) = &plan.resources {
            cgroup.apply(resources)?;
            if let Some(io) = resources.block_io() {
                host.cgroup.limit_block_io(io)?;
            }
        }
        Ok((Resources { undo, cgroup }, disks))
    }

    /// Where a container's layers are mounted that its root file system on the host is made of.
    fn layers(&self, id: &str) -> PathBuf {
        self.machine().host.directory.join("layers").join(id)
    }

    /// What clean-up has to know, all of it before any of it is there.
    fn container_state(&self, request: &ContainerRequest, cgroups: Vec<PathBuf>) -> ContainerState {
        let shared = self.machine().host.directory.join(SHARED).join(&request.id);
        let own = (!request.rootfs.is_empty()).then(|| request.bundle.join("rootfs"));
        let formatted = rootfs::layers::is_formatted(&request.rootfs);
        let layers = 0..if formatted { request.rootfs.len() } else { 0 };
        let layers = layers.map(|index| rootfs::layers::point(&self.layers(&request.id), index));
        let binds = request.plan.host.binds.iter();
        let mounts = layers
            .chain(own)
            .chain([shared.join("rootfs")])
            .chain(binds.map(|bind| shared.join("mounts").join(bind.index.to_string())));
        ContainerState {
            bundle: request.bundle.clone(),
            mounts: mounts.collect(),
            cgroups,
            poststop: request.plan.host.hooks.poststop.clone(),
            oci_version: request.plan.guest.version().clone(),
            annotations: request
                .spec_annotations
                .clone()
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            ..ContainerState::default()
        }
    }

    /// Starts the anchor of a process and keeps it.
    pub(super) async fn start_anchor(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        exec_id: &str,
    ) -> Result<u32, SandboxError> {
        let host = &self.machine().host;
        let root = host.share.root_tree(&entry.id)?;
        let place = Place {
            root: root.as_fd(),
            netns: host.netns.as_fd(),
        };
        let anchor = Anchor::start(&self.anchor_program, place).await?;
        let (pid, identity, watch) = (anchor.pid(), anchor.identity(), anchor.watch());
        entry.keep_anchor(exec_id, anchor);
        let (sandbox, container) = (Arc::downgrade(self), Arc::downgrade(entry));
        tokio::spawn(bereaved::watch(
            watch,
            pid,
            sandbox,
            container,
            exec_id.to_owned(),
        ));
        // Anchors of execs end with the shim without being written down.
        if exec_id.is_empty() {
            host.record.update(|state| {
                if let Some(container) = state.containers.get_mut(&entry.id) {
                    container.anchor = Some(identity);
                }
            })?;
        }
        Ok(pid)
    }

    /// After a failed create. `createRuntime` hooks that ran have a right to their `poststop`.
    async fn undo_create(self: &Arc<Self>, entry: &Arc<Entry>) {
        // The guest may have made it after all, or never have heard of it.
        if let Err(error) = self.delete_in_guest(entry).await {
            tracing::warn!(container = entry.id, "after a failed create: {error}");
        }
        if let Err(error) = self.release(entry).await {
            tracing::warn!(container = entry.id, "after a failed create: {error}");
        }
    }
}

/// Moves init's anchor into the container's cgroup. Those of execs stay in the shim's: each move can cost more
/// than the whole exec, and nobody looks for them.
async fn enter_cgroup(entry: &Entry, pid: u32) -> Result<(), SandboxError> {
    let Some(cgroup) = entry.cgroup() else {
        return Ok(());
    };
    match tokio::task::spawn_blocking(move || cgroup.enter(pid)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SandboxError::new(
            ErrorKind::Internal,
            "entering the cgroup panicked",
        )),
    }
}

/// The program of all anchors.
pub(super) fn anchor_program(config: &crate::config::Config) -> PathBuf {
    config.helper(anchor::PROGRAM)
}
