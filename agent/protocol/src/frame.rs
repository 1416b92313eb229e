//! Frames on the wire, their limits, and how two sides find each other in a byte stream.
//!
//! Every number is big endian. A frame is `length u32, stream u32, kind u8, flags u8` and `length` bytes of
//! payload. SYNC is not a frame but 24 bytes that can be found in the middle of anything; its first byte
//! cannot begin a frame, because no frame is that long.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::generation::Role;

/// Length of a frame's header in bytes.
pub const HEADER_LEN: usize = 10;
/// Length of SYNC in bytes.
pub const SYNC_LEN: usize = 24;
/// Begins SYNC. The first byte is no frame's: it would be a length of 2.7 GiB.
pub const MAGIC: [u8; 8] = *b"\xa5BULKHD\n";

/// Longest control message from the host: as long as the longest `config.json`.
pub const MAX_CONTROL_FROM_HOST: usize = 4 << 20;
/// Longest control message from the guest. Decoded, a hostile one becomes up to 16 times as long, and that
/// must stay below the 16 MiB one sandbox may cost the host. A list of 40 000 processes fits.
pub const MAX_CONTROL_FROM_GUEST: usize = 512 << 10;
/// Longest payload of a DATA frame: what a pipe holds, and short enough to keep a kill's delay below 1 ms.
pub const MAX_DATA: usize = 64 << 10;
/// Longest HELLO: a dozen numbers and version strings.
pub const MAX_HELLO: usize = 4 << 10;
/// How much may precede the peer's SYNC. What an earlier connection left in socket and queue buffers is
/// below 1 MiB, or one control message.
pub const MAX_GARBAGE: usize = 16 << 20;

const CREDIT_LEN: usize = 8;
const FLAG_END: u8 = 1;

/// What is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// "I am here": begins a connection. Everything of the sender before it is void.
    Sync(Sync),
    /// First frame after a SYNC that answers: an encoded `message::Hello`.
    Hello(Bytes),
    /// An encoded `message::Envelope`.
    Control(Bytes),
    /// Bytes of a stream. Empty without `end` means nothing.
    Data {
        /// Which stream.
        stream: u32,
        /// At most `MAX_DATA` bytes.
        payload: Bytes,
        /// No more will follow: the writer's last frame.
        end: bool,
    },
    /// From a stream's reader: the writer may have sent `limit` bytes since the stream began.
    Credit {
        /// Which stream.
        stream: u32,
        /// Cumulative, in bytes; never decreases.
        limit: u64,
    },
    /// From a writer: the stream is aborted. From a reader: I take no more, or I have seen your last frame.
    /// Either way the sender's last frame on this stream.
    Reset {
        /// Which stream.
        stream: u32,
    },
}

/// Names the sender's connection, and the peer's where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Random, not 0, new with each start of a link.
    pub epoch: u64,
    /// The epoch of the peer this is said to; 0 while the sender has not heard of one.
    pub answers: u64,
}

/// Finds frames in bytes. Skips everything up to the SYNC that answers `epoch`.
#[derive(Debug)]
pub struct Decoder {
    max_control: usize,
    epoch: u64,
    /// Bytes skipped so far, while still looking for that SYNC.
    searching: Option<usize>,
}

/// Why bytes are not frames.
#[derive(Clone, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum FrameError {
    /// no HELLO to this side within 16 MiB
    NoHello,
    /// unknown frame kind {0}
    Kind(u8),
    /// unknown flags {flags:#04x} on a {kind} frame
    Flags {
        /// Kind of the frame.
        kind: &'static str,
        /// All its flags.
        flags: u8,
    },
    /// a {kind} frame of {length} bytes
    Length {
        /// Kind of the frame.
        kind: &'static str,
        /// Its length field.
        length: usize,
    },
    /// a {kind} frame on stream {stream}
    Stream {
        /// Kind of the frame.
        kind: &'static str,
        /// Its stream field.
        stream: u32,
    },
    /// neither a frame nor a SYNC
    Garbage,
}

/// Longest control message that `sender` may send, in bytes.
pub const fn max_control(sender: Role) -> usize {
    match sender {
        Role::Host => MAX_CONTROL_FROM_HOST,
        Role::Guest => MAX_CONTROL_FROM_GUEST,
    }
}

impl Frame {
    /// The frame's name in errors and documents.
    pub fn name(&self) -> &'static str {
        match self {
            Frame::Sync(_) => "SYNC",
            Frame::Hello(_) => "HELLO",
            Frame::Control(_) => "CONTROL",
            Frame::Data { .. } => "DATA",
            Frame::Credit { .. } => "CREDIT",
            Frame::Reset { .. } => "RESET",
        }
    }

    /// Appends the frame. The caller keeps the payload within its limit.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Frame::Sync(sync) => {
                out.put_slice(&MAGIC);
                out.put_u64(sync.epoch);
                out.put_u64(sync.answers);
            }
            Frame::Hello(payload) => {
                put_header(out, payload.len(), 0, Kind::Hello, false);
                out.put_slice(payload);
            }
            Frame::Control(payload) => {
                put_header(out, payload.len(), 0, Kind::Control, false);
                out.put_slice(payload);
            }
            Frame::Data { stream, payload, end } => {
                put_data_header(out, payload.len(), *stream, *end);
                out.put_slice(payload);
            }
            Frame::Credit { stream, limit } => {
                put_header(out, CREDIT_LEN, *stream, Kind::Credit, false);
                out.put_u64(*limit);
            }
            Frame::Reset { stream } => put_header(out, 0, *stream, Kind::Reset, false),
        }
    }
}

