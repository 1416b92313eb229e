//! A place to boot VMs in, and what must be left of it: nothing.

mod skip;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_runtime::fs_server::{self, FsServer, FsServerSpec};
use bulkhead_runtime::process::Placement;
use bulkhead_runtime::vmm::qemu::Qemu;
use bulkhead_runtime::vmm::{Accelerator, Start, VmInstance, VmShape, VmSpec, Vmm};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::FlockOperation;
pub use skip::skip;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// How soon nothing may be left of a VM whose owner or whose part has died.
pub const GONE: Duration = Duration::from_secs(3);
/// For everything that takes as long as it takes; a boot on a loaded host most of all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names the directory of a rig that another process has made.
pub const RIG: &str = "BULKHEAD_TEST_RIG";

/// One sandbox directory, as the runtime makes it.
pub struct Rig {
    directory: PathBuf,
    /// `None` in a process that shares another's.
    _owned: Option<TempDir>,
    kernel: PathBuf,
    lock: File,
}

/// A VM that has said HELLO.
pub struct Vm {
    pub instance: VmInstance,
    pub fs: FsServer,
    agent: tokio::sync::Mutex<BufReader<UnixStream>>,
}

/// Waits, but not forever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

impl Rig {
    /// `None`, with a word about it, where a VM cannot be booted.
    pub fn new() -> Option<Self> {
        let Some(kernel) = kernel().filter(|_| nix::unistd::geteuid().is_root()) else {
            return skip("needs root and a guest kernel");
        };
        if let Some(directory) = std::env::var_os(RIG).map(PathBuf::from) {
            let lock = File::open(directory.join("lock")).unwrap();
            return Some(Self {
                directory,
                _owned: None,
                kernel,
                lock,
            });
        }
        let owned = tempfile::tempdir().unwrap();
        let directory = owned.path().to_owned();
        let share = directory.join("share");
        fs::create_dir(&share).unwrap();
        let none = None::<&str>;
        mount(Some(&share), &share, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, &share, none, MsFlags::MS_SHARED, none).unwrap();
        let stub = fs::read(program("examples/stub-agent"));
        let stub = stub.expect("run `cargo build -p bulkhead-runtime --examples` first");
        fs::write(directory.join("initramfs.cpio"), cpio("init", &stub)).unwrap();
        let lock = File::create(directory.join("lock")).unwrap();
        Some(Self {
            directory,
            _owned: Some(owned),
            kernel,
            lock,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn share(&self) -> PathBuf {
        self.path("share")
    }

    pub fn qemu(&self) -> Qemu {
        Qemu {
            parent: program("bulkhead-vmm"),
            program: qemu_program(),
            cache: self.path("cache"),
        }
    }

    /// The lock for one more process: its own open file, which holds a shared lock.
    fn lock(&self) -> OwnedFd {
        let lock = File::open(self.path("lock")).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockShared).unwrap();
        lock.into()
    }

    pub async fn share_server(&self) -> FsServer {
        let spec = FsServerSpec {
            program: program("bulkhead-fs"),
            directory: self.share(),
            socket_directory: self.directory.clone(),
            placement: Placement::default(),
            lock: self.lock(),
            stderr: None,
        };
        fs_server::start(spec).await.unwrap()
    }

    pub fn spec(&self, fs: Option<&FsServer>) -> VmSpec {
        VmSpec {
            shape: VmShape {
                vcpus: 1,
                memory_mib: 256,
                accelerator: accelerator(),
                kernel: self.kernel.clone(),
                initramfs: self.path("initramfs.cpio"),
            },
            start: Start::Boot,
            tap: None,
            share: fs.map(|fs| fs.socket.try_clone().unwrap()),
            placement: Placement::default(),
            console_log: self.path("console.log"),
            lock: self.lock(),
        }
    }

    pub async fn boot(&self) -> Vm {
        let fs = self.share_server().await;
        let instance = self.qemu().launch(self.spec(Some(&fs))).await.unwrap();
        Vm::new(instance, fs).await
    }

    /// Every process of every VM held the lifecycle lock: it is free when all of them are gone.
    pub async fn assert_nothing_left(&self) {
        let start = tokio::time::Instant::now();
        while rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            assert!(start.elapsed() < GONE, "a process of the VM is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rustix::fs::flock(&self.lock, FlockOperation::Unlock).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whatever the test was about has been checked: what cannot be unmounted is the temporary
        // directory's problem.
        umount2(&self.share(), MntFlags::MNT_DETACH).ok();
    }
}

impl Vm {
    /// Waits for the guest's HELLO.
    pub async fn new(instance: VmInstance, mut fs: FsServer) -> Self {
        // The VMM has its own copy; this one would hide its end from the server.
        fs.socket = File::open("/dev/null").unwrap().into();
        let agent = tokio::sync::Mutex::new(BufReader::new(instance.take_agent().unwrap()));
        let mut vm = Self { instance, fs, agent };
        let hello = tokio::select! {
            line = within(line(&vm.agent)) => line,
            death = vm.instance.died() => panic!("{death}"),
        };
        assert_eq!(hello, "HELLO");
        let agent: &mut BufReader<_> = vm.agent.get_mut();
        assert!(agent.buffer().is_empty());
        vm
    }

    pub async fn send(&self, bytes: &[u8]) {
        self.agent.lock().await.write_all(bytes).await.unwrap();
    }

    pub async fn line(&mut self) -> String {
        within(line(&self.agent)).await
    }
}

async fn line(agent: &tokio::sync::Mutex<BufReader<UnixStream>>) -> String {
    let mut line = String::new();
    agent.lock().await.read_line(&mut line).await.unwrap();
    line.trim().to_owned()
}

/// Processor time of all threads of a process.
pub fn processor_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let time = |thread: fs::DirEntry| -> u64 {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    Duration::from_nanos(threads.flatten().map(time).sum())
}

/// What a process weighs: its own memory, and its part of what it shares.
pub fn proportional_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// KVM where `BULKHEAD_TEST_KVM` is set, as in the testbed.
fn accelerator() -> Accelerator {
    match std::env::var_os("BULKHEAD_TEST_KVM") {
        Some(_) => Accelerator::Kvm,
        None => Accelerator::Tcg,
    }
}

/// The QEMU to test with, which need not be the system's.
pub fn qemu_program() -> PathBuf {
    std::env::var_os("BULKHEAD_QEMU").map_or_else(|| "/usr/bin/qemu-system-x86_64".into(), PathBuf::from)
}

/// Beside this test's own program's directory.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join(name)
}

fn kernel() -> Option<PathBuf> {
    if let Some(kernel) = std::env::var_os("BULKHEAD_KERNEL") {
        return Some(kernel.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let built = fs::read_dir(cache.join("bulkhead/kernel"))
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("vmlinux"));
    built
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok())
}

/// An initramfs with one executable, in the kernel's `newc` format.
fn cpio(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [
        ("dev", 0o040_755, &[][..]),
        (name, 0o100_755, content),
        ("TRAILER!!!", 0, &[]),
    ] {
        let fields = [0, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        write!(archive, "070701").unwrap();
        for field in fields {
            write!(archive, "{field:08x}").unwrap();
        }
        write!(archive, "{name}\0").unwrap();
        pad(&mut archive);
        archive.extend_from_slice(content);
        pad(&mut archive);
    }
    archive
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
