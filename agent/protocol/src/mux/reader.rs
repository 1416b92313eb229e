//! The reading end of one stream.

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::wake;
use crate::error::{StreamError, Violation};

/// Holds at most `window` bytes.
#[derive(Debug)]
pub(super) struct Reader {
    buffer: BytesMut,
    window: u64,
    /// All three count from the stream's beginning.
    granted: u64,
    received: u64,
    consumed: u64,
    /// A CREDIT is queued.
    crediting: bool,
    /// The writer's last frame came; whether it was a clean end.
    finished: Option<bool>,
    /// This side's RESET was queued.
    stopped: bool,
    held: bool,
    waker: Option<Waker>,
}

impl Reader {
    /// Its first CREDIT counts as queued.
    pub(super) fn new(window: u64) -> Reader {
        Reader {
            buffer: BytesMut::new(),
            window,
            granted: 0,
            received: 0,
            consumed: 0,
            crediting: true,
            finished: None,
            stopped: false,
            held: true,
            waker: None,
        }
    }

    /// Takes bytes from the peer; returns how many nobody wants.
    pub(super) fn receive(&mut self, stream: u32, payload: &[u8]) -> Result<u64, Violation> {
        if self.finished.is_some() {
            return Err(Violation::Stream {
                frame: "DATA",
                stream,
            });
        }
        let received = self.received + payload.len() as u64;
        if received > self.granted {
            return Err(Violation::OverWindow {
                stream,
                received,
                granted: self.granted,
            });
        }
        self.received = received;
        if !self.held {
            return Ok(payload.len() as u64);
        }
        // Copied: a slice of the read buffer would keep all of it, and a window would not bound memory.
        self.buffer.extend_from_slice(payload);
        if !payload.is_empty() {
            self.wake();
        }
        Ok(0)
    }

    /// The writer's last frame came. Whether a RESET is to answer it.
    pub(super) fn finish(&mut self, clean: bool) -> bool {
        self.finished = Some(clean);
        self.wake();
        !std::mem::replace(&mut self.stopped, true)
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        if !self.buffer.is_empty() {
            self.consumed += self.buffer.len() as u64;
            return Poll::Ready(Ok(Some(self.buffer.split().freeze())));
        }
        match self.finished {
            Some(true) => Poll::Ready(Ok(None)),
            Some(false) => Poll::Ready(Err(StreamError::Reset)),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether a CREDIT should be queued now: half the window was consumed since the last.
    pub(super) fn wants_credit(&mut self) -> bool {
        let due = !self.stopped && self.consumed + self.window - self.granted >= self.window / 2;
        due && !std::mem::replace(&mut self.crediting, true)
    }

    /// The limit of the CREDIT that is being sent now.
    pub(super) fn grant(&mut self) -> Option<u64> {
        self.crediting = false;
        if self.stopped {
            return None;
        }
        self.granted = self.consumed + self.window;
        Some(self.granted)
    }

    /// Nobody reads any more: how many bytes that loses, and whether a RESET is to be sent.
    pub(super) fn abandon(&mut self) -> (u64, bool) {
        self.held = false;
        let lost = std::mem::take(&mut self.buffer).len() as u64;
        (lost, !std::mem::replace(&mut self.stopped, true))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.finished.is_some() && self.stopped
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn wake(&mut self) {
        wake(&mut self.waker);
    }
}
