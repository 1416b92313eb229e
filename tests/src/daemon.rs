//! One private containerd: its own root, state, socket and configuration, in a directory of its own.

mod clients;
mod config;
mod log;
mod removal;
mod snapshotters;

use std::fs::{self, File};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use containerd_client::services::v1::ListContainersRequest;
use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::tonic::Status;
use containerd_client::types::Mount;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::Client;
use crate::command;
use crate::deadline;
use crate::events::EventLog;
use crate::leak;
use crate::settings::Settings;
use config::HANDLER;

/// The reference runtime.
pub const RUNC: &str = "io.containerd.runc.v2";
/// The snapshotter of every container.
const SNAPSHOTTER: &str = "overlayfs";

/// A running containerd of one version.
pub struct Daemon {
    version: String,
    dir: TempDir,
    name: String,
    namespace: String,
    image: String,
    child: Mutex<Option<Child>>,
    client: Mutex<Option<Client>>,
    events: EventLog,
    ids: Mutex<Vec<String>>,
    counter: AtomicU32,
}

// === impl Daemon ===

impl Daemon {
    /// Starts a containerd of that version and imports the image.
    #[track_caller]
    pub fn start(version: &str) -> Daemon {
        let name = format!("bh{}-{}", version.replace('.', ""), std::process::id());
        Daemon::start_in(version, name.clone(), name, false)
    }

    /// Starts one that also speaks CRI, whose namespace is not its own: it is that of all pods everywhere.
    #[track_caller]
    pub fn start_with_cri(version: &str) -> Daemon {
        let name = format!("bh{}-{}-cri", version.replace('.', ""), std::process::id());
        Daemon::start_in(version, name, "k8s.io".to_owned(), true)
    }

    #[track_caller]
    fn start_in(version: &str, name: String, namespace: String, cri: bool) -> Daemon {
        // Socket paths end at 104 bytes: the directory's name is short. TMPDIR says where overlays can be.
        let dir = tempfile::Builder::new()
            .prefix("bh-")
            .rand_bytes(4)
            .tempdir()
            .unwrap();
        let mut daemon = Daemon {
            version: version.to_owned(),
            dir,
            name,
            namespace,
            image: String::new(),
            child: Mutex::new(None),
            client: Mutex::new(None),
            events: EventLog::default(),
            ids: Mutex::new(Vec::new()),
            counter: AtomicU32::new(0),
        };
        daemon.make_scratch_image();
        fs::write(daemon.path("config.toml"), daemon.config(cri)).unwrap();
        daemon.write_network();
        daemon.launch();
        daemon.image = daemon.import_image();
        daemon
    }

