//! A host directory to run sandboxes in, and what must be left of it: nothing.

#[path = "../support/skip.rs"]
mod skip;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_oci::runtime::Spec;
use bulkhead_oci::sizing::Size;
use bulkhead_oci::{GuestPaths, NetworkNamespace};
use bulkhead_runtime::config::{AcceleratorChoice, Config};
use bulkhead_runtime::mount::mounts_below;
use bulkhead_runtime::sandbox::{
    Container, ContainerRequest, ExitStatus, Sandbox, SandboxEvent, SandboxRequest, StdioRequest, Streams,
};
use serde_json::{Value, json};
pub use skip::skip;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

/// For everything that takes as long as it takes; a boot on a loaded host most of all.
const PATIENCE: Duration = Duration::from_secs(60);
/// All output, and nothing to read.
pub const OUTPUT: StdioRequest = StdioRequest {
    stdin: false,
    stdout: true,
    stderr: true,
    terminal: false,
};

pub struct Rig {
    pub base: TempDir,
    pub config: Config,
}

pub struct Running {
    pub sandbox: Sandbox,
    pub events: UnboundedReceiver<SandboxEvent>,
}

/// Waits, but not forever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

impl Rig {
    /// `None`, with a word about it, where no VM can be booted.
    pub fn new() -> Option<Self> {
        let cache = cache();
        let kernel = std::env::var_os("BULKHEAD_KERNEL")
            .map(PathBuf::from)
            .or_else(|| newest_kernel(&cache));
        let (Some(kernel), true) = (kernel, busybox().is_some() && nix::unistd::geteuid().is_root()) else {
            return skip("needs root, a guest kernel and busybox (hack/build and hack/tools make them)");
        };
        let base = tempfile::tempdir().unwrap();
        let agent = fs::read(programs().join("bulkhead-agent")).expect("run `cargo build --workspace` first");
        let initramfs = base.path().join("initramfs.cpio");
        fs::write(&initramfs, cpio(&agent)).unwrap();
        let config = Config {
            kernel,
            initramfs,
            helpers: programs(),
            qemu: std::env::var_os("BULKHEAD_QEMU")
                .map_or_else(|| "qemu-system-x86_64".into(), PathBuf::from),
            accelerator: AcceleratorChoice::Auto,
            state_dir: base.path().join("state"),
            templates: false,
            ..Config::default()
        };
        Some(Self { base, config })
    }

    pub fn request(&self, id: &str) -> SandboxRequest {
        SandboxRequest {
            namespace: "test".into(),
            id: id.into(),
            config: self.config.clone(),
            sizing: Size {
                vcpus: 1,
                memory_mib: 256,
            },
            network: NetworkNamespace::New,
            hostname: None,
            cgroups_path: self.cgroup(id),
        }
    }

    /// Below a directory of this test's own.
    pub fn cgroup(&self, id: &str) -> PathBuf {
        Path::new("bulkhead-test")
            .join(self.base.path().file_name().unwrap())
            .join(id)
    }

    pub async fn launch(&self, id: &str) -> Running {
        let (sandbox, events) = within(Sandbox::launch(self.request(id))).await.unwrap();
        Running { sandbox, events }
    }

