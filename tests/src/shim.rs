//! A shim driven by hand, as containerd would: for bundles that no client of containerd can make,
//! and for what containerd itself hides.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use containerd_shim_protos::TaskClient;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CreateTaskRequest, DeleteRequest, PidsRequest, ShutdownRequest, StateRequest,
    StatsRequest,
};
use ttrpc::Code;
use ttrpc::context::with_timeout;

use crate::command::{self, Output};
use crate::daemon::Daemon;
use crate::deadline;
use crate::host::HostProcess;
use crate::settings::Settings;

/// How long a call by hand may take.
const CALL: Duration = Duration::from_secs(60);

/// A shim that was started for a bundle in the daemon's directory.
pub struct Shim<'d> {
    daemon: &'d Daemon,
    id: String,
    bundle: PathBuf,
    tasks: TaskClient,
}

/// A connection of our own to the shim of a running task, beside containerd's.
pub struct Direct {
    id: String,
    tasks: TaskClient,
}

/// The code and the words of a refused call.
#[derive(Debug)]
pub struct Refusal {
    /// containerd maps it to its own kind of error.
    pub code: Code,
    /// What a user reads.
    pub message: String,
}

// === impl Shim ===

impl<'d> Shim<'d> {
    /// A bundle directory for `id` with a rootfs directory and no `config.json`.
    pub fn bundle(daemon: &Daemon, id: &str) -> PathBuf {
        let bundle = daemon.path("by-hand").join(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        daemon.note_id(id);
        bundle
    }

    /// Runs `shim start` in that bundle and connects to the address it prints.
    #[track_caller]
    pub fn start(daemon: &'d Daemon, id: &str, bundle: &Path) -> Shim<'d> {
        let output = Shim::run_start(daemon, id, bundle);
        assert!(output.status.success(), "start: {output:?}");
        let reply = output.text();
        let address = match serde_json::from_str::<serde_json::Value>(&reply) {
            Ok(json) => json["address"]
                .as_str()
                .expect("an address in the reply")
                .to_owned(),
            Err(_) => reply.trim().to_owned(),
        };
        let client = ttrpc::Client::connect(&address).unwrap_or_else(|error| panic!("{address}: {error}"));
        Shim {
            daemon,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            tasks: TaskClient::new(client),
        }
    }

    /// Runs `shim start` and gives what came of it.
    pub fn run_start(daemon: &Daemon, id: &str, bundle: &Path) -> Output {
        command::run(
            shim_command(daemon, id, bundle).arg("start"),
            b"",
            deadline::ORDINARY,
        )
    }

    /// Runs `shim delete`, as containerd does when a shim is dead.
    pub fn run_delete(daemon: &Daemon, id: &str, bundle: &Path) -> Output {
        let mut command = shim_command(daemon, id, bundle);
        command.arg("-bundle").arg(bundle).arg("delete");
        command::run(&mut command, b"", deadline::ORDINARY)
    }

    /// Ends the shims that a failed test has left, and what they held, so that the next begins clean.
    pub fn end_strays(daemon: &Daemon) {
        for (shim, id) in HostProcess::shims(daemon) {
            shim.kill();
            shim.expect_gone();
            Shim::run_delete(daemon, &id, daemon.dir());
        }
    }

    /// Calls Create, with no rootfs mounts and null streams.
    pub fn create(&self) -> Result<u32, Refusal> {
        let mut request = CreateTaskRequest::new();
        request.id.clone_from(&self.id);
        request.bundle = self.bundle.display().to_string();
        self.tasks
            .create(context(), &request)
            .map(|answer| answer.pid)
            .map_err(Refusal::from)
    }

    /// What containerd does after a failed Create: Delete, Shutdown, and the bundle goes. Gives the
    /// answer to Delete.
    pub fn clean_up(self) -> Result<(), Refusal> {
        let mut delete = DeleteRequest::new();
        delete.id.clone_from(&self.id);
        let deleted = self
            .tasks
            .delete(context(), &delete)
            .map(drop)
            .map_err(Refusal::from);
        let mut shutdown = ShutdownRequest::new();
        shutdown.id.clone_from(&self.id);
        // The connection may close before the answer is read: containerd puts up with that too.
        drop(self.tasks.shutdown(context(), &shutdown));
        fs::remove_dir_all(&self.bundle).unwrap();
        deleted
    }

    /// The daemon whose directory the bundle is in.
    pub fn daemon(&self) -> &'d Daemon {
        self.daemon
    }
}

// === impl Direct ===

impl Direct {
    /// Connects to the socket that the bundle names.
    #[track_caller]
    pub fn connect(daemon: &Daemon, id: &str) -> Direct {
        let address = Direct::address(daemon, id);
        let client = ttrpc::Client::connect(&address).unwrap_or_else(|error| panic!("{address}: {error}"));
        Direct {
            id: id.to_owned(),
            tasks: TaskClient::new(client),
        }
    }

