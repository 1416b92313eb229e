//! Control messages between structs and bytes: gated by generation, bounded, and clean of terminal escapes.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message;

use crate::error::{LinkError, Violation};
use crate::frame::max_control;
use crate::generation::{Role, entry};
use crate::message::{Body, Envelope, ExitStatus, Hello, Outcome, Reply, Stats};

/// Longest text meant for people, in bytes: an error that fits into an event of Kubernetes with room to spare.
pub const MAX_TEXT: usize = 4 << 10;
/// Longest container or exec id, as containerd allows it.
pub const MAX_ID: usize = 76;
/// Most pids that `Stats` lists: far more than a person reads, and 16 KiB of the host's memory.
pub const MAX_OTHER_PIDS: usize = 4096;
/// Most entries of a map or list of `Stats`: `memory.stat` has about 70, a guest a few disks.
const MAX_STATS: usize = 512;

/// Encodes a message of `sender` for a link of `generation`. Texts for people are cut and cleaned.
pub(crate) fn encode(mut envelope: Envelope, sender: Role, generation: u32) -> Result<Bytes, LinkError> {
    let Some(body) = envelope.body.as_mut() else {
        return Err(LinkError::WrongSender {
            message: "a message without a body",
            sender,
        });
    };
    let entry = entry(body);
    if entry.sender != sender {
        return Err(LinkError::WrongSender {
            message: entry.name,
            sender,
        });
    }
    if entry.since > generation {
        return Err(LinkError::TooNew {
            message: entry.name,
            needs: entry.since,
            speaks: generation,
        });
    }
    clean_texts(body);
    let length = envelope.encoded_len();
    if length > max_control(sender) {
        return Err(LinkError::TooLong {
            message: entry.name,
            length,
        });
    }
    Ok(envelope.encode_to_vec().into())
}

/// Decodes and checks a message of `sender` on a link of `generation`.
pub(crate) fn decode(bytes: Bytes, sender: Role, generation: u32) -> Result<Envelope, Violation> {
    let mut envelope = Envelope::decode(bytes)?;
    let body = envelope.body.as_mut().ok_or(Violation::Unknown)?;
    let entry = entry(body);
    if entry.sender != sender || entry.since > generation {
        return Err(Violation::Unsolicited(entry.name));
    }
    check(body).map_err(|field| Violation::Range {
        message: entry.name,
        field,
    })?;
    clean_texts(body);
    Ok(envelope)
}

/// Decodes and checks a HELLO.
pub(crate) fn decode_hello(bytes: Bytes) -> Result<Hello, Violation> {
    let mut hello = Hello::decode(bytes)?;
    if hello.generation == 0 {
        return Err(Violation::Range {
            message: "Hello",
            field: "generation",
        });
    }
    clean(&mut hello.agent_version);
    clean(&mut hello.kernel_release);
    Ok(hello)
}

/// Names the first field of a guest's message that no honest guest sends. What the host sends is
/// checked where it is used: it is the host's own specification.
fn check(body: &Body) -> Result<(), &'static str> {
    let id = |field, id: &str| if id.len() <= MAX_ID { Ok(()) } else { Err(field) };
    match body {
        Body::Reply(reply) => check_reply(reply),
        Body::Exited(exited) => {
            id("container_id", &exited.container_id)?;
            id("exec_id", &exited.exec_id)?;
            match exited.status {
                Some(ExitStatus::Code(0..=255) | ExitStatus::Signal(1..=64)) => Ok(()),
                _ => Err("status"),
            }
        }
        Body::Oom(oom) => id("container_id", &oom.container_id),
        Body::Stats(stats) => {
            id("container_id", &stats.container_id)?;
            check_stats(stats)
        }
        Body::Log(log) if log.message.len() > MAX_TEXT => Err("message"),
        _ => Ok(()),
    }
}

fn check_reply(reply: &Reply) -> Result<(), &'static str> {
    match &reply.outcome {
        None => Err("outcome"),
        Some(Outcome::Done(_)) => Ok(()),
        Some(Outcome::Failed(failed)) if failed.stage.len() > MAX_TEXT => Err("stage"),
        Some(Outcome::Failed(failed)) if failed.message.len() > MAX_TEXT => Err("message"),
        Some(Outcome::Failed(_)) => Ok(()),
        Some(Outcome::Started(started)) if !pid(started.pid) => Err("pid"),
        Some(Outcome::Started(_)) => Ok(()),
        Some(Outcome::Processes(list)) if !list.processes.iter().all(|process| pid(process.pid)) => {
            Err("pid")
        }
        Some(Outcome::Processes(_)) => Ok(()),
    }
}

fn pid(pid: u32) -> bool {
    pid != 0 && i32::try_from(pid).is_ok()
}

fn check_stats(stats: &Stats) -> Result<(), &'static str> {
    // The keys become names of metrics.
    let name = |key: &str| {
        (1..=64).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if stats.memory_stat.len() > MAX_STATS || !stats.memory_stat.keys().all(|key| name(key)) {
        Err("memory_stat")
    } else if stats.io.len() > MAX_STATS {
        Err("io")
    } else if stats.other_pids.len() > MAX_OTHER_PIDS || !stats.other_pids.iter().copied().all(pid) {
        Err("other_pids")
    } else {
        Ok(())
    }
}

fn clean_texts(body: &mut Body) {
    match body {
        Body::Reply(Reply {
            outcome: Some(Outcome::Failed(failed)),
        }) => {
            clean(&mut failed.stage);
            clean(&mut failed.message);
        }
        Body::Log(log) => clean(&mut log.message),
        _ => (),
    }
}

/// Escapes control characters, which could forge lines of a log or drive a terminal, and cuts at `MAX_TEXT`.
fn clean(text: &mut String) {
    let risky = |c: char| c.is_control() && c != '\t';
    if text.len() <= MAX_TEXT && !text.contains(risky) {
        return;
    }
    let mut cleaned = String::with_capacity(text.len().min(MAX_TEXT));
    for c in text.trim_end().chars() {
        let piece: Cow<'_, str> = if risky(c) {
            c.escape_default().to_string().into()
        } else {
            c.to_string().into()
        };
        if cleaned.len() + piece.len() > MAX_TEXT {
            break;
        }
        cleaned.push_str(&piece);
    }
    *text = cleaned;
}

#[cfg(test)]
mod tests;
