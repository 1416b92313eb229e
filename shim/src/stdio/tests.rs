//! Copying, against a guest that is the other end of a link.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::link::{Link, Role, StreamReader, StreamWriter};
use bulkhead_agent_protocol::message::Hello;
use bytes::Bytes;
use nix::sys::stat::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::*;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const STDOUT: u32 = 2;
const STDIN: u32 = 1;

/// Both ends of a process's streams.
struct Rig {
    dir: tempfile::TempDir,
    host: Link,
    guest: Link,
}

impl Rig {
    fn new() -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let hello = Hello {
            generation: 1,
            ..Hello::default()
        };
        let (read, write) = tokio::io::split(ours);
        let (host, host_incoming) = Link::start(Role::Host, read, write, hello.clone());
        let (read, write) = tokio::io::split(theirs);
        let (guest, guest_incoming) = Link::start(Role::Guest, read, write, hello);
        // Nobody sends control messages here; the queues only have to exist.
        std::mem::forget((host_incoming, guest_incoming));
        Self {
            dir: tempfile::tempdir().unwrap(),
            host,
            guest,
        }
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    /// A process whose stdout goes to `stdout`, and the guest's end of it.
    async fn with_stdout(&self, stdout: &str) -> (Copies, StreamWriter) {
        let paths = Paths {
            stdout: stdout.to_owned(),
            ..Paths::default()
        };
        let stdio = Stdio::open(&paths, "ns", "c").await.unwrap();
        let reader = self.host.open_reader(STDOUT).unwrap();
        let streams = Streams {
            stdin: None,
            stdout: Some(reader),
            stderr: None,
        };
        (
            stdio.attach(streams, "c"),
            self.guest.open_writer(STDOUT).unwrap(),
        )
    }

    /// A process whose stdin comes from `stdin`, and the guest's end of it.
    async fn with_stdin(&self, stdin: &Path) -> (Copies, StreamReader) {
        let paths = Paths {
            stdin: stdin.to_str().unwrap().to_owned(),
            ..Paths::default()
        };
        let stdio = Stdio::open(&paths, "ns", "c").await.unwrap();
        let reader = self.guest.open_reader(STDIN).unwrap();
        let writer = self.host.open_writer(STDIN).unwrap();
        let streams = Streams {
            stdin: Some(writer),
            stdout: None,
            stderr: None,
        };
        let copies = stdio.attach(streams, "c");
        copies.process_starts();
        let opened = async {
            while pipe::OpenOptions::new().open_sender(stdin).is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, opened).await.unwrap();
        (copies, reader)
    }
}

fn client(path: &Path) -> pipe::Receiver {
    pipe::OpenOptions::new().open_receiver(path).unwrap()
}

async fn write(writer: &mut StreamWriter, bytes: &'static [u8]) {
    timeout(PATIENCE, writer.write(Bytes::from_static(bytes)))
        .await
        .unwrap()
        .unwrap();
}

async fn read_to_end(reader: &mut pipe::Receiver) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, reader.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    bytes
}

#[tokio::test]
async fn f09_everything_written_before_the_exit_arrives_and_then_the_fifo_ends() {
    let rig = Rig::new();
    let path = rig.fifo("out");
    let mut client = client(&path);
    let (mut copies, mut guest) = rig.with_stdout(path.to_str().unwrap()).await;
    let total = 4 << 20;
    let feed = tokio::spawn(async move {
        for _ in 0..total / 65536 {
            guest.write(Bytes::from(vec![b'x'; 65536])).await.unwrap();
        }
        guest.end().await.unwrap();
    });
    copies.process_exited(true);
    let read = tokio::spawn(async move { read_to_end(&mut client).await.len() });
    timeout(PATIENCE, copies.finish()).await.unwrap();
    assert_eq!(read.await.unwrap(), total);
    feed.await.unwrap();
}

#[tokio::test]
async fn f10_a_stream_that_stays_open_after_the_exit_ends_a_moment_after_delete() {
    let rig = Rig::new();
    let path = rig.fifo("out");
    let mut client = client(&path);
    let (mut copies, mut guest) = rig.with_stdout(path.to_str().unwrap()).await;
    write(&mut guest, b"before").await;
    copies.process_exited(false);
    write(&mut guest, b" after").await;
    let started = Instant::now();
    timeout(PATIENCE, copies.finish()).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_secs(2),
        "bytes on their way have time to arrive"
    );
    assert_eq!(read_to_end(&mut client).await, b"before after");
    timeout(PATIENCE, guest.reset_by_peer()).await.unwrap();
}

