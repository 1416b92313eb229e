//! QEMU's control channel: one JSON value a line, both ways.
//!
//! A task owns the socket. It shakes hands, sends one command at a time, and notes why QEMU says it stops.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::disks::DEVICE_PREFIX;
use crate::vmm::{DeathReason, VmmError};

/// QEMU answers between two turns of its main loop: at once, or not at all.
const DEADLINE: Duration = Duration::from_secs(5);
/// What each of several commands given at once adds to that: the slowest, of a disk, takes a millisecond or two.
const DEADLINE_PER_STEP: Duration = Duration::from_millis(100);
/// The longest lines are listings of devices, some 10 KiB; QEMU is not trusted to stay below this.
const MAX_LINE: u64 = 1 << 20;
/// Commands that may wait their turn; callers wait for room beyond that.
const QUEUE: usize = 8;
/// How long the end of the channel may lag behind the end of QEMU.
const SETTLE: Duration = Duration::from_millis(500);

/// A handle on the channel. Dropping all of them closes it.
#[derive(Debug, Clone)]
pub(super) struct Qmp {
    commands: mpsc::Sender<Command>,
    stopped: Arc<Mutex<Option<DeathReason>>>,
    migration: watch::Receiver<Option<Migration>>,
    /// Disks that QEMU has said are gone, until somebody has waited for that.
    deleted: Arc<watch::Sender<HashSet<String>>>,
    ended: watch::Receiver<bool>,
}

/// How saving or restoring has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Migration {
    /// All of it was written or read.
    Completed,
    /// It was not.
    Failed,
}

/// Commands to give at once, without waiting for the answer to one before giving the next.
#[derive(Debug)]
struct Command {
    steps: Vec<Step>,
    answer: oneshot::Sender<Vec<Answer>>,
}

type Answer = Result<Value, VmmError>;

/// One command.
#[derive(Debug)]
pub(super) struct Step {
    name: &'static str,
    arguments: Value,
    /// Goes with it.
    descriptor: Option<OwnedFd>,
}

impl Step {
    /// A command with its arguments; null for none.
    pub(super) fn new(name: &'static str, arguments: Value) -> Self {
        Self {
            name,
            arguments,
            descriptor: None,
        }
    }

    /// Hands a descriptor over with it.
    pub(super) fn with_descriptor(mut self, descriptor: OwnedFd) -> Self {
        self.descriptor = Some(descriptor);
        self
    }
}

/// One line from QEMU.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Message {
    Event {
        event: String,
        #[serde(default)]
        data: Value,
    },
    Return {
        r#return: Value,
    },
    Error {
        error: Refusal,
    },
    Greeting {
        #[serde(rename = "QMP")]
        _version: Value,
    },
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

struct Channel {
    lines: BufReader<OwnedReadHalf>,
    /// A line read so far: reading may be given up half-way.
    partial: Vec<u8>,
    output: OwnedWriteHalf,
    stopped: Arc<Mutex<Option<DeathReason>>>,
    migration: watch::Sender<Option<Migration>>,
    deleted: Arc<watch::Sender<HashSet<String>>>,
}

