//! The tasks that copy a process's streams, and their end.
//!
//! Output is copied until the guest ends the stream. That is not when the process ends: a grandchild may
//! hold its stdout. So [`Copies::finish`], called by Delete, waits only as long as bytes move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulkhead_agent_protocol::link::{StreamReader, StreamWriter};
use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::binary::Logger;
use super::fifo::{Input, Place};
use super::sink::Sink;

/// Once a process has been deleted, how long its streams may stand still before they are closed. Bytes on
/// their way through a slow guest take less; nobody who wants them reads slower than that.
const DRAIN_IDLE: Duration = Duration::from_secs(2);
/// How often [`Copies::finish`] looks whether bytes still move.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// Longest drain: a grandchild that writes for ever must not keep Delete from ending. runc's shim waits as
/// long.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Of an init, how long the guest may leave a stream open after the exit without sending anything. Nothing
/// of the container runs by then, and clients wait for the end before they call Delete.
const INIT_END_GRACE: Duration = Duration::from_secs(10);
/// Bytes of input read at once: a pipe holds 64 KiB, half of it keeps the writer busy meanwhile.
const INPUT_CHUNK: usize = 32 << 10;

/// How far a process's streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Input is not read yet: see [`Copies::process_starts`].
    Waiting,
    /// The process runs, or its streams may outlive it.
    Open,
    /// Nothing of the container runs any more: the guest is about to end the streams.
    Ending,
    /// Close now.
    Closed,
}

/// The streams of one process, being copied. Dropping this closes them at once.
#[derive(Debug)]
pub struct Copies {
    name: Arc<str>,
    outputs: JoinSet<()>,
    inputs: JoinSet<()>,
    stage: watch::Sender<Stage>,
    close_stdin: watch::Sender<bool>,
    moved: Arc<AtomicU64>,
    logger: Option<Logger>,
}

impl Copies {
    pub(super) fn new(name: &str, logger: Option<Logger>) -> Self {
        Self {
            name: name.into(),
            outputs: JoinSet::new(),
            inputs: JoinSet::new(),
            stage: watch::Sender::new(Stage::Waiting),
            close_stdin: watch::Sender::new(false),
            moved: Arc::default(),
            logger,
        }
    }

    pub(super) fn output(&mut self, stream: &'static str, reader: StreamReader, sink: Sink) {
        let copy = OutputCopy {
            name: self.name.clone(),
            stream,
            stage: self.stage.subscribe(),
            moved: self.moved.clone(),
        };
        self.outputs.spawn(copy.run(reader, sink));
    }

    pub(super) fn input(&mut self, input: Place, writer: StreamWriter) {
        self.inputs.spawn(copy_input(
            input,
            writer,
            self.close_stdin.subscribe(),
            self.stage.subscribe(),
        ));
    }

    /// Start has been called: opens the input. Not before, because `ctr` reads its own input as soon as
    /// somebody reads the fifo, and forgets to call CloseIO at its end if Create has not returned by then.
    pub fn process_starts(&self) {
        self.advance(Stage::Open);
    }

    /// CloseIO: the input ends once what has been written to it is read and its writers are gone.
    pub fn close_stdin(&self) {
        self.close_stdin.send_replace(true);
    }

    /// The process has ended; nobody reads its input. With `all_ended`, nothing of its container runs any
    /// more, and the guest has to end its output soon.
    pub fn process_exited(&mut self, all_ended: bool) {
        self.inputs.abort_all();
        if all_ended {
            self.advance(Stage::Ending);
        }
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let changed = *stage < to;
            *stage = (*stage).max(to);
            changed
        });
    }

    /// Copies what is still to come, closes everything and sees the logging program off.
    pub async fn finish(mut self) {
        self.inputs.shutdown().await;
        self.drain().await;
        self.stage.send_replace(Stage::Closed);
        while self.outputs.join_next().await.is_some() {}
        if let Some(logger) = self.logger.take() {
            logger.finish().await;
        }
    }

    /// Waits for the outputs' end while bytes move.
    async fn drain(&mut self) {
        let started = Instant::now();
        let (mut seen, mut since) = (self.moved.load(Ordering::Relaxed), started);
        while !self.outputs.is_empty() {
            if timeout(DRAIN_POLL, self.outputs.join_next()).await.is_ok() {
                continue;
            }
            let now = self.moved.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            if since.elapsed() >= DRAIN_IDLE || started.elapsed() >= DRAIN_MAX {
                return;
            }
        }
    }
}

