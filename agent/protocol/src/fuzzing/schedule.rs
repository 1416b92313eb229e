//! Two honest sides in any order of events.

use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

use super::{OURS, THEIRS, hello};
use crate::error::StreamError;
use crate::frame::Decoder;
use crate::generation::Role;
use crate::message::{Body, Done, Envelope, Outcome, Ping, Reply};
use crate::mux::{Mux, WINDOW};

/// Those with an odd index go to the host, the others to the guest; an id is an index + 1.
const STREAMS: usize = 6;

/// Two ends of one carrier, host first.
struct World {
    sides: [Side; 2],
    streams: [Stream; STREAMS],
}

struct Side {
    role: Role,
    mux: Mux,
    decoder: Decoder,
    /// On its way to this side.
    wire: BytesMut,
    /// Arrived, not decoded.
    buffer: BytesMut,
    /// Control messages; their ids count from 1.
    sent: u64,
    received: u64,
}

#[derive(Default)]
struct Stream {
    /// By side.
    opened: [bool; 2],
    dropped: [bool; 2],
    written: usize,
    read: usize,
    ended: bool,
    /// The reader has seen the end or a reset.
    finished: bool,
}

/// Each two bytes are an event and its operand. Honest sides never break the protocol, and each stream
/// brings its bytes complete and in order, each message arrives, whatever the order of events.
pub fn schedule(data: &[u8]) {
    let mut world = World {
        sides: [side(Role::Host, OURS), side(Role::Guest, THEIRS)],
        streams: std::array::from_fn(|_| Stream::default()),
    };
    for event in data.chunks_exact(2) {
        world.event(event[0], usize::from(event[1]));
    }
    world.settle();
}

fn side(role: Role, epoch: u64) -> Side {
    Side {
        role,
        mux: Mux::new(role, epoch, hello()),
        decoder: Decoder::new(role.peer(), epoch),
        wire: BytesMut::from(&b"left from an earlier connection"[..]),
        buffer: BytesMut::new(),
        sent: 0,
        received: 0,
    }
}

/// What a stream carries at `at`.
fn pattern(index: usize, at: usize) -> u8 {
    ((at + at / 251) * 7 + index) as u8
}

fn writer(index: usize) -> usize {
    index % 2
}

fn id(index: usize) -> u32 {
    index as u32 + 1
}

impl World {
    fn event(&mut self, event: u8, operand: usize) {
        let index = operand % STREAMS;
        match event % 10 {
            0 => self.open(index, 0),
            1 => self.open(index, 1),
            2 => self.write(index, operand * 997),
            3 => self.read(index),
            4 => self.end(index),
            5 => self.drop_end(index, operand / STREAMS % 2),
            6 => self.send(operand % 2),
            7 => self.receive(operand % 2),
            8 => _ = self.carry(operand % 2, operand * 613),
            _ => _ = self.carry(operand % 2, usize::MAX),
        }
    }

    fn open(&mut self, index: usize, who: usize) {
        let stream = &mut self.streams[index];
        // The guest learns of a stream from a message that the host sends after it has opened its end.
        if stream.opened[who] || who == 1 && !stream.opened[0] {
            return;
        }
        stream.opened[who] = true;
        let mux = &mut self.sides[who].mux;
        let opened = if who == writer(index) {
            mux.open_writer(id(index))
        } else {
            mux.open_reader(id(index))
        };
        opened.expect("a new stream");
    }

    fn holds(&self, index: usize, who: usize) -> bool {
        self.streams[index].opened[who] && !self.streams[index].dropped[who]
    }

    fn write(&mut self, index: usize, length: usize) {
        let who = writer(index);
        if !self.holds(index, who) {
            return;
        }
        let stream = &mut self.streams[index];
        let mut bytes: Bytes = (stream.written..stream.written + length)
            .map(|at| pattern(index, at))
            .collect();
        let cx = &mut Context::from_waker(Waker::noop());
        match self.sides[who].mux.poll_write(cx, id(index), &mut bytes) {
            Poll::Ready(Err(error)) => assert!(stream.dropped[1 - who], "{error}"),
            _ => stream.written += length - bytes.len(),
        }
    }