impl Qmp {
    /// Starts talking. Needs a tokio runtime.
    pub(super) fn start(stream: UnixStream) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let stopped = Arc::new(Mutex::new(None));
        let (end, ended) = watch::channel(false);
        let (migrated, migration) = watch::channel(None);
        let deleted = Arc::new(watch::Sender::default());
        let (input, output) = stream.into_split();
        let channel = Channel {
            lines: BufReader::new(input),
            partial: Vec::new(),
            output,
            stopped: Arc::clone(&stopped),
            migration: migrated,
            deleted: Arc::clone(&deleted),
        };
        tokio::spawn(async move {
            if let Err(error) = channel.run(queue).await {
                tracing::debug!(%error, "QEMU's control channel has ended");
            }
            end.send_replace(true);
        });
        Self {
            commands,
            stopped,
            migration,
            deleted,
            ended,
        }
    }

    /// Gives one command and waits for its answer.
    pub(super) async fn execute(&self, name: &'static str, arguments: Value) -> Answer {
        let mut answers = self.execute_all(vec![Step::new(name, arguments)]).await?;
        answers.pop().unwrap_or_else(|| Err(closed()))
    }

    /// Gives several commands and waits for the answers to all: one each, in the same order. One that is refused
    /// does not keep QEMU from the next.
    pub(super) async fn execute_all(&self, steps: Vec<Step>) -> Result<Vec<Answer>, VmmError> {
        let Some(command) = steps.first().map(|step| step.name) else {
            return Ok(Vec::new());
        };
        let after = DEADLINE + DEADLINE_PER_STEP * u32::try_from(steps.len()).unwrap_or(u32::MAX);
        let exchange = async {
            let (answer, answered) = oneshot::channel();
            let sent = self.commands.send(Command { steps, answer }).await;
            sent.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())
        };
        match timeout(after, exchange).await {
            Ok(answers) => answers,
            Err(_) => Err(VmmError::Slow { command, after }),
        }
    }

    /// Waits until QEMU has said of all of these devices that they are gone, and forgets that it did.
    pub(super) async fn wait_deleted(
        &self,
        devices: HashSet<String>,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        let (mut deleted, mut ended) = (self.deleted.subscribe(), self.ended.clone());
        let all = async {
            tokio::select! {
                biased;
                // Fails when the sender is gone, and we hold it.
                said = deleted.wait_for(|deleted| devices.is_subset(deleted)) => said.map(drop).map_err(|_| closed()),
                // Fails when the channel's task is gone, which is the end too.
                _ = ended.wait_for(|ended| *ended) => Err(closed()),
            }
        };
        let outcome = timeout(deadline, all).await.unwrap_or(Err(VmmError::Slow {
            command: "device_del",
            after: deadline,
        }));
        self.deleted.send_if_modified(|deleted| {
            deleted.retain(|device| !devices.contains(device));
            false
        });
        outcome
    }

    /// How saving or restoring will have ended; `None` if the channel ends before.
    pub(super) fn migration(&self) -> impl Future<Output = Option<Migration>> + use<> {
        let mut migration = self.migration.clone();
        async move { *migration.wait_for(Option::is_some).await.ok()? }
    }

    /// Why QEMU stopped, once its process has ended.
    pub(super) async fn last_words(&self) -> Option<DeathReason> {
        let mut ended = self.ended.clone();
        // A channel that somebody else holds open has had its time.
        timeout(SETTLE, ended.wait_for(|ended| *ended))
            .await
            .map(drop)
            .ok();
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Channel {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) -> Result<(), VmmError> {
        while !matches!(self.read().await?, Message::Greeting { .. }) {}
        let capabilities = Step::new("qmp_capabilities", Value::Null);
        self.exchange(vec![capabilities])
            .await?
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        loop {
            tokio::select! {
                message = self.read() => {
                    message?;
                }
                command = queue.recv() => {
                    let Some(Command { steps, answer }) = command else { return Ok(()) };
                    let answers = self.exchange(steps).await?;
                    // The caller may have given up.
                    answer.send(answers).ok();
                }
            }
        }
    }

    /// Gives all the commands, then takes all the answers. The result is the channel's, an answer's the command's.
    async fn exchange(&mut self, steps: Vec<Step>) -> Result<Vec<Answer>, VmmError> {
        let names: Vec<_> = steps.iter().map(|step| step.name).collect();
        for step in steps {
            self.write(step).await.map_err(|error| broken(&error))?;
        }
        let mut answers = Vec::with_capacity(names.len());
        for command in names {
            answers.push(self.answer(command).await?);
        }
        Ok(answers)
    }

    async fn write(&mut self, step: Step) -> io::Result<()> {
        let mut command = json!({ "execute": step.name });
        if !step.arguments.is_null() {
            command["arguments"] = step.arguments;
        }
        let mut line = command.to_string();
        line.push('\n');
        let sent = match &step.descriptor {
            // With the first byte, which is when QEMU takes it.
            Some(descriptor) => send_with(self.output.as_ref(), line.as_bytes(), descriptor).await?,
            None => 0,
        };
        self.output.write_all(&line.as_bytes()[sent..]).await
    }

    async fn answer(&mut self, command: &'static str) -> Result<Answer, VmmError> {
        loop {
            match self.read().await? {
                Message::Return { r#return } => return Ok(Ok(r#return)),
                Message::Error { error } => {
                    return Ok(Err(VmmError::Refused {
                        command,
                        message: error.desc,
                    }));
                }
                Message::Event { .. } | Message::Greeting { .. } => {}
            }
        }
    }

    /// The next message; notes it if it says why QEMU stops. May be given up and called again.
    async fn read(&mut self) -> Result<Message, VmmError> {
        let room = MAX_LINE.saturating_sub(self.partial.len() as u64);
        let read = (&mut self.lines)
            .take(room)
            .read_until(b'\n', &mut self.partial)
            .await;
        if read.map_err(|error| broken(&error))? == 0 {
            return Err(VmmError::Broken(
                "end of file, or a line beyond measure".to_owned(),
            ));
        }
        if !self.partial.ends_with(b"\n") {
            return Err(VmmError::Broken("half a line".to_owned()));
        }
        let message = serde_json::from_slice(&self.partial).map_err(|error| broken(&error))?;
        self.partial.clear();
        if let Message::Event { event, data } = &message {
            self.note(event, data);
        }
        Ok(message)
    }

    fn note(&self, event: &str, data: &Value) {
        if event == "MIGRATION" {
            let end = match data["status"].as_str() {
                Some("completed") => Migration::Completed,
                Some("failed") => Migration::Failed,
                _ => return,
            };
            self.migration.send_replace(Some(end));
            return;
        }
        if event == "DEVICE_DELETED" {
            let device = data["device"].as_str().unwrap_or_default();
            if device.starts_with(DEVICE_PREFIX) {
                self.deleted
                    .send_if_modified(|deleted| deleted.insert(device.to_owned()));
            }
            return;
        }
        let reason = match event {
            "SHUTDOWN" => stop_reason(data),
            "GUEST_PANICKED" => DeathReason::GuestPanic,
            _ => return,
        };
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one is the cause.
        stopped.get_or_insert(reason);
    }
}

fn stop_reason(shutdown: &Value) -> DeathReason {
    match shutdown["reason"].as_str() {
        Some("guest-panic") => DeathReason::GuestPanic,
        Some(reason) if reason.starts_with("guest-") => DeathReason::GuestShutdown,
        _ => DeathReason::Requested,
    }
}

/// Sends bytes, of which at least one, and a descriptor with them.
async fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: &OwnedFd) -> io::Result<usize> {
    let descriptors = [descriptor.as_fd()];
    let send = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(sendmsg(
            stream,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?)
    };
    stream.async_io(Interest::WRITABLE, send).await
}

fn closed() -> VmmError {
    VmmError::Broken("QEMU has closed it".to_owned())
}

fn broken(error: &dyn std::error::Error) -> VmmError {
    VmmError::Broken(error.to_string())
}
