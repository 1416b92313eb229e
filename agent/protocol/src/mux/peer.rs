//! What the peer's frames do to the connection. All of it is hostile until proven honest.

use bytes::Bytes;

use super::{MAX_STREAMS, Mux, Phase, Stream, Urgent, wake};
use crate::control;
use crate::error::{LinkError, Violation};
use crate::frame::{Frame, Sync};
use crate::generation::Role;
use crate::message::Hello;

/// Control messages shorter than this are copied out of the read buffer, which they would keep alive.
const SHORT_CONTROL: usize = 16 << 10;

impl Mux {
    /// Takes a frame from the peer. An error ends the connection; tell `fail`.
    pub fn receive(&mut self, frame: Frame) -> Result<Option<Hello>, LinkError> {
        let name = frame.name();
        match (&self.phase, frame) {
            (Phase::Searching, Frame::Sync(sync)) => self.receive_sync(sync),
            (_, Frame::Sync(sync)) if sync.epoch != self.peer_epoch => return Err(LinkError::PeerRestarted),
            (Phase::Greeting, Frame::Hello(payload)) => {
                let hello = control::decode_hello(payload)?;
                self.phase = Phase::Established(hello.generation.min(self.hello.generation));
                self.wake_senders();
                wake(&mut self.output);
                return Ok(Some(hello));
            }
            (Phase::Established(_), Frame::Control(payload)) => {
                let short = payload.len() < SHORT_CONTROL;
                self.incoming.push(if short {
                    Bytes::copy_from_slice(&payload)
                } else {
                    payload
                });
                wake(&mut self.receiver);
            }
            (Phase::Established(_), Frame::Data { stream, payload, end }) => {
                self.receive_data(stream, &payload, end)?;
            }
            (Phase::Established(_), Frame::Credit { stream, limit }) => self.receive_credit(stream, limit)?,
            (Phase::Established(_), Frame::Reset { stream }) => self.receive_reset(stream)?,
            _ => return Err(Violation::Handshake { frame: name }.into()),
        }
        Ok(None)
    }

    fn receive_sync(&mut self, sync: Sync) {
        // 0 and this side's own epoch are garbage, or an echo.
        if sync.epoch == 0 || sync.epoch == self.epoch {
            return;
        }
        if sync.epoch != self.peer_epoch {
            self.peer_epoch = sync.epoch;
            self.sync_due = true;
            wake(&mut self.output);
        }
        if sync.answers == self.epoch {
            self.phase = Phase::Greeting;
        }
    }

    fn receive_data(&mut self, stream: u32, payload: &[u8], end: bool) -> Result<(), Violation> {
        let Some(Stream::Reader(reader)) = self.streams.get_mut(&stream) else {
            return Err(Violation::Stream {
                frame: "DATA",
                stream,
            });
        };
        self.discarded += reader.receive(stream, payload)?;
        if end {
            self.finish_reader(stream, true);
        }
        Ok(())
    }

    fn receive_credit(&mut self, stream: u32, limit: u64) -> Result<(), Violation> {
        let violation = Violation::Stream {
            frame: "CREDIT",
            stream,
        };
        match self.streams.get_mut(&stream) {
            Some(Stream::Writer(writer)) => {
                if !writer.credit(limit) {
                    return Err(violation);
                }
                self.schedule(stream);
            }
            Some(Stream::Offered(old)) if limit >= *old => *old = limit,
            None if self.role == Role::Guest => {
                if self.live_streams() >= MAX_STREAMS {
                    return Err(Violation::TooManyStreams);
                }
                self.streams.insert(stream, Stream::Offered(limit));
            }
            _ => return Err(violation),
        }
        Ok(())
    }

    fn receive_reset(&mut self, stream: u32) -> Result<(), Violation> {
        match self.streams.get_mut(&stream) {
            Some(Stream::Reader(reader)) if !reader.is_finished() => self.finish_reader(stream, false),
            Some(Stream::Writer(writer)) if !writer.is_stopped() => {
                if writer.stop() {
                    self.push_urgent(Urgent::Reset(stream));
                }
                self.forget_done(stream);
            }
            Some(Stream::Offered(_)) => self.bury(stream),
            None if self.role == Role::Guest => self.bury(stream),
            _ => {
                return Err(Violation::Stream {
                    frame: "RESET",
                    stream,
                });
            }
        }
        Ok(())
    }

    fn finish_reader(&mut self, stream: u32, clean: bool) {
        if let Some(Stream::Reader(reader)) = self.streams.get_mut(&stream) {
            if reader.finish(clean) {
                self.push_urgent(Urgent::Reset(stream));
            }
            self.forget_done(stream);
        }
    }

    /// The host has given up a stream that the guest has not opened.
    fn bury(&mut self, stream: u32) {
        self.streams.remove(&stream);
        // The oldest was named by a message long gone.
        if self.stillborn.len() == MAX_STREAMS {
            self.stillborn.pop_front();
        }
        self.stillborn.push_back(stream);
        self.push_urgent(Urgent::Reset(stream));
    }
}