    /// A bundle whose rootfs holds busybox, running `command`; `edit` changes its config.json.
    pub fn container(&self, id: &str, command: &str, edit: impl FnOnce(&mut Value)) -> ContainerRequest {
        let bundle = self.base.path().join("bundles").join(id);
        let bin = bundle.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for directory in ["proc", "dev", "sys", "tmp", "data"] {
            fs::create_dir_all(bundle.join("rootfs").join(directory)).unwrap();
        }
        fs::copy(busybox().unwrap(), bin.join("busybox")).unwrap();
        fs::set_permissions(bin.join("busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("busybox", bin.join("sh")).ok();
        let mut config = config_json(command, &self.cgroup(id));
        edit(&mut config);
        let spec: Spec = serde_json::from_value(config).unwrap();
        let guest = GuestPaths {
            container: Path::new("/run/share").join(id),
        };
        ContainerRequest {
            id: id.into(),
            plan: bulkhead_oci::plan(&spec, &bundle, id, &guest).unwrap(),
            bundle,
            rootfs: Vec::new(),
            spec_annotations: HashMap::new(),
            stdio: OUTPUT,
        }
    }

    /// Nothing of any sandbox may be on the host any more.
    pub fn assert_clean(&self) {
        assert!(
            !self.config.state_dir.join("test").exists(),
            "state directories are left"
        );
        assert_eq!(mounts_below(self.base.path()).unwrap(), Vec::<PathBuf>::new());
        let own = self.cgroup("");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            assert!(
                !hierarchy.path().join(&own).exists(),
                "cgroup in {:?}",
                hierarchy.path()
            );
        }
    }
}

impl Running {
    /// Creates and starts a container, waits for its end, and returns its status and output.
    pub async fn run(&mut self, request: ContainerRequest) -> (ExitStatus, String) {
        let container = within(self.sandbox.create_container(request)).await.unwrap();
        let streams = container.take_streams().unwrap();
        within(container.start()).await.unwrap();
        let output = within(read(streams)).await;
        let status = self.exit_of("").await;
        within(container.delete()).await.unwrap();
        (status, output)
    }

    /// Waits for the end of a process.
    pub async fn exit_of(&mut self, exec: &str) -> ExitStatus {
        loop {
            match within(self.events.recv())
                .await
                .expect("an exit comes before the end")
            {
                SandboxEvent::Exited { exec_id, status, .. } if exec_id == exec => return status,
                SandboxEvent::VmGone { reason } => panic!("{reason}"),
                _ => {}
            }
        }
    }

    pub async fn create(&self, request: ContainerRequest) -> Container {
        within(self.sandbox.create_container(request)).await.unwrap()
    }

    pub async fn end(mut self) {
        within(self.sandbox.shutdown(Duration::from_secs(20)))
            .await
            .unwrap();
        while let Some(event) = within(self.events.recv()).await {
            if let SandboxEvent::VmGone { reason } = event {
                assert!(reason.starts_with("guest_shutdown"), "{reason}");
            }
        }
    }
}

/// All that a process says, stdout before stderr.
pub async fn read(streams: Streams) -> String {
    let mut output = Vec::new();
    for mut stream in [streams.stdout, streams.stderr].into_iter().flatten() {
        while let Some(bytes) = stream.read().await.unwrap() {
            output.extend_from_slice(&bytes);
        }
    }
    String::from_utf8(output).unwrap()
}

fn config_json(command: &str, cgroup: &Path) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "args": ["/bin/sh", "-c", command],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "cgroupsPath": Path::new("/").join(cgroup),
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
        },
    })
}

/// Where this test's program and its siblings are.
fn programs() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(2)
        .unwrap()
        .into()
}

fn cache() -> PathBuf {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_default()
        .join("bulkhead")
}

fn newest_kernel(cache: &Path) -> Option<PathBuf> {
    let built = fs::read_dir(cache.join("kernel"))
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("vmlinux"));
    built
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok())
}

fn busybox() -> Option<PathBuf> {
    let tools = fs::read_dir(cache().join("tools")).ok()?.flatten();
    let candidates = tools.map(|entry| entry.path().join("bin/busybox"));
    candidates
        .into_iter()
        .chain(["/bin/busybox".into()])
        .find(|path| path.is_file())
}

/// An initramfs with the agent as /init, in the kernel's `newc` format.
fn cpio(agent: &[u8]) -> Vec<u8> {
    const DIRECTORY: usize = 0o040_755;
    let mut archive = Vec::new();
    for (name, mode, content) in [
        ("dev", DIRECTORY, &[][..]),
        ("proc", DIRECTORY, &[]),
        ("run", DIRECTORY, &[]),
        ("sys", DIRECTORY, &[]),
        ("tmp", DIRECTORY, &[]),
        ("init", 0o100_755, agent),
        ("TRAILER!!!", 0, &[]),
    ] {
        let fields = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        write!(archive, "070701").unwrap();
        for field in fields {
            write!(archive, "{field:08x}").unwrap();
        }
        write!(archive, "{name}\0").unwrap();
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
