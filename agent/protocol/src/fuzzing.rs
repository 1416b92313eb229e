//! What the fuzz targets run. Any panic is a finding; the unit tests run the same over the committed corpus
//! and over random bytes, because fuzzing itself needs a nightly compiler.

#![allow(
    clippy::expect_used,
    reason = "a broken promise is what a fuzz target looks for"
)]

mod schedule;
#[cfg(test)]
mod tests;

use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use prost::Message;

pub use self::schedule::schedule;
use crate::frame::{Decoder, Frame, MAX_CONTROL_FROM_HOST, Sync};
use crate::generation::{GENERATION, Role};
use crate::message::Hello;
use crate::mux::{MAX_STREAMS, Mux, WINDOW_BUDGET};

/// Epochs of the two sides.
const OURS: u64 = 0x0102_0304_0506_0708;
const THEIRS: u64 = 0x1112_1314_1516_1718;
/// Bytes of a hostile peer that are decoded at once.
const CHUNK: usize = 4096;

fn hello() -> Hello {
    Hello {
        generation: GENERATION,
        ..Hello::default()
    }
}

/// What a peer says before its first frame.
pub fn greeting(epoch: u64, answers: u64) -> BytesMut {
    let mut bytes = BytesMut::new();
    Frame::Sync(Sync { epoch, answers }).encode(&mut bytes);
    Frame::Hello(hello().encode_to_vec().into()).encode(&mut bytes);
    bytes
}

/// Decoding gives the same frames however the bytes are split, and what was decoded encodes to what it was.
/// The first byte is the length of the pieces.
pub fn decode(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else {
        return;
    };
    let whole = decode_in_pieces(data, usize::MAX);
    assert_eq!(whole, decode_in_pieces(data, usize::from(*piece).max(1)));
    for frame in whole {
        let mut encoded = BytesMut::new();
        Frame::Sync(Sync {
            epoch: THEIRS,
            answers: OURS,
        })
        .encode(&mut encoded);
        frame.encode(&mut encoded);
        assert_eq!(decode_in_pieces(&encoded, usize::MAX).last(), Some(&frame));
    }
}

fn decode_in_pieces(data: &[u8], piece: usize) -> Vec<Frame> {
    let mut decoder = Decoder::new(Role::Host, OURS);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in data.chunks(piece.min(data.len().max(1))) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

/// A hostile guest says `data` to a host with open streams.
pub fn hostile_guest(data: &[u8]) {
    hostile(Role::Guest, data);
}

/// A hostile host says `data` to a guest.
pub fn hostile_host(data: &[u8]) {
    hostile(Role::Host, data);
}

fn hostile(peer: Role, data: &[u8]) {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut mux = Mux::new(peer.peer(), OURS, hello());
    let mut decoder = Decoder::new(peer, OURS);
    for stream in 1..=3 {
        mux.open_reader(stream).expect("a new stream");
        mux.open_writer(stream + 3).expect("a new stream");
    }
    let mut buffer = greeting(THEIRS, OURS);
    for piece in std::iter::once(&[][..]).chain(data.chunks(CHUNK)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => match mux.receive(frame) {
                    Ok(_) => (),
                    Err(_) => return,
                },
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(mux.held() <= WINDOW_BUDGET as usize + 2 * MAX_CONTROL_FROM_HOST);
        let mut out = BytesMut::new();
        while mux.poll_output(cx, &mut out).is_ready() {
            out.clear();
        }
        if mux.poll_input(cx).is_pending() {
            while let Poll::Ready(Some(message)) = mux.poll_receive(cx) {
                if message.is_err() {
                    return;
                }
            }
        }
        if let Poll::Ready(Err(_)) = mux.poll_read(cx, 1) {
            mux.drop_reader(1);
        }
        assert!(mux.streams() <= 2 * MAX_STREAMS);
    }
}
