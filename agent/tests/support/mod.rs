//! A real VM around the agent: QEMU, a shared directory, and the host's end of the link.
//!
//! Needs `BULKHEAD_KERNEL` (a vmlinux, as hack/guest-kernel prints) and `BULKHEAD_BUSYBOX` (a static
//! busybox, as hack/tools unpacks); without them the tests say so and pass. `BULKHEAD_AGENT` is the agent
//! to put into the initramfs, else it is the one just built.

#![allow(dead_code, missing_docs, reason = "each test program uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on ends"
)]

mod cpio;
mod machine;
mod share;
#[path = "../../../runtime/tests/support/skip.rs"]
mod skip;
mod spec;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::generation::{GENERATION, Role};
use bulkhead_agent_protocol::link::{Incoming, Link, StreamReader, StreamWriter};
use bulkhead_agent_protocol::message::{self, *};
use bytes::Bytes;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub use spec::Container;

/// Far more than anything takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A booted VM. Dropping it ends QEMU.
pub struct Vm {
    qemu: Child,
    pub link: Link,
    pub hello: Hello,
    pub booted_after: Duration,
    pub directory: tempfile::TempDir,
    busybox: PathBuf,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Outcome>>>>,
    events: mpsc::UnboundedReceiver<Body>,
    requests: AtomicU64,
    streams: AtomicU32,
}

/// The host's ends of a process's streams.
pub struct Streams {
    pub stdin: StreamWriter,
    pub stdout: StreamReader,
    pub stderr: Option<StreamReader>,
}

/// Boots a VM, or explains why not.
pub async fn boot() -> Option<Vm> {
    let agent = std::env::var_os("BULKHEAD_AGENT").map(PathBuf::from);
    boot_with(agent.as_deref()).await
}