    fn read(&mut self, index: usize) {
        let who = 1 - writer(index);
        if !self.holds(index, who) {
            return;
        }
        let cx = &mut Context::from_waker(Waker::noop());
        let stream = &mut self.streams[index];
        match self.sides[who].mux.poll_read(cx, id(index)) {
            Poll::Pending => (),
            Poll::Ready(Ok(Some(bytes))) => {
                assert!(!bytes.is_empty() && bytes.len() as u64 <= WINDOW);
                for byte in bytes {
                    assert_eq!(byte, pattern(index, stream.read));
                    stream.read += 1;
                }
            }
            Poll::Ready(Ok(None)) => {
                assert!(stream.ended && stream.read == stream.written);
                stream.finished = true;
            }
            Poll::Ready(Err(StreamError::Reset)) => {
                assert!(stream.dropped[1 - who] && !stream.ended);
                stream.finished = true;
            }
            Poll::Ready(Err(StreamError::Link(error))) => panic!("{error}"),
        }
    }

    fn end(&mut self, index: usize) {
        let who = writer(index);
        if self.holds(index, who) {
            let result = self.sides[who].mux.end(id(index));
            assert!(result.is_ok() || self.streams[index].dropped[1 - who]);
            self.streams[index].ended = result.is_ok();
            self.drop_end(index, who);
        }
    }

    fn drop_end(&mut self, index: usize, who: usize) {
        if self.holds(index, who) {
            self.streams[index].dropped[who] = true;
            let mux = &mut self.sides[who].mux;
            if who == writer(index) {
                mux.drop_writer(id(index))
            } else {
                mux.drop_reader(id(index))
            }
        }
    }

    fn send(&mut self, who: usize) {
        let side = &mut self.sides[who];
        let body = match side.role {
            Role::Host => Body::Ping(Ping {}),
            Role::Guest => Body::Reply(Reply {
                outcome: Some(Outcome::Done(Done {})),
            }),
        };
        let mut envelope = Some(Envelope {
            id: side.sent + 1,
            body: Some(body),
        });
        let cx = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(result) = side.mux.poll_send(cx, &mut envelope) {
            result.expect("a good message");
            side.sent += 1;
        }
    }

    fn receive(&mut self, who: usize) {
        let side = &mut self.sides[who];
        let cx = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(message) = side.mux.poll_receive(cx) {
            side.received += 1;
            assert_eq!(
                message.expect("a live link").expect("a good message").id,
                side.received
            );
        }
    }

    /// Puts a batch of output on the wire unless it is busy, and takes up to `length` bytes off at the other
    /// side. Whether anything moved.
    fn carry(&mut self, from: usize, length: usize) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut out = BytesMut::new();
        let free = self.sides[1 - from].wire.is_empty() || length == usize::MAX;
        if free && let Poll::Ready(result) = self.sides[from].mux.poll_output(cx, &mut out) {
            result.expect("a live link");
        }
        let to = &mut self.sides[1 - from];
        to.wire.extend_from_slice(&out);
        let length = length.min(to.wire.len());
        to.buffer.extend_from_slice(&to.wire[..length]);
        to.wire.advance(length);
        while let Some(frame) = to.decoder.decode(&mut to.buffer).expect("frames") {
            to.mux.receive(frame).expect("an honest frame");
        }
        length > 0
    }

    /// Lets everything come to its end: what is owed must arrive, and nothing may be left in the tables.
    fn settle(&mut self) {
        for index in 0..STREAMS {
            self.open(index, 0);
            self.open(index, 1);
            self.end(index);
        }
        while self.progress() {}
        for index in 0..STREAMS {
            let reader = 1 - writer(index);
            assert!(
                !self.holds(index, reader) || self.streams[index].finished,
                "stream {index} hangs"
            );
            self.drop_end(index, reader);
        }
        while self.progress() {}
        for who in 0..2 {
            while self.sides[who].received < self.sides[1 - who].sent {
                self.receive(who);
            }
            assert_eq!(self.sides[who].mux.streams(), 0);
        }
    }

    fn progress(&mut self) -> bool {
        let before: usize = self.streams.iter().map(|stream| stream.read).sum();
        let carried = self.carry(0, usize::MAX) | self.carry(1, usize::MAX);
        (0..STREAMS).for_each(|index| self.read(index));
        carried || before != self.streams.iter().map(|stream| stream.read).sum()
    }
}