    /// The address that the shim's bundle names.
    pub fn address(daemon: &Daemon, id: &str) -> String {
        let bundle = format!("state/io.containerd.runtime.v2.task/{}/{id}", daemon.namespace());
        let read = |name: &str| fs::read_to_string(daemon.path(&bundle).join(name)).unwrap_or_default();
        match serde_json::from_str::<serde_json::Value>(&read("bootstrap.json")) {
            Ok(bootstrap) => bootstrap["address"].as_str().expect("an address").to_owned(),
            Err(_) => read("address"),
        }
    }

    /// Calls Checkpoint.
    pub fn checkpoint(&self) -> Result<(), Refusal> {
        let mut request = CheckpointTaskRequest::new();
        request.id.clone_from(&self.id);
        self.tasks
            .checkpoint(context(), &request)
            .map(drop)
            .map_err(Refusal::from)
    }

    /// Calls State.
    pub fn state(&self) {
        let mut request = StateRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.state(context(), &request).expect("State");
    }

    /// Calls Pids.
    pub fn pids(&self) {
        let mut request = PidsRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.pids(context(), &request).expect("Pids");
    }

    /// Calls Stats.
    pub fn stats(&self) {
        let mut request = StatsRequest::new();
        request.id.clone_from(&self.id);
        self.tasks.stats(context(), &request).expect("Stats");
    }
}

impl From<ttrpc::Error> for Refusal {
    fn from(error: ttrpc::Error) -> Refusal {
        match error {
            ttrpc::Error::RpcStatus(status) => Refusal {
                code: status.code(),
                message: status.message,
            },
            other => Refusal {
                code: Code::UNKNOWN,
                message: other.to_string(),
            },
        }
    }
}

fn shim_command(daemon: &Daemon, id: &str, bundle: &Path) -> Command {
    let socket = daemon.socket();
    let mut command = Command::new(shim_binary());
    command
        .current_dir(bundle)
        .args([
            "-namespace",
            daemon.namespace(),
            "-id",
            id,
            "-publish-binary",
            "/bin/false",
            "-address",
        ])
        .arg(&socket)
        .env("GRPC_ADDRESS", &socket)
        .env("TTRPC_ADDRESS", format!("{}.ttrpc", socket.display()))
        .env("NAMESPACE", daemon.namespace())
        .env("MAX_SHIM_VERSION", "2")
        .env("GOMAXPROCS", "2");
    command
}

/// The shim under test: `io.containerd.NAME.v2` is `containerd-shim-NAME-v2`.
pub fn shim_binary() -> PathBuf {
    let settings = Settings::get();
    let name: Vec<&str> = settings.runtime.rsplit('.').take(2).collect();
    settings
        .dist
        .join(format!("containerd-shim-{}-{}", name[1], name[0]))
}

fn context() -> ttrpc::context::Context {
    with_timeout(i64::try_from(deadline::scaled(CALL).as_nanos()).expect("a minute"))
}
