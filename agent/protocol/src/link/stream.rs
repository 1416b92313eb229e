//! Handles of one stream.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use crate::error::StreamError;

/// Bytes from the peer. Dropping it tells the peer to stop.
#[derive(Debug)]
pub struct StreamReader {
    shared: Arc<Shared>,
    stream: u32,
}

/// Bytes to the peer. Dropping it without `end` aborts: the peer's reader gets an error, not a clean end.
#[derive(Debug)]
pub struct StreamWriter {
    shared: Arc<Shared>,
    stream: u32,
}

impl StreamReader {
    pub(super) fn new(shared: Arc<Shared>, stream: u32) -> StreamReader {
        StreamReader { shared, stream }
    }

    /// The next bytes, never empty and at most a window; `None` is the peer's explicit end. What came before
    /// a reset or the end of the link is returned first. What is returned counts as consumed and is credited
    /// to the peer, so take it on before the next call. Cancel safe.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.shared.mux().poll_read(cx, self.stream)).await
    }

    /// Tells the peer to stop sending; what is on its way is discarded. The same as dropping.
    pub fn reset(self) {}
}

impl StreamWriter {
    pub(super) fn new(shared: Arc<Shared>, stream: u32) -> StreamWriter {
        StreamWriter { shared, stream }
    }

    /// Queues all of `bytes`, waiting for the peer's credit. A cancelled write may have queued a prefix.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        poll_fn(|cx| self.shared.mux().poll_write(cx, self.stream, &mut bytes)).await
    }

    /// Ends the stream after what was written. Fails if the peer has stopped reading before.
    #[expect(clippy::unused_async, reason = "part of an interface that may come to wait")]
    pub async fn end(self) -> Result<(), StreamError> {
        self.shared.mux().end(self.stream)
    }

    /// Waits until the peer no longer reads, or the link has ended. Cancel safe.
    pub async fn reset_by_peer(&mut self) {
        poll_fn(|cx| self.shared.mux().poll_reset(cx, self.stream)).await;
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.shared.mux().drop_reader(self.stream);
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.shared.mux().drop_writer(self.stream);
    }
}
