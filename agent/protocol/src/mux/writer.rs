//! The writing end of one stream.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::wake;
use crate::error::StreamError;
use crate::frame::{MAX_DATA, put_data_header};

/// What a stream queues at most, whatever credit the peer gives: one frame being sent, one being filled.
const SEND_BUFFER: usize = 2 * MAX_DATA;

/// Holds at most `SEND_BUFFER` bytes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Both count from the stream's beginning. No credit yet means that there is no reader yet.
    limit: u64,
    written: u64,
    /// Nothing will be written any more.
    ending: bool,
    /// This side's last frame was sent, or its RESET queued.
    finished: bool,
    /// The reader's RESET came.
    stopped: bool,
    /// It has its place among the ready ones.
    scheduled: bool,
    dropped: bool,
    waker: Option<Waker>,
}

impl Writer {
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<Result<(), StreamError>> {
        if self.stopped {
            return Poll::Ready(Err(StreamError::Reset));
        }
        let credit = usize::try_from(self.limit - self.written).unwrap_or(usize::MAX);
        let length = bytes.len().min(credit).min(SEND_BUFFER - self.queued);
        if length > 0 {
            self.queue.push_back(bytes.split_to(length));
            self.queued += length;
            self.written += length as u64;
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes a new limit; whether it is a possible one.
    pub(super) fn credit(&mut self, limit: u64) -> bool {
        let possible = limit >= self.limit && !self.stopped;
        self.limit = self.limit.max(limit);
        self.wake();
        possible
    }

    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Whether it is now to be put among the ready ones.
    pub(super) fn schedule(&mut self) -> bool {
        let ready = !self.finished && (self.queued > 0 || self.ending && self.limit > 0);
        ready && !std::mem::replace(&mut self.scheduled, true)
    }

    /// Appends one frame, gathered from as many pieces as fit.
    pub(super) fn output(&mut self, stream: u32, out: &mut BytesMut) {
        self.scheduled = false;
        if self.finished {
            return;
        }
        let mut length = self.queued.min(MAX_DATA);
        self.queued -= length;
        self.finished = self.ending && self.queued == 0;
        put_data_header(out, length, stream, self.finished);
        while let Some(piece) = self.queue.front_mut().filter(|_| length > 0) {
            let part = piece.len().min(length);
            out.put_slice(&piece[..part]);
            piece.advance(part);
            length -= part;
            if piece.is_empty() {
                self.queue.pop_front();
            }
        }
        self.wake();
    }

    /// The reader's RESET came. Whether one is to answer it.
    pub(super) fn stop(&mut self) -> bool {
        self.stopped = true;
        self.wake();
        self.finish_now()
    }

    /// Nobody writes any more. Whether a RESET is to say so.
    pub(super) fn abandon(&mut self) -> bool {
        self.dropped = true;
        !self.ending && self.finish_now()
    }

    fn finish_now(&mut self) -> bool {
        self.queue.clear();
        self.queued = 0;
        !std::mem::replace(&mut self.finished, true)
    }

    pub(super) fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stopped {
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn is_closed(&self) -> bool {
        self.finished && self.stopped
    }

    pub(super) fn is_held(&self) -> bool {
        !self.dropped
    }

    pub(super) fn wake(&mut self) {
        wake(&mut self.waker);
    }
}