/// Appends the header of a DATA frame, for a caller that gathers the payload from pieces.
pub(crate) fn put_data_header(out: &mut BytesMut, length: usize, stream: u32, end: bool) {
    put_header(out, length, stream, Kind::Data, end);
}

fn put_header(out: &mut BytesMut, length: usize, stream: u32, kind: Kind, end: bool) {
    debug_assert!(length <= MAX_CONTROL_FROM_HOST);
    out.put_u32(length as u32);
    out.put_u32(stream);
    out.put_u8(kind as u8);
    out.put_u8(if end { FLAG_END } else { 0 });
}

impl Decoder {
    /// For what `sender` sends to the connection that calls itself `epoch`.
    pub fn new(sender: Role, epoch: u64) -> Decoder {
        Decoder {
            max_control: max_control(sender),
            epoch,
            searching: Some(0),
        }
    }

    /// Takes the next frame off the front of `buffer`; `None` when more bytes are needed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.searching {
            Some(skipped) => self.search(buffer, skipped),
            None => self.frame(buffer),
        }
    }

    fn search(&mut self, buffer: &mut BytesMut, skipped: usize) -> Result<Option<Frame>, FrameError> {
        let found = buffer.windows(MAGIC.len()).position(|window| window == MAGIC);
        let garbage = found.unwrap_or(buffer.len().saturating_sub(MAGIC.len() - 1));
        buffer.advance(garbage);
        if skipped + garbage > MAX_GARBAGE {
            return Err(FrameError::NoHello);
        }
        self.searching = Some(skipped + garbage);
        if found.is_none() || buffer.len() < SYNC_LEN {
            return Ok(None);
        }
        let sync = parse_sync(buffer);
        if sync.answers == self.epoch {
            buffer.advance(SYNC_LEN);
            self.searching = None;
        } else {
            // It may be a container's output that looks like a SYNC, so only its magic is passed over.
            buffer.advance(MAGIC.len());
            self.searching = Some(skipped + garbage + MAGIC.len());
        }
        Ok(Some(Frame::Sync(sync)))
    }

    fn frame(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if buffer.first() == Some(&MAGIC[0]) {
            if buffer.len() < SYNC_LEN {
                return Ok(None);
            }
            if !buffer.starts_with(&MAGIC) {
                return Err(FrameError::Garbage);
            }
            let sync = parse_sync(buffer);
            buffer.advance(SYNC_LEN);
            return Ok(Some(Frame::Sync(sync)));
        }
        let Some(mut header) = buffer.get(..HEADER_LEN) else {
            return Ok(None);
        };
        let length = header.get_u32() as usize;
        let stream = header.get_u32();
        let kind = Kind::parse(header.get_u8())?;
        let flags = header.get_u8();
        kind.check(self.max_control, length, stream, flags)?;
        if buffer.len() < HEADER_LEN + length {
            buffer.reserve(HEADER_LEN + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER_LEN);
        let mut payload = buffer.split_to(length).freeze();
        Ok(Some(match kind {
            Kind::Hello => Frame::Hello(payload),
            Kind::Control => Frame::Control(payload),
            Kind::Data => Frame::Data {
                stream,
                payload,
                end: flags & FLAG_END != 0,
            },
            Kind::Credit => Frame::Credit {
                stream,
                limit: payload.get_u64(),
            },
            Kind::Reset => Frame::Reset { stream },
        }))
    }
}

/// Reads the SYNC at the front of at least `SYNC_LEN` bytes.
fn parse_sync(mut bytes: &[u8]) -> Sync {
    bytes.advance(MAGIC.len());
    Sync {
        epoch: bytes.get_u64(),
        answers: bytes.get_u64(),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Hello = 1,
    Control = 2,
    Data = 3,
    Credit = 4,
    Reset = 5,
}

impl Kind {
    fn parse(byte: u8) -> Result<Kind, FrameError> {
        [Kind::Hello, Kind::Control, Kind::Data, Kind::Credit, Kind::Reset]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
            .ok_or(FrameError::Kind(byte))
    }

    /// Holds a header against what its kind allows, before anything is allocated for the payload.
    fn check(self, max_control: usize, length: usize, stream: u32, flags: u8) -> Result<(), FrameError> {
        let (kind, lengths, on_stream, allowed) = match self {
            Kind::Hello => ("HELLO", 1..=MAX_HELLO, false, 0),
            Kind::Control => ("CONTROL", 1..=max_control, false, 0),
            Kind::Data => ("DATA", 0..=MAX_DATA, true, FLAG_END),
            Kind::Credit => ("CREDIT", CREDIT_LEN..=CREDIT_LEN, true, 0),
            Kind::Reset => ("RESET", 0..=0, true, 0),
        };
        if flags & !allowed != 0 {
            Err(FrameError::Flags { kind, flags })
        } else if !lengths.contains(&length) {
            Err(FrameError::Length { kind, length })
        } else if (stream != 0) != on_stream {
            Err(FrameError::Stream { kind, stream })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
