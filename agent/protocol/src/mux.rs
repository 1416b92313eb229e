//! Many streams on one connection: handshake, credits, stream table and order of output, without I/O.
//!
//! A stream carries bytes one way and has a reader on one side and a writer on the other. Each of the two
//! sends exactly one last frame: the writer DATA with the end flag or RESET, the reader RESET. A side forgets
//! the stream when it has sent its own and seen the other's, so no frame can come late, and one for a
//! stream that is not in the table is a violation. A reader's first CREDIT tells the writer that it exists.

mod peer;
mod reader;
mod streams;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use prost::Message;

use self::reader::Reader;
use self::writer::Writer;
use crate::control;
use crate::error::{LinkError, Violation};
use crate::frame::{Frame, MAX_DATA, Sync};
use crate::generation::Role;
use crate::message::{Envelope, Hello};

/// Most streams open at once: 340 processes with three each.
pub const MAX_STREAMS: usize = 1024;
/// Credit of a stream's reader while there are few: four of the longest frames, so that two are on their
/// way while two are being consumed; a quarter of it keeps 100 MB/s going over a turn of 0.6 ms.
pub const WINDOW: u64 = 256 << 10;
/// Credit that a reader gets however many there are: a page.
pub const MIN_WINDOW: u64 = 4 << 10;
/// What all windows beyond the smallest come to at most. With `MAX_STREAMS` smallest ones that is the
/// 16 MiB that one connection may cost its owner.
pub const WINDOW_BUDGET: u64 = (16 << 20) - MAX_STREAMS as u64 * MIN_WINDOW;
/// `poll_output` gathers no more than this and a frame: one long frame, or many short ones. What is gathered
/// cannot be overtaken by a kill.
const BATCH: usize = MAX_DATA;
/// Control messages wait for room while more than this is queued, in either direction.
const CONTROL_QUEUE: usize = 1 << 20;
/// What a queued control message costs beyond its bytes.
const CONTROL_OVERHEAD: usize = 64;
/// Reading pauses while so many CREDIT and RESET frames wait; an honest peer causes two for a stream.
const MAX_URGENT: usize = 4 * MAX_STREAMS;

/// The state of one connection. The methods named `poll_` register the caller's waker, one for each purpose.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    epoch: u64,
    hello: Hello,
    /// 0 while none is known.
    peer_epoch: u64,
    phase: Phase,
    /// SYNC, and HELLO if the peer is known, are to be sent.
    sync_due: bool,
    streams: BTreeMap<u32, Stream>,
    /// Streams that the host has reset before the guest opened them; when it does, they are dead.
    stillborn: VecDeque<u32>,
    urgent: VecDeque<Urgent>,
    outgoing: Queue,
    incoming: Queue,
    /// Writers that have something to send, in turn.
    ready: VecDeque<u32>,
    discarded: u64,
    failed: Option<LinkError>,
    output: Option<Waker>,
    input: Option<Waker>,
    receiver: Option<Waker>,
    /// Callers of `poll_send` and `poll_flush`.
    senders: Vec<Waker>,
    /// The last `poll_output` found nothing to send.
    idle: bool,
}

#[derive(Debug)]
enum Phase {
    /// The peer's SYNC for this epoch has not come.
    Searching,
    /// It came; HELLO is next.
    Greeting,
    /// The generation both speak.
    Established(u32),
}

#[derive(Debug)]
enum Stream {
    Reader(Reader),
    Writer(Writer),
    /// The host reads; the guest has not opened its writer yet. Its credit.
    Offered(u64),
}

/// Short frames that go before all others. At most one RESET and one CREDIT for a stream.
#[derive(Debug)]
enum Urgent {
    Credit(u32),
    Reset(u32),
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    cost: usize,
}

impl Queue {
    fn push(&mut self, message: Bytes) {
        self.cost += message.len() + CONTROL_OVERHEAD;
        self.messages.push_back(message);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.cost -= message.len() + CONTROL_OVERHEAD;
        Some(message)
    }

    fn is_full(&self) -> bool {
        self.cost >= CONTROL_QUEUE
    }
}

impl Mux {
    /// `epoch` is random and not 0.
    pub fn new(role: Role, epoch: u64, hello: Hello) -> Mux {
        Mux {
            role,
            epoch,
            hello,
            peer_epoch: 0,
            phase: Phase::Searching,
            sync_due: true,
            streams: BTreeMap::new(),
            stillborn: VecDeque::new(),
            urgent: VecDeque::new(),
            outgoing: Queue::default(),
            incoming: Queue::default(),
            ready: VecDeque::new(),
            discarded: 0,
            failed: None,
            output: None,
            input: None,
            receiver: None,
            senders: Vec::new(),
            idle: false,
        }
    }

