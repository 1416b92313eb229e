//! QEMU's control channel: one JSON value a line, both ways.
//!
//! A task owns the socket. It shakes hands, sends one command at a time, and notes why QEMU says it stops.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::vmm::{DeathReason, VmmError};

/// QEMU answers between two turns of its main loop: at once, or not at all.
const DEADLINE: Duration = Duration::from_secs(5);
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

#[derive(Debug)]
struct Command {
    name: &'static str,
    arguments: Value,
    answer: oneshot::Sender<Result<Value, VmmError>>,
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
}

impl Qmp {
    /// Starts talking. Needs a tokio runtime.
    pub(super) fn start(stream: UnixStream) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let stopped = Arc::new(Mutex::new(None));
        let (end, ended) = watch::channel(false);
        let (migrated, migration) = watch::channel(None);
        let (input, output) = stream.into_split();
        let channel = Channel {
            lines: BufReader::new(input),
            partial: Vec::new(),
            output,
            stopped: Arc::clone(&stopped),
            migration: migrated,
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
            ended,
        }
    }

    /// Gives one command and waits for its answer.
    pub(super) async fn execute(&self, name: &'static str, arguments: Value) -> Result<Value, VmmError> {
        let exchange = async {
            let (answer, answered) = oneshot::channel();
            let gone = || VmmError::Broken("QEMU has closed it".to_owned());
            self.commands
                .send(Command {
                    name,
                    arguments,
                    answer,
                })
                .await
                .map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        match timeout(DEADLINE, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(VmmError::Slow {
                command: name,
                after: DEADLINE,
            }),
        }
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
        self.exchange("qmp_capabilities", &Value::Null).await??;
        loop {
            tokio::select! {
                message = self.read() => {
                    message?;
                }
                command = queue.recv() => {
                    let Some(Command { name, arguments, answer }) = command else { return Ok(()) };
                    let answered = self.exchange(name, &arguments).await?;
                    // The caller may have given up.
                    answer.send(answered).ok();
                }
            }
        }
    }

    /// The outer result is the channel's, the inner one the command's.
    async fn exchange(
        &mut self,
        name: &'static str,
        arguments: &Value,
    ) -> Result<Result<Value, VmmError>, VmmError> {
        let mut command = json!({ "execute": name });
        if !arguments.is_null() {
            command["arguments"] = arguments.clone();
        }
        let mut line = command.to_string();
        line.push('\n');
        self.output
            .write_all(line.as_bytes())
            .await
            .map_err(|error| broken(&error))?;
        loop {
            match self.read().await? {
                Message::Return { r#return } => return Ok(Ok(r#return)),
                Message::Error { error } => {
                    return Ok(Err(VmmError::Refused {
                        command: name,
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

fn broken(error: &dyn std::error::Error) -> VmmError {
    VmmError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": ["oob"]}}"#;

    /// A scripted QEMU: says the greeting, then for each command it hears says the given lines.
    fn qemu(answers: &'static [&'static str]) -> Qmp {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (input, mut output) = theirs.into_split();
            let mut commands = BufReader::new(input).lines();
            output
                .write_all(format!("{GREETING}\r\n").as_bytes())
                .await
                .unwrap();
            for answer in answers {
                commands.next_line().await.unwrap();
                output.write_all(answer.as_bytes()).await.unwrap();
                output.write_all(b"\r\n").await.unwrap();
            }
            commands.next_line().await.ok();
        });
        Qmp::start(ours)
    }

    const OK: &str = r#"{"return": {}}"#;

    #[tokio::test]
    async fn commands_are_answered_past_events() {
        let status = "{\"event\": \"RESUME\", \"timestamp\": {}}\r\n{\"return\": {\"running\": true}}";
        let qmp = qemu(Vec::leak(vec![OK, status]));
        let answer = qmp.execute("query-status", Value::Null).await.unwrap();
        assert_eq!(answer["running"], true);
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_words_and_the_channel() {
        let qmp = qemu(&[
            OK,
            r#"{"error": {"class": "GenericError", "desc": "no such device"}}"#,
            OK,
        ]);
        let error = qmp.execute("device_del", json!({ "id": "x" })).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the virtual machine refused device_del: no such device"
        );
        qmp.execute("stop", Value::Null).await.unwrap();
    }

    #[tokio::test]
    async fn the_first_reason_to_stop_is_kept() {
        let end = "{\"return\": {}}\r\n\
            {\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}, \"timestamp\": {}}\r\n\
            {\"event\": \"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": \"host-signal\"}, \"timestamp\": {}}";
        let qmp = qemu(Vec::leak(vec![OK, end]));
        qmp.execute("cont", Value::Null).await.unwrap();
        assert_eq!(qmp.last_words().await, Some(DeathReason::GuestShutdown));
    }

    #[tokio::test]
    async fn a_closed_channel_is_an_error_at_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let qmp = Qmp::start(ours);
        assert!(matches!(
            qmp.execute("quit", Value::Null).await,
            Err(VmmError::Broken(_))
        ));
        assert_eq!(qmp.last_words().await, None);
    }

    #[tokio::test]
    async fn nonsense_and_endless_lines_end_the_channel() {
        for said in ["{]\n".to_owned(), "x".repeat(MAX_LINE as usize + 1)] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let qmp = Qmp::start(ours);
            // The channel may end while this is still being written.
            theirs.write_all(said.as_bytes()).await.ok();
            assert!(matches!(
                qmp.execute("quit", Value::Null).await,
                Err(VmmError::Broken(_))
            ));
        }
    }

    #[test]
    fn reasons() {
        for (reason, expected) in [
            ("guest-reset", DeathReason::GuestShutdown),
            ("guest-shutdown", DeathReason::GuestShutdown),
            ("guest-panic", DeathReason::GuestPanic),
            ("host-qmp-quit", DeathReason::Requested),
            ("host-signal", DeathReason::Requested),
        ] {
            assert_eq!(stop_reason(&json!({ "reason": reason })), expected);
        }
    }
}
