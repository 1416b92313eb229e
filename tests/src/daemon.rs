//! One private containerd: its own root, state, socket and configuration, in a directory of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use containerd_client::services::v1::snapshots::{MountsRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteTaskRequest, KillRequest, ListContainersRequest, WaitRequest,
};
use containerd_client::tonic::Status;
use containerd_client::types::Mount;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::client::{Client, block_on};
use crate::command;
use crate::deadline;
use crate::events::EventLog;
use crate::leak;
use crate::settings::Settings;

/// The reference runtime.
pub const RUNC: &str = "io.containerd.runc.v2";
/// The snapshotter of every container.
const SNAPSHOTTER: &str = "overlayfs";

/// What makes a log line of no use to whoever reads why a test failed.
const NOISE: [&str; 3] = ["snapshot", "loading plugin", "registering ttrpc service"];

/// A running containerd of one version.
pub struct Daemon {
    version: String,
    dir: TempDir,
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
        // Socket paths end at 104 bytes: the directory's name is short. TMPDIR says where overlays can be.
        let dir = tempfile::Builder::new()
            .prefix("bh-")
            .rand_bytes(4)
            .tempdir()
            .unwrap();
        let namespace = format!("bh{}-{}", version.replace('.', ""), std::process::id());
        let mut daemon = Daemon {
            version: version.to_owned(),
            dir,
            namespace,
            image: String::new(),
            child: Mutex::new(None),
            client: Mutex::new(None),
            events: EventLog::default(),
            ids: Mutex::new(Vec::new()),
            counter: AtomicU32::new(0),
        };
        fs::write(daemon.path("config.toml"), daemon.config()).unwrap();
        daemon.launch();
        daemon.image = daemon.import_image();
        daemon
    }

    /// The containerd version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The containerd namespace of all containers of this daemon; no other run uses it.
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

    /// A `ctr` command line of this version, on this daemon and namespace.
    pub fn ctr(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(self.binary("ctr"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", &self.namespace])
            .args(args)
            // From 2.2 on ctr warns of a cgroup v1 host, among the output that a test compares.
            .env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1");
        command
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

    /// How long the daemon's log is now.
    pub fn log_length(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |metadata| metadata.len())
    }

    /// The daemon's log from that length on, its last part.
    pub fn log_since(&self, start: u64) -> String {
        // Enough for a shim's last words; a failure message is read by people.
        const TAIL: usize = 8 * 1024;
        let mut bytes = Vec::new();
        let read = File::open(self.log_path()).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return format!("{}: {error}", self.log_path().display());
        }
        let text = String::from_utf8_lossy(&bytes);
        let telling: Vec<&str> = text
            .lines()
            .filter(|line| !NOISE.iter().any(|noise| line.contains(noise)))
            .collect();
        let telling = telling.join("\n");
        telling[telling.ceil_char_boundary(telling.len().saturating_sub(TAIL))..].to_owned()
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

    /// Removes whatever is left of a container: task, record, snapshot. Never panics.
    pub fn remove(&self, id: &str) {
        let Some(client) = self.client.lock().unwrap().clone() else {
            return;
        };
        let kill = client.request(KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal: Signal::SIGKILL as u32,
            all: true,
        });
        if client.call(client.tasks().kill(kill)).is_ok() {
            let wait = client.request(WaitRequest {
                container_id: id.to_owned(),
                exec_id: String::new(),
            });
            let ended = block_on(deadline::ORDINARY, async { client.tasks().wait(wait).await });
            if let Err(status) = ended {
                eprintln!("{id} was killed, but: {status}");
            }
        }
        // Each of these is there or not, depending on how far the test came.
        let task = client.request(DeleteTaskRequest {
            container_id: id.to_owned(),
        });
        drop(client.call(client.tasks().delete(task)));
        let record = client.request(DeleteContainerRequest { id: id.to_owned() });
        drop(client.call(client.containers().delete(record)));
        let snapshot = client.request(RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
        });
        drop(client.call(client.snapshots().remove(snapshot)));
    }

    /// Removes every container. Never panics.
    pub fn remove_all(&self) {
        let Some(client) = self.client.lock().unwrap().clone() else {
            return;
        };
        let request = client.request(ListContainersRequest::default());
        match client.call(client.containers().list(request)) {
            Ok(answer) => answer
                .containers
                .iter()
                .for_each(|container| self.remove(&container.id)),
            Err(status) => eprintln!("list containers: {status}"),
        }
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

    fn log_path(&self) -> PathBuf {
        self.path("containerd.log")
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

    fn config(&self) -> String {
        // CRI is left out: no test here uses it, and without it a restart takes half a second less.
        let dir = self.dir.path().display();
        format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
address = "{dir}/c.sock"
[debug]
level = "debug"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
"#
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shut_down();
        leak::remove_common(self);
    }
}