    /// Ready while there is room for what a further read may bring. Fails once the connection has.
    pub fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        if self.incoming.is_full() || self.urgent.len() >= MAX_URGENT {
            self.input = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Appends what is to be sent next to the empty `out`: the handshake, then credits and resets, then
    /// control messages, then one frame of each ready stream in turn.
    pub fn poll_output(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), LinkError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        if std::mem::take(&mut self.sync_due) {
            Frame::Sync(Sync {
                epoch: self.epoch,
                answers: self.peer_epoch,
            })
            .encode(out);
            if self.peer_epoch != 0 {
                Frame::Hello(self.hello.encode_to_vec().into()).encode(out);
            }
        }
        if matches!(self.phase, Phase::Established(_)) {
            while out.len() < BATCH && self.output_one(out) {}
        }
        self.idle = out.is_empty();
        if !self.idle {
            return Poll::Ready(Ok(()));
        }
        self.wake_senders();
        self.output = Some(cx.waker().clone());
        Poll::Pending
    }

    fn output_one(&mut self, out: &mut BytesMut) -> bool {
        if let Some(urgent) = self.urgent.pop_front() {
            wake(&mut self.input);
            match urgent {
                Urgent::Reset(stream) => Frame::Reset { stream }.encode(out),
                Urgent::Credit(stream) => {
                    if let Some(Stream::Reader(reader)) = self.streams.get_mut(&stream)
                        && let Some(limit) = reader.grant()
                    {
                        Frame::Credit { stream, limit }.encode(out);
                    }
                }
            }
        } else if let Some(message) = self.outgoing.pop() {
            Frame::Control(message).encode(out);
            self.wake_senders();
        } else if let Some(stream) = self.ready.pop_front() {
            if let Some(Stream::Writer(writer)) = self.streams.get_mut(&stream) {
                writer.output(stream, out);
                self.schedule(stream);
                self.forget_done(stream);
            }
        } else {
            return false;
        }
        true
    }

    /// Queues a control message when HELLO came and there is room.
    /// Takes it out of `envelope` then.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        envelope: &mut Option<Envelope>,
    ) -> Poll<Result<(), LinkError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        match self.phase {
            Phase::Established(generation) if !self.outgoing.is_full() => {
                if let Some(envelope) = envelope.take() {
                    self.outgoing
                        .push(control::encode(envelope, self.role, generation)?);
                    self.wake_output();
                }
                Poll::Ready(Ok(()))
            }
            _ => {
                self.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Ready when nothing is left to send and the last output was written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        if self.idle {
            return Poll::Ready(Ok(()));
        }
        self.wait(cx);
        Poll::Pending
    }

    /// The next control message from the peer, after the end of the connection those that came before.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Envelope, Violation>>> {
        if let Some(message) = self.incoming.pop() {
            wake(&mut self.input);
            let Phase::Established(generation) = self.phase else {
                return Poll::Ready(None);
            };
            return Poll::Ready(Some(control::decode(message, self.role.peer(), generation)));
        }
        if self.failed.is_some() {
            return Poll::Ready(None);
        }
        self.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the connection. Returns why: the first reason stays.
    pub fn fail(&mut self, error: LinkError) -> LinkError {
        let error = self.failed.get_or_insert(error).clone();
        for stream in self.streams.values_mut() {
            match stream {
                Stream::Reader(reader) => reader.wake(),
                Stream::Writer(writer) => writer.wake(),
                Stream::Offered(_) => (),
            }
        }
        self.wake_senders();
        for waker in [&mut self.output, &mut self.input, &mut self.receiver] {
            wake(waker);
        }
        error
    }

    /// Bytes held for readers and in the queue of incoming messages.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held(&self) -> usize {
        let readers = self.streams.values().map(|stream| match stream {
            Stream::Reader(reader) => reader.held(),
            _ => 0,
        });
        self.incoming.cost + readers.sum::<usize>()
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that came for readers which were gone, since the start.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Streams of which a further frame may come.
    fn live_streams(&self) -> usize {
        self.streams.values().filter(|stream| !stream.is_closed()).count()
    }

    fn forget_done(&mut self, stream: u32) {
        if self.streams.get(&stream).is_some_and(Stream::is_done) {
            self.streams.remove(&stream);
        }
    }

    /// Gives a writer its place in the queue if it has something to send and none yet.
    fn schedule(&mut self, stream: u32) {
        if let Some(Stream::Writer(writer)) = self.streams.get_mut(&stream)
            && writer.schedule()
        {
            self.ready.push_back(stream);
            self.wake_output();
        }
    }

    fn push_urgent(&mut self, urgent: Urgent) {
        self.urgent.push_back(urgent);
        self.wake_output();
    }

    fn wake_output(&mut self) {
        self.idle = false;
        wake(&mut self.output);
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.senders.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.senders.push(cx.waker().clone());
        }
    }

    fn wake_senders(&mut self) {
        self.senders.drain(..).for_each(Waker::wake);
    }
}

impl Stream {
    /// Both last frames were sent.
    fn is_closed(&self) -> bool {
        match self {
            Stream::Reader(reader) => reader.is_closed(),
            Stream::Writer(writer) => writer.is_closed(),
            Stream::Offered(_) => false,
        }
    }

    /// And nobody here holds it.
    fn is_done(&self) -> bool {
        self.is_closed()
            && match self {
                Stream::Reader(reader) => !reader.is_held(),
                Stream::Writer(writer) => !writer.is_held(),
                Stream::Offered(_) => true,
            }
    }

    fn window(&self) -> u64 {
        match self {
            Stream::Reader(reader) => reader.window(),
            _ => 0,
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
