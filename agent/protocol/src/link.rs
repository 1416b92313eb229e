//! The tokio driver of one connection: the same type on both sides, over any byte stream.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

pub use crate::generation::Role;
use crate::message::{Envelope, Hello};

/// One end of a connection; clones share it. Dropping the last clone closes it.
#[derive(Clone, Debug)]
pub struct Link {
    hello: watch::Receiver<Option<Hello>>,
}

/// Control messages from the peer, in order. Must be read promptly: while it is full nothing is read from
/// the carrier, so its reader must not wait for `Link::send` or a stream.
#[derive(Debug)]
pub struct Incoming {
    _private: (),
}

/// Bytes from the peer. Dropping it tells the peer to stop.
#[derive(Debug)]
pub struct StreamReader {
    _private: (),
}

/// Bytes to the peer. Dropping it without `end` aborts: the peer's reader gets an error, not a clean end.
#[derive(Debug)]
pub struct StreamWriter {
    _private: (),
}

/// Why a link ended, or why it did not take a message or stream.
#[derive(Clone, Debug, displaydoc::Display, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// the peer closed the connection
    Eof,
    /// this side closed the connection
    Closed,
}

/// Why a stream ended early.
#[derive(Clone, Debug, displaydoc::Display, thiserror::Error)]
pub enum StreamError {
    /// the peer reset the stream
    Reset,
    /// {0}
    Link(#[source] LinkError),
}

impl Link {
    /// Spawns the driver on the current tokio runtime (`current_thread` is enough).
    pub fn start<R, W>(_role: Role, _read: R, _write: W, _hello: Hello) -> (Link, Incoming)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        (
            Link {
                hello: watch::channel(None).1,
            },
            Incoming { _private: () },
        )
    }

    /// Queues a control message, waiting for the peer's HELLO and for room in the queue.
    /// Cancel safe: a cancelled send has sent nothing.
    pub async fn send(&self, _envelope: Envelope) -> Result<(), LinkError> {
        Err(LinkError::Closed)
    }

    /// Waits until every message queued so far was handed to the carrier.
    pub async fn flush(&self) -> Result<(), LinkError> {
        Err(LinkError::Closed)
    }

    /// Opens the reading end of a stream and grants the peer credit; it cannot send before. The host opens
    /// its ends before it sends the message that names the stream; the guest opens every stream that a
    /// message names, and drops what it cannot use.
    pub fn open_reader(&self, _stream: u32) -> Result<StreamReader, LinkError> {
        Err(LinkError::Closed)
    }

    /// Opens the writing end of a stream; see `open_reader`.
    pub fn open_writer(&self, _stream: u32) -> Result<StreamWriter, LinkError> {
        Err(LinkError::Closed)
    }

    /// The peer's HELLO, once it came.
    pub fn peer_hello(&self) -> watch::Receiver<Option<Hello>> {
        self.hello.clone()
    }

    /// Ends the link: every stream and `Incoming` end, `closed` answers `LinkError::Closed`.
    pub fn close(&self) {}

    /// Waits for the end of the link and says why it ended.
    pub async fn closed(&self) -> LinkError {
        LinkError::Closed
    }
}

impl Incoming {
    /// The next message; `None` when the link has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Envelope> {
        None
    }
}

impl StreamReader {
    /// The next bytes, never empty; `None` is the peer's explicit end. What is returned counts as consumed
    /// and is credited to the peer. Cancel safe.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        Err(StreamError::Reset)
    }

    /// Tells the peer to stop sending; what is on its way is discarded. The same as dropping.
    pub fn reset(self) {}
}

impl StreamWriter {
    /// Queues all of `bytes`, waiting for the peer's credit. A cancelled write may have queued a prefix.
    pub async fn write(&mut self, _bytes: Bytes) -> Result<(), StreamError> {
        Err(StreamError::Reset)
    }

    /// Ends the stream after what was written.
    pub async fn end(self) -> Result<(), StreamError> {
        Err(StreamError::Reset)
    }

    /// Waits until the peer no longer reads, or the link has ended. Cancel safe.
    pub async fn reset_by_peer(&mut self) {}
}
