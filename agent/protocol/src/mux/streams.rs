//! What the holders of stream ends do to the connection.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::reader::Reader;
use super::writer::Writer;
use super::{MAX_STREAMS, MIN_WINDOW, Mux, Stream, Urgent, WINDOW, WINDOW_BUDGET};
use crate::error::{LinkError, StreamError};

/// A new reader gets this part of what is left of the budget: 16 have full windows, 100 have 16 KiB.
const WINDOW_SHARE: u64 = 32;

impl Mux {
    /// Opens the reading end of a stream and grants its first credit.
    pub fn open_reader(&mut self, stream: u32) -> Result<(), LinkError> {
        let used: u64 = self.streams.values().map(Stream::window).sum();
        let window = (WINDOW_BUDGET.saturating_sub(used) / WINDOW_SHARE).clamp(MIN_WINDOW, WINDOW);
        let mut reader = Reader::new(window);
        if matches!(self.streams.get(&stream), Some(Stream::Offered(_))) {
            return Err(LinkError::StreamInUse(stream));
        } else if self.check_open(stream)? {
            reader.finish(false);
        } else {
            self.push_urgent(Urgent::Credit(stream));
        }
        self.streams.insert(stream, Stream::Reader(reader));
        Ok(())
    }

    /// Opens the writing end of a stream.
    pub fn open_writer(&mut self, stream: u32) -> Result<(), LinkError> {
        let mut writer = Writer::default();
        if self.check_open(stream)? {
            writer.stop();
        } else if let Some(Stream::Offered(limit)) = self.streams.get(&stream) {
            writer.credit(*limit);
        }
        self.streams.insert(stream, Stream::Writer(writer));
        Ok(())
    }

    /// Whether the stream can be opened, and whether the peer has given it up already.
    fn check_open(&mut self, stream: u32) -> Result<bool, LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.streams.get(&stream) {
            Some(Stream::Offered(_)) => return Ok(false),
            Some(_) => return Err(LinkError::StreamInUse(stream)),
            None if stream == 0 => return Err(LinkError::StreamInUse(0)),
            None if self.live_streams() >= MAX_STREAMS => return Err(LinkError::TooManyStreams),
            None => (),
        }
        let stillborn = self.stillborn.iter().position(|id| *id == stream);
        Ok(stillborn.and_then(|at| self.stillborn.remove(at)).is_some())
    }

    /// The next bytes of a stream; `None` is its end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: u32,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let Some(Stream::Reader(reader)) = self.streams.get_mut(&stream) else {
            return Poll::Ready(Err(StreamError::Reset));
        };
        match (reader.poll_read(cx), &self.failed) {
            (Poll::Ready(result), _) => {
                if reader.wants_credit() {
                    self.push_urgent(Urgent::Credit(stream));
                }
                Poll::Ready(result)
            }
            (Poll::Pending, Some(error)) => Poll::Ready(Err(StreamError::Link(error.clone()))),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    /// The reader is gone.
    pub fn drop_reader(&mut self, stream: u32) {
        if let Some(Stream::Reader(reader)) = self.streams.get_mut(&stream) {
            let (discarded, reset) = reader.abandon();
            self.discarded += discarded;
            if reset {
                self.push_urgent(Urgent::Reset(stream));
            }
            self.forget_done(stream);
        }
    }

    /// Moves bytes from the front of `bytes` into the stream; ready when none is left.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: u32,
        bytes: &mut Bytes,
    ) -> Poll<Result<(), StreamError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(StreamError::Link(error.clone())));
        }
        let Some(Stream::Writer(writer)) = self.streams.get_mut(&stream) else {
            return Poll::Ready(Err(StreamError::Reset));
        };
        let written = writer.poll_write(cx, bytes);
        self.schedule(stream);
        written
    }

    /// Ends the stream after what was written.
    pub fn end(&mut self, stream: u32) -> Result<(), StreamError> {
        if let Some(error) = &self.failed {
            return Err(StreamError::Link(error.clone()));
        }
        match self.streams.get_mut(&stream) {
            Some(Stream::Writer(writer)) if !writer.is_stopped() => writer.end(),
            _ => return Err(StreamError::Reset),
        }
        self.schedule(stream);
        Ok(())
    }

    /// Ready when the peer no longer reads, or the connection has failed.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>, stream: u32) -> Poll<()> {
        match self.streams.get_mut(&stream) {
            Some(Stream::Writer(writer)) if self.failed.is_none() => writer.poll_stopped(cx),
            _ => Poll::Ready(()),
        }
    }

    /// The writer is gone; without an `end` the stream is aborted.
    pub fn drop_writer(&mut self, stream: u32) {
        if let Some(Stream::Writer(writer)) = self.streams.get_mut(&stream) {
            if writer.abandon() {
                self.push_urgent(Urgent::Reset(stream));
            }
            self.forget_done(stream);
        }
    }
}