    /// The containerd version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What no other run is called: the cgroup of this daemon's containers goes by it, and their namespace,
    /// unless that is CRI's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The containerd namespace of all containers of this daemon.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The image that containers are made of.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The daemon's own directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the daemon's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.path("c.sock")
    }

    /// What containerd published.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The API.
    pub fn client(&self) -> Client {
        self.client
            .lock()
            .unwrap()
            .clone()
            .expect("the daemon is running")
    }

    /// containerd's own pid.
    pub fn pid(&self) -> u32 {
        self.child
            .lock()
            .unwrap()
            .as_ref()
            .expect("the daemon is running")
            .id()
    }

    /// Whether `pid` is this containerd.
    pub fn is_up_as(&self, pid: u32) -> bool {
        self.child
            .lock()
            .unwrap()
            .as_ref()
            .is_some_and(|child| child.id() == pid)
    }

    /// An id that no container of this daemon has had.
    pub fn new_id(&self, prefix: &str) -> String {
        let id = format!("{prefix}{}", self.counter.fetch_add(1, Ordering::Relaxed));
        self.note_id(&id);
        id
    }

    /// Remembers an id, for the leak checker to know its sockets.
    pub fn note_id(&self, id: &str) {
        self.ids.lock().unwrap().push(id.to_owned());
    }

    /// Every id that containers or execs of this daemon had.
    pub fn ids(&self) -> Vec<String> {
        self.ids.lock().unwrap().clone()
    }

    /// Kills containerd with SIGKILL. Tasks go on.
    pub fn kill_hard(&self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends containerd with SIGTERM. Tasks go on.
    pub fn shut_down(&self) {
        self.end(Signal::SIGTERM);
    }

    /// Starts containerd again, after [`Daemon::kill_hard`] or [`Daemon::shut_down`].
    #[track_caller]
    pub fn launch(&self) {
        let binary = self.binary("containerd");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        // A run that is killed takes its containerd with it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(&binary)
            .arg("--config")
            .arg(self.path("config.toml"))
            .env("PATH", self.search_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        *self.child.lock().unwrap() = Some(child);
        let client = deadline::poll(
            format!("containerd {} to serve", self.version),
            deadline::LONG,
            || {
                if let Some(status) = self
                    .child
                    .lock()
                    .unwrap()
                    .as_mut()
                    .and_then(|c| c.try_wait().ok().flatten())
                {
                    panic!(
                        "containerd {} ended: {status}\n{}",
                        self.version,
                        self.log_since(0)
                    );
                }
                let client = Client::connect(&self.socket(), &self.namespace).ok()?;
                let request = client.request(ListContainersRequest::default());
                client.call(client.containers().list(request)).ok()?;
                Some(client)
            },
        );
        self.events.follow(&client);
        *self.client.lock().unwrap() = Some(client);
    }

    /// Starts containerd if a test has left it ended. Never panics.
    pub(crate) fn ensure_up(&self) {
        let is_up = self.child.lock().unwrap().is_some() && self.client.lock().unwrap().is_some();
        if !is_up && std::panic::catch_unwind(AssertUnwindSafe(|| self.launch())).is_err() {
            eprintln!("containerd {} does not start again", self.version);
        }
    }

    /// A new directory for the fifos of a process.
    pub(crate) fn fifo_dir(&self, container_id: &str) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.path("fifo").join(format!("{container_id}+{number}"))
    }

    /// The mounts that make a container's rootfs; none where the spec names a directory.
    pub(crate) fn rootfs_mounts(&self, id: &str) -> Result<Vec<Mount>, Status> {
        let record = self.container(id)?;
        if record.snapshot_key.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.client();
        let request = client.request(MountsRequest {
            snapshotter: record.snapshotter,
            key: record.snapshot_key,
        });
        Ok(client.call(client.snapshots().mounts(request))?.mounts)
    }

    fn import_image(&self) -> String {
        let image = &Settings::get().image;
        command::succeed(self.ctr(["images", "import"]).arg(image), deadline::LONG);
        let list = command::succeed(&mut self.ctr(["images", "ls", "-q"]), deadline::ORDINARY);
        let text = list.text();
        text.lines()
            .next()
            .unwrap_or_else(|| panic!("{} has no image", image.display()))
            .to_owned()
    }

    fn end(&self, signal: Signal) {
        *self.client.lock().unwrap() = None;
        let Some(mut child) = self.child.lock().unwrap().take() else {
            return;
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        kill(pid, signal).expect("signal containerd, which has not been waited for");
        child.wait().expect("wait for containerd");
    }

    fn binary(&self, name: &str) -> PathBuf {
        Settings::get().containerd_bin(&self.version).join(name)
    }

    /// The runtime under test first, then this version's shims and runc, then the system's tools.
    fn search_path(&self) -> String {
        let settings = Settings::get();
        let mine = [
            settings.dist.clone(),
            settings.containerd_bin(&self.version),
            settings.runc_bin(),
        ];
        let mine: Vec<String> = mine.iter().map(|dir| dir.display().to_string()).collect();
        format!("{}:{}", mine.join(":"), std::env::var("PATH").unwrap_or_default())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shut_down();
        leak::remove_common(self);
    }
}
