//! The host's side of the conversation with the guest's agent: requests with their replies, streams, and
//! what the agent says by itself.
//!
//! Whatever the guest says is bounded and checked by the protocol crate; here it can at most fail a request
//! or end the link.

mod dispatch;
mod error;
mod stdio;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_agent_protocol::error::LinkError;
use bulkhead_agent_protocol::generation::GENERATION;
use bulkhead_agent_protocol::link::{Link, Role};
use bulkhead_agent_protocol::message::{Body, Done, Envelope, Hello, Outcome, Stdio};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub use dispatch::AgentEvent;
pub use error::AgentError;
pub use stdio::{StdioRequest, Streams};

/// Events that may wait to be taken; then the agent has to wait.
const EVENT_QUEUE: usize = 256;

/// Talks to one agent. Clones share the connection; dropping the last one closes it.
#[derive(Debug, Clone)]
pub struct AgentClient {
    link: Link,
    shared: Arc<Shared>,
}

/// What requests and the task that reads replies have in common.
#[derive(Debug)]
struct Shared {
    /// Requests that wait for their reply; `None` once no reply can come any more.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Outcome>>>>,
    next_request: AtomicU64,
    next_stream: AtomicU32,
}

impl AgentClient {
    /// Starts talking over `stream`. Events arrive in order; they must be taken, or replies wait behind them.
    pub fn connect<S>(stream: S) -> (Self, mpsc::Receiver<AgentEvent>)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let hello = Hello {
            generation: GENERATION,
            ..Hello::default()
        };
        let (link, incoming) = Link::start(Role::Host, Box::pin(read), Box::pin(write), hello);
        let shared = Arc::new(Shared {
            pending: Mutex::new(Some(HashMap::new())),
            // 0 is the id of events, and no stream's.
            next_request: AtomicU64::new(1),
            next_stream: AtomicU32::new(1),
        });
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(dispatch::run(incoming, Arc::clone(&shared), events));
        (Self { link, shared }, receiver)
    }

    /// Waits for the agent's HELLO.
    ///
    /// # Errors
    /// The link ended, or nothing was heard within `deadline`.
    pub async fn hello(&self, deadline: Duration) -> Result<Hello, AgentError> {
        let mut hello = self.link.peer_hello();
        let said = async {
            tokio::select! {
                hello = hello.wait_for(Option::is_some) => hello.ok().and_then(|hello| hello.clone()),
                _ = self.link.closed() => None,
            }
        };
        match timeout(deadline, said).await {
            Err(_) => Err(AgentError::Slow {
                what: "HELLO",
                after: deadline,
            }),
            Ok(Some(hello)) => Ok(hello),
            Ok(None) => Err(AgentError::Gone(self.link.closed().await)),
        }
    }

    /// Asks for something and waits for the answer. `what` names it in errors.
    ///
    /// # Errors
    /// The agent refused, the link ended, or no answer came within `deadline`; what was asked for may then
    /// still happen.
    pub async fn request(
        &self,
        what: &'static str,
        body: Body,
        deadline: Duration,
    ) -> Result<Outcome, AgentError> {
        let id = self.shared.next_request.fetch_add(1, Ordering::Relaxed);
        let reply = self
            .shared
            .expect(id)
            .ok_or(AgentError::Gone(LinkError::Closed))?;
        let _forget = Forget {
            shared: &self.shared,
            id,
        };
        let conversation = async {
            self.link
                .send(Envelope { id, body: Some(body) })
                .await
                .map_err(AgentError::Gone)?;
            match reply.await {
                Ok(outcome) => Ok(outcome),
                Err(_) => Err(AgentError::Gone(self.link.closed().await)),
            }
        };
        match timeout(deadline, conversation).await {
            Err(_) => Err(AgentError::Slow {
                what,
                after: deadline,
            }),
            Ok(Ok(Outcome::Failed(failed))) => Err(AgentError::refused(failed)),
            Ok(result) => result,
        }
    }

    /// [`AgentClient::request`] of something that is answered by success alone.
    ///
    /// # Errors
    /// As there, or the agent answered something else.
    pub async fn order(&self, what: &'static str, body: Body, deadline: Duration) -> Result<(), AgentError> {
        match self.request(what, body, deadline).await? {
            Outcome::Done(Done {}) => Ok(()),
            _ => Err(AgentError::Nonsense { what }),
        }
    }

    /// Opens the host's ends of a process's streams, and describes them to the agent.
    ///
    /// # Errors
    /// The link ended, or has too many streams open.
    pub fn open_streams(&self, wanted: StdioRequest) -> Result<(Stdio, Streams), AgentError> {
        let mut stdio = Stdio {
            terminal: wanted.terminal,
            ..Stdio::default()
        };
        let mut streams = Streams {
            stdin: None,
            stdout: None,
            stderr: None,
        };
        if wanted.stdin {
            let id = self.next_stream();
            streams.stdin = Some(self.link.open_writer(id).map_err(AgentError::Gone)?);
            stdio.stdin = Some(id);
        }
        if wanted.stdout {
            let id = self.next_stream();
            streams.stdout = Some(self.link.open_reader(id).map_err(AgentError::Gone)?);
            stdio.stdout = Some(id);
        }
        // All output of a terminal comes by stdout.
        if wanted.stderr && !wanted.terminal {
            let id = self.next_stream();
            streams.stderr = Some(self.link.open_reader(id).map_err(AgentError::Gone)?);
            stdio.stderr = Some(id);
        }
        Ok((stdio, streams))
    }

    /// Waits for the end of the link and says why it ended.
    pub async fn closed(&self) -> LinkError {
        self.link.closed().await
    }

    /// Ends the link.
    pub fn close(&self) {
        self.link.close();
    }

    fn next_stream(&self) -> u32 {
        self.shared.next_stream.fetch_add(1, Ordering::Relaxed)
    }
}

impl Shared {
    /// Where the reply to request `id` will arrive; `None` if none can.
    fn expect(&self, id: u64) -> Option<oneshot::Receiver<Outcome>> {
        let (sender, receiver) = oneshot::channel();
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()?
            .insert(id, sender);
        Some(receiver)
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Outcome>> {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()?
            .remove(&id)
    }

    /// No reply will come any more: fails all who wait.
    fn end(&self) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Takes a request off the list however waiting for it ends.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.take(self.id);
    }
}

#[cfg(test)]
mod tests;