/// Boots a VM with this agent, else with the one just built.
pub async fn boot_with(agent: Option<&Path>) -> Option<Vm> {
    let path = |name: &str| match std::env::var_os(name) {
        Some(path) => Some(PathBuf::from(path)),
        None => skip::skip(&format!("{name} is not set (see agent/tests/support/mod.rs)")),
    };
    let (kernel, busybox) = (path("BULKHEAD_KERNEL")?, path("BULKHEAD_BUSYBOX")?);
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("share");
    std::fs::create_dir(&shared).unwrap();
    let initramfs = directory.path().join("initramfs.cpio");
    cpio::write_initramfs(&initramfs, &machine::agent_binary(directory.path(), agent));
    let share_socket = share::serve(directory.path(), &shared);
    let port_socket = directory.path().join("port");
    let listener = UnixListener::bind(&port_socket).unwrap();
    let started = Instant::now();
    let qemu = machine::start_qemu(&kernel, &initramfs, &port_socket, &share_socket, directory.path());
    let (stream, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    let (read, write) = stream.into_split();
    let hello = Hello {
        generation: GENERATION,
        ..Hello::default()
    };
    let (link, incoming) = Link::start(Role::Host, read, write, hello);
    let mut peer = link.peer_hello();
    let hello = timeout(DEADLINE, peer.wait_for(Option::is_some))
        .await
        .expect("no HELLO")
        .unwrap()
        .clone();
    let booted_after = started.elapsed();
    let waiting = Arc::default();
    let (sender, events) = mpsc::unbounded_channel();
    tokio::spawn(dispatch(incoming, Arc::clone(&waiting), sender));
    let vm = Vm {
        qemu,
        link,
        hello: hello.unwrap(),
        booted_after,
        directory,
        busybox,
        waiting,
        events,
        requests: AtomicU64::new(1),
        streams: AtomicU32::new(1),
    };
    vm.done(Body::ConfigureSandbox(ConfigureSandbox {
        hostname: "box".into(),
        unix_time_ns: 1_800_000_000_000_000_000,
        entropy: vec![7; 64],
    }))
    .await;
    Some(vm)
}

async fn dispatch(
    mut incoming: Incoming,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Outcome>>>>,
    events: mpsc::UnboundedSender<Body>,
) {
    while let Some(envelope) = incoming.next().await {
        match envelope.body {
            Some(Body::Reply(reply)) => {
                if let Some(waiter) = waiting.lock().unwrap().remove(&envelope.id) {
                    waiter.send(reply.outcome.unwrap()).ok();
                }
            }
            Some(event) => drop(events.send(event)),
            None => {}
        }
    }
}

impl Vm {
    /// Sends a request and waits for its outcome.
    pub async fn request(&self, body: Body) -> Outcome {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, sender);
        self.link.send(Envelope { id, body: Some(body) }).await.unwrap();
        timeout(DEADLINE, receiver)
            .await
            .expect("no reply")
            .expect("link lost")
    }

    /// A request that must succeed without a value.
    pub async fn done(&self, body: Body) {
        let outcome = self.request(body).await;
        assert_eq!(outcome, Outcome::Done(Done {}));
    }

    /// A request that must fail.
    pub async fn fails(&self, body: Body) -> Failed {
        match self.request(body).await {
            Outcome::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    /// A container's description with a busybox root, to be changed before it is created.
    pub fn container(&self, id: &str) -> Container {
        let root = self.directory.path().join("share").join(id).join("rootfs");
        spec::make_rootfs(&root, &self.busybox);
        Container::new(id)
    }

    /// Streams for one process, opened on this side.
    pub fn streams(&self, terminal: bool) -> (message::Stdio, Streams) {
        let id = || self.streams.fetch_add(1, Ordering::Relaxed);
        let (stdin, stdout, stderr) = (id(), id(), (!terminal).then(id));
        let streams = Streams {
            stdin: self.link.open_writer(stdin).unwrap(),
            stdout: self.link.open_reader(stdout).unwrap(),
            stderr: stderr.map(|id| self.link.open_reader(id).unwrap()),
        };
        (
            message::Stdio {
                stdin: Some(stdin),
                stdout: Some(stdout),
                stderr,
                terminal,
            },
            streams,
        )
    }

    pub async fn create(&self, container: &Container) -> Result<Streams, Failed> {
        let (stdio, streams) = self.streams(container.is_terminal());
        let request = CreateContainer {
            container_id: container.id.clone(),
            spec: container.json(),
            stdio: Some(stdio),
            pid_namespace_of: container.pid_namespace_of.clone(),
            ..CreateContainer::default()
        };
        match self.request(Body::CreateContainer(request)).await {
            Outcome::Started(started) => {
                assert!(started.pid > 1);
                Ok(streams)
            }
            Outcome::Failed(failed) => Err(failed),
            other => panic!("{other:?}"),
        }
    }

    pub async fn start(&self, id: &str) {
        let request = StartContainer {
            container_id: id.into(),
        };
        let outcome = self.request(Body::StartContainer(request)).await;
        assert!(matches!(outcome, Outcome::Started(_)), "{outcome:?}");
    }

    /// Creates and starts.
    pub async fn run(&self, container: &Container) -> Streams {
        let streams = self.create(container).await.unwrap();
        self.start(&container.id).await;
        streams
    }

    pub async fn exec(&self, container: &Container, exec_id: &str, args: &[&str]) -> Result<Streams, Failed> {
        self.exec_process(container, exec_id, container.exec_process(args))
            .await
    }

    pub async fn exec_process(
        &self,
        container: &Container,
        exec_id: &str,
        process: serde_json::Value,
    ) -> Result<Streams, Failed> {
        let (stdio, streams) = self.streams(process["terminal"] == true);
        let request = Exec {
            container_id: container.id.clone(),
            exec_id: exec_id.into(),
            process: serde_json::to_vec(&process).unwrap(),
            stdio: Some(stdio),
        };
        match self.request(Body::Exec(request)).await {
            Outcome::Started(_) => Ok(streams),
            Outcome::Failed(failed) => Err(failed),
            other => panic!("{other:?}"),
        }
    }

    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) {
        let (container_id, exec_id) = (id.into(), exec_id.into());
        self.done(Body::Kill(Kill {
            container_id,
            exec_id,
            signal,
            all,
        }))
        .await;
    }

    pub async fn delete(&self, id: &str, exec_id: &str) {
        self.done(Body::Delete(Delete {
            container_id: id.into(),
            exec_id: exec_id.into(),
        }))
        .await;
    }

    /// The next event that is not only counters.
    pub async fn event(&mut self) -> Body {
        loop {
            match timeout(DEADLINE, self.events.recv())
                .await
                .expect("no event")
                .expect("link lost")
            {
                Body::Stats(_) => {}
                event => return event,
            }
        }
    }

    /// The next event of any kind.
    pub async fn any_event(&mut self) -> Body {
        timeout(DEADLINE, self.events.recv())
            .await
            .expect("no event")
            .expect("link lost")
    }

    /// The next event, which must be an exit.
    pub async fn exit(&mut self) -> Exited {
        match self.event().await {
            Body::Exited(exited) => exited,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for QEMU to end by itself.
    pub async fn gone(mut self) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.qemu.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < DEADLINE, "the VM does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Processor time that QEMU has taken: unlike wall time, the same on a busy machine, nearly.
    pub fn processor_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.qemu.id())).unwrap();
        // A thread may end between the two looks.
        let texts =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
        let nanoseconds = texts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok());
        Duration::from_nanos(nanoseconds.sum())
    }

    /// What the guest printed to its console.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("console")).unwrap()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
        if std::thread::panicking() {
            eprintln!("console:\n{}", self.console());
        }
    }
}

impl Streams {
    /// Ends the input and returns all output.
    pub async fn finish(self) -> String {
        self.stdin.end().await.ok();
        read_all(self.stdout).await
    }

    /// Sends input.
    pub async fn say(&mut self, text: &str) {
        self.stdin
            .write(Bytes::copy_from_slice(text.as_bytes()))
            .await
            .unwrap();
    }

    /// Reads output until it contains `text`.
    pub async fn hear(&mut self, text: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(text) {
            let more = timeout(DEADLINE, self.stdout.read())
                .await
                .unwrap_or_else(|_| panic!("only {heard:?}"));
            let bytes = more.unwrap().unwrap_or_else(|| panic!("ended after {heard:?}"));
            heard.push_str(&String::from_utf8_lossy(&bytes));
        }
        heard
    }
}

/// Reads a stream to its end.
pub async fn read_all(mut stream: StreamReader) -> String {
    let mut all = Vec::new();
    while let Some(bytes) = timeout(DEADLINE, stream.read()).await.expect("no end").unwrap() {
        all.extend_from_slice(&bytes);
    }
    String::from_utf8_lossy(&all).into_owned()
}