#[tokio::test]
async fn f19_output_that_nobody_reads_stalls_its_writer_and_delete_ends_all_the_same() {
    let rig = Rig::new();
    let path = rig.fifo("out");
    let (copies, mut guest) = rig.with_stdout(path.to_str().unwrap()).await;
    // More than a pipe and a window hold.
    let stalled = timeout(
        Duration::from_secs(1),
        guest.write(Bytes::from(vec![0; 64 << 20])),
    )
    .await;
    assert!(stalled.is_err(), "memory is bounded");
    timeout(PATIENCE, copies.finish()).await.unwrap();
}

#[tokio::test]
async fn f20_a_client_that_comes_late_misses_nothing() {
    let rig = Rig::new();
    let path = rig.fifo("out");
    let (copies, mut guest) = rig.with_stdout(path.to_str().unwrap()).await;
    write(&mut guest, b"early").await;
    let mut client = client(&path);
    let mut buffer = [0; 5];
    timeout(PATIENCE, client.read_exact(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buffer, b"early");
    guest.end().await.unwrap();
    copies.finish().await;
}

#[tokio::test]
async fn output_to_a_file_is_there_when_delete_returns() {
    let rig = Rig::new();
    let path = rig.dir.path().join("logs/out");
    let (copies, mut guest) = rig.with_stdout(&format!("file://{}", path.display())).await;
    write(&mut guest, b"line\n").await;
    guest.end().await.unwrap();
    copies.finish().await;
    assert_eq!(std::fs::read(path).unwrap(), b"line\n");
}

#[tokio::test]
async fn f21_output_is_discarded_when_the_logging_program_dies() {
    use std::os::unix::fs::PermissionsExt;

    let rig = Rig::new();
    let program = rig.dir.path().join("logger");
    std::fs::write(&program, "#!/bin/sh\nexec 5>&-\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (copies, mut guest) = rig.with_stdout(&format!("binary://{}", program.display())).await;
    for _ in 0..64 {
        let chunk = Bytes::from(vec![b'x'; 65536]);
        timeout(PATIENCE, guest.write(chunk)).await.unwrap().unwrap();
    }
    guest.end().await.unwrap();
    timeout(PATIENCE, copies.finish()).await.unwrap();
}

#[tokio::test]
async fn input_arrives_and_ends_after_close_io_alone() {
    let rig = Rig::new();
    let path = rig.fifo("in");
    let mut client = pipe::OpenOptions::new()
        .read_write(true)
        .open_sender(&path)
        .unwrap();
    let (copies, mut guest) = rig.with_stdin(&path).await;
    client.write_all(b"first").await.unwrap();
    assert_eq!(
        timeout(PATIENCE, guest.read()).await.unwrap().unwrap().unwrap(),
        "first"
    );
    client.write_all(b"last").await.unwrap();
    copies.close_stdin();
    copies.close_stdin();
    drop(client);
    assert_eq!(
        timeout(PATIENCE, guest.read()).await.unwrap().unwrap().unwrap(),
        "last"
    );
    assert_eq!(timeout(PATIENCE, guest.read()).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn f20_a_client_that_goes_away_does_not_end_the_input() {
    let rig = Rig::new();
    let path = rig.fifo("in");
    let (_copies, mut guest) = rig.with_stdin(&path).await;
    for text in ["one", "two"] {
        let mut client = pipe::OpenOptions::new().open_sender(&path).unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        drop(client);
        assert_eq!(
            timeout(PATIENCE, guest.read()).await.unwrap().unwrap().unwrap(),
            text
        );
    }
    let nothing = timeout(Duration::from_millis(100), guest.read()).await;
    assert!(nothing.is_err(), "no end while the process runs");
}

#[tokio::test]
async fn an_exit_releases_the_input_fifo() {
    let rig = Rig::new();
    let path = rig.fifo("in");
    let (mut copies, _guest) = rig.with_stdin(&path).await;
    copies.process_exited(true);
    copies.finish().await;
    let error = pipe::OpenOptions::new().open_sender(&path).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(libc::ENXIO),
        "nobody holds the fifo open for reading"
    );
}

#[tokio::test]
async fn a_clients_input_is_not_touched_before_start() {
    let rig = Rig::new();
    let path = rig.fifo("in");
    let paths = Paths {
        stdin: path.to_str().unwrap().to_owned(),
        ..Paths::default()
    };
    let stdio = Stdio::open(&paths, "ns", "c").await.unwrap();
    let writer = rig.host.open_writer(STDIN).unwrap();
    let mut guest = rig.guest.open_reader(STDIN).unwrap();
    let copies = stdio.attach(
        Streams {
            stdin: Some(writer),
            stdout: None,
            stderr: None,
        },
        "c",
    );
    let error = pipe::OpenOptions::new().open_sender(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENXIO), "nobody reads yet");
    // A client that has closed its end already, before Start.
    copies.close_stdin();
    copies.process_starts();
    assert_eq!(timeout(PATIENCE, guest.read()).await.unwrap().unwrap(), None);
}