/// One output.
struct OutputCopy {
    name: Arc<str>,
    stream: &'static str,
    stage: watch::Receiver<Stage>,
    moved: Arc<AtomicU64>,
}

impl OutputCopy {
    async fn run(mut self, mut reader: StreamReader, sink: Sink) {
        let mut sink = Some(sink);
        let mut dropped: u64 = 0;
        while let Some(chunk) = self.next(&mut reader).await {
            self.moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            dropped += match &mut sink {
                Some(open) => match self.write(open, &chunk).await {
                    Ok(rest) => rest,
                    Err(error) => {
                        // The process runs on, its output has no place to go.
                        tracing::warn!(process = %self.name, stream = self.stream, %error, "output discarded");
                        sink = None;
                        0
                    }
                },
                None => chunk.len() as u64,
            };
        }
        if dropped > 0 {
            tracing::warn!(process = %self.name, stream = self.stream, bytes = dropped, "output dropped");
        }
    }

    /// The next bytes; `None` at the end of the stream or when it has to end.
    async fn next(&mut self, reader: &mut StreamReader) -> Option<Bytes> {
        let mut stage = self.stage.clone();
        let ended = async {
            // A sender that is gone means that everything is to be closed.
            if stage
                .wait_for(|stage| *stage >= Stage::Ending)
                .await
                .is_ok_and(|s| *s == Stage::Ending)
            {
                sleep(INIT_END_GRACE).await;
            }
        };
        let closed = self.stage.wait_for(|stage| *stage == Stage::Closed);
        let read = tokio::select! {
            biased;
            read = reader.read() => read,
            _ = closed => return None,
            () = ended => return None,
        };
        match read {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::debug!(process = %self.name, stream = self.stream, %error, "output broke off");
                None
            }
        }
    }

    /// Writes a chunk, however long the reader takes. Returns how many bytes are lost because everything
    /// had to be closed before.
    async fn write(&mut self, sink: &mut Sink, chunk: &[u8]) -> std::io::Result<u64> {
        let mut rest = chunk;
        while !rest.is_empty() {
            let written = tokio::select! {
                biased;
                written = sink.write(rest) => written?,
                _ = self.stage.wait_for(|stage| *stage == Stage::Closed) => return Ok(rest.len() as u64),
            };
            self.moved.fetch_add(written as u64, Ordering::Relaxed);
            rest = &rest[written..];
        }
        Ok(0)
    }
}

async fn copy_input(
    place: Place,
    mut writer: StreamWriter,
    mut close: watch::Receiver<bool>,
    mut stage: watch::Receiver<Stage>,
) {
    if !stage
        .wait_for(|stage| *stage >= Stage::Open)
        .await
        .is_ok_and(|stage| *stage == Stage::Open)
    {
        return;
    }
    let mut input = match place.open() {
        Ok(input) => input,
        Err(error) => {
            tracing::warn!(%error, "input not opened");
            return;
        }
    };
    drop(place);
    loop {
        let chunk = tokio::select! {
            biased;
            _ = stage.wait_for(|stage| *stage > Stage::Open) => return,
            () = writer.reset_by_peer() => return,
            _ = close.wait_for(|close| *close), if input.hold.is_some() => {
                input.hold = None;
                continue;
            }
            chunk = read_chunk(&input) => chunk,
        };
        let outcome = match chunk {
            Ok(Some(bytes)) => writer.write(bytes).await,
            Ok(None) => {
                // The process may have closed its end meanwhile; then it knows.
                drop(writer.end().await);
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "input broke off");
                return;
            }
        };
        if outcome.is_err() {
            return;
        }
    }
}

/// Bytes of the input; `None` at its end. Memory is taken only when there is something to read: most
/// processes get no input for most of their life.
async fn read_chunk(input: &Input) -> std::io::Result<Option<Bytes>> {
    loop {
        input.receiver.readable().await?;
        let mut buffer = BytesMut::with_capacity(INPUT_CHUNK);
        match input.receiver.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(buffer.freeze())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
