//! Sorts what the agent says into replies and events.

use std::sync::Arc;

use bulkhead_agent_protocol::link::Incoming;
use bulkhead_agent_protocol::message::{Body, Exited, Oom, Stats};
use tokio::sync::mpsc;

use super::Shared;

/// Something the agent said by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEvent {
    /// A process was reaped.
    Exited(Exited),
    /// A process was killed for want of memory.
    Oom(Oom),
    /// A container's counters.
    Stats(Box<Stats>),
}

/// Runs until the link ends, then fails every request that still waits and ends the events.
pub(super) async fn run(mut incoming: Incoming, shared: Arc<Shared>, events: mpsc::Sender<AgentEvent>) {
    while let Some(envelope) = incoming.next().await {
        let event = match envelope.body {
            Some(Body::Reply(reply)) => {
                // A reply nobody waits for came after its deadline.
                if let (Some(waiting), Some(outcome)) = (shared.take(envelope.id), reply.outcome) {
                    waiting.send(outcome).ok();
                }
                continue;
            }
            Some(Body::Log(log)) => {
                write_log(log.level, &log.message);
                continue;
            }
            Some(Body::Exited(exited)) => AgentEvent::Exited(exited),
            Some(Body::Oom(oom)) => AgentEvent::Oom(oom),
            Some(Body::Stats(stats)) => AgentEvent::Stats(Box::new(stats)),
            // The protocol crate lets no message of the host's through in this direction.
            _ => continue,
        };
        if events.send(event).await.is_err() {
            break;
        }
    }
    shared.end();
}

/// Puts a line of the agent's into the host's log, at the level the agent gave it.
fn write_log(level: u32, message: &str) {
    match level {
        0 | 1 => tracing::error!("guest: {message}"),
        2 => tracing::warn!("guest: {message}"),
        3 => tracing::info!("guest: {message}"),
        _ => tracing::debug!("guest: {message}"),
    }
}
