mod handshake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use bytes::Bytes;

use super::*;
use crate::error::StreamError;
use crate::frame::{Decoder, FrameError, MAX_DATA};
use crate::generation::GENERATION;
use crate::message::{Body, Ping};

const OURS: u64 = 1;
const THEIRS: u64 = 2;

fn hello() -> Hello {
    Hello {
        generation: GENERATION,
        ..Hello::default()
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A side that has heard its peer and sent its own handshake.
fn established(role: Role) -> Mux {
    let mut mux = Mux::new(role, OURS, hello());
    mux.receive(Frame::Sync(Sync {
        epoch: THEIRS,
        answers: OURS,
    }))
    .unwrap();
    mux.receive(Frame::Hello(hello().encode_to_vec().into())).unwrap();
    mux.poll_output(&mut cx(), &mut BytesMut::new()).is_ready();
    mux
}

/// The frames of one batch.
fn batch(mux: &mut Mux) -> Vec<Frame> {
    let mut out = BytesMut::new();
    Frame::Sync(Sync {
        epoch: OURS,
        answers: THEIRS,
    })
    .encode(&mut out);
    let mut more = BytesMut::new();
    if let Poll::Ready(result) = mux.poll_output(&mut cx(), &mut more) {
        result.unwrap();
    }
    out.extend_from_slice(&more);
    let mut decoder = Decoder::new(Role::Host, THEIRS);
    let frames: Result<Vec<Frame>, FrameError> = std::iter::from_fn(|| decoder.decode(&mut out).transpose())
        .skip(1)
        .collect();
    frames.unwrap()
}

fn data(stream: u32, length: usize) -> Frame {
    Frame::Data {
        stream,
        payload: vec![0; length].into(),
        end: false,
    }
}

fn write(mux: &mut Mux, stream: u32, length: usize) -> usize {
    let mut bytes = Bytes::from(vec![0; length]);
    match mux.poll_write(&mut cx(), stream, &mut bytes) {
        Poll::Ready(Err(error)) => panic!("{error}"),
        _ => length - bytes.len(),
    }
}

fn violation(result: Result<Option<Hello>, LinkError>) -> Violation {
    match result {
        Err(LinkError::Violation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_link_ends_streams_after_what_had_come() {
    let mut host = established(Role::Host);
    host.open_reader(1).unwrap();
    host.open_writer(2).unwrap();
    batch(&mut host);
    host.receive(data(1, 3)).unwrap();
    host.fail(LinkError::PeerRestarted);
    assert!(matches!(host.fail(LinkError::Eof), LinkError::PeerRestarted));
    let mut read = || host.poll_read(&mut cx(), 1);
    assert!(matches!(read(), Poll::Ready(Ok(Some(bytes))) if bytes.len() == 3));
    assert!(matches!(
        read(),
        Poll::Ready(Err(StreamError::Link(LinkError::PeerRestarted)))
    ));
    assert!(host.poll_reset(&mut cx(), 2).is_ready());
}

#[test]
fn a_reader_grants_its_window_and_then_each_consumed_half() {
    let mut host = established(Role::Host);
    host.open_reader(1).unwrap();
    assert_eq!(
        batch(&mut host),
        [Frame::Credit {
            stream: 1,
            limit: WINDOW
        }]
    );
    for _ in 0..WINDOW / MAX_DATA as u64 {
        host.receive(data(1, MAX_DATA)).unwrap();
    }
    assert_eq!(batch(&mut host), []);
    assert!(host.poll_read(&mut cx(), 1).is_ready());
    assert_eq!(
        batch(&mut host),
        [Frame::Credit {
            stream: 1,
            limit: 2 * WINDOW
        }]
    );
    host.receive(data(1, 1000)).unwrap();
    assert!(host.poll_read(&mut cx(), 1).is_ready());
    assert_eq!(batch(&mut host), []);
}

#[test]
fn a_byte_beyond_the_window_is_a_violation() {
    let mut host = established(Role::Host);
    host.open_reader(1).unwrap();
    batch(&mut host);
    for _ in 0..WINDOW / MAX_DATA as u64 {
        host.receive(data(1, MAX_DATA)).unwrap();
    }
    let over = Violation::OverWindow {
        stream: 1,
        received: WINDOW + 1,
        granted: WINDOW,
    };
    assert_eq!(violation(host.receive(data(1, 1))), over);
}

#[test]
fn after_a_reset_the_window_is_the_allowance_and_is_counted() {
    let mut host = established(Role::Host);
    host.open_reader(1).unwrap();
    batch(&mut host);
    host.receive(data(1, 10)).unwrap();
    host.drop_reader(1);
    assert_eq!(batch(&mut host), [Frame::Reset { stream: 1 }]);
    host.receive(data(1, 5)).unwrap();
    assert_eq!(host.discarded(), 15);
    for _ in 0..3 {
        host.receive(data(1, MAX_DATA)).unwrap();
    }
    assert!(matches!(
        violation(host.receive(data(1, MAX_DATA))),
        Violation::OverWindow { .. }
    ));
    host.receive(Frame::Reset { stream: 1 }).unwrap();
    assert_eq!(host.streams(), 0);
    assert_eq!(
        violation(host.receive(data(1, 1))),
        Violation::Stream {
            frame: "DATA",
            stream: 1
        }
    );
}

#[test]
fn frames_that_do_not_fit_a_streams_state_are_violations() {
    let reset = |stream| Frame::Reset { stream };
    let credit = |stream, limit| Frame::Credit { stream, limit };
    let end = |stream| Frame::Data {
        stream,
        payload: Bytes::new(),
        end: true,
    };
    let hello = Frame::Hello(hello().encode_to_vec().into());
    // Stream 1 is read, stream 2 is written here.
    let cases: [&[Frame]; 9] = [
        &[data(9, 0)],
        &[data(2, 0)],
        &[credit(1, 1)],
        &[credit(9, 1)],
        &[reset(9)],
        &[credit(2, 5), credit(2, 4)],
        &[end(1), data(1, 0)],
        &[reset(1), reset(1)],
        &[hello],
    ];
    for frames in cases {
        let mut host = established(Role::Host);
        host.open_reader(1).unwrap();
        host.open_writer(2).unwrap();
        batch(&mut host);
        let (last, first) = frames.split_last().unwrap();
        first
            .iter()
            .for_each(|frame| assert!(host.receive(frame.clone()).is_ok()));
        violation(host.receive(last.clone()));
    }
    let mut early = Mux::new(Role::Host, OURS, Hello::default());
    assert_eq!(
        violation(early.receive(reset(1))),
        Violation::Handshake { frame: "RESET" }
    );
}

#[test]
fn an_empty_chunk_is_no_end() {
    let mut host = established(Role::Host);
    host.open_reader(1).unwrap();
    batch(&mut host);
    host.receive(data(1, 0)).unwrap();
    assert!(host.poll_read(&mut cx(), 1).is_pending());
    host.receive(Frame::Data {
        stream: 1,
        payload: Bytes::new(),
        end: true,
    })
    .unwrap();
    assert!(matches!(host.poll_read(&mut cx(), 1), Poll::Ready(Ok(None))));
}

#[test]
fn an_end_waits_for_the_reader_to_exist() {
    let mut guest = established(Role::Guest);
    guest.open_writer(1).unwrap();
    guest.end(1).unwrap();
    guest.drop_writer(1);
    assert_eq!(batch(&mut guest), []);
    guest
        .receive(Frame::Credit {
            stream: 1,
            limit: 100,
        })
        .unwrap();
    assert_eq!(
        batch(&mut guest),
        [Frame::Data {
            stream: 1,
            payload: Bytes::new(),
            end: true
        }]
    );
    guest.receive(Frame::Reset { stream: 1 }).unwrap();
    assert_eq!(guest.streams(), 0);
}

#[test]
fn writers_take_turns_and_control_goes_first() {
    let mut host = established(Role::Host);
    for stream in 1..=8 {
        host.open_writer(stream).unwrap();
        host.receive(Frame::Credit {
            stream,
            limit: u64::MAX,
        })
        .unwrap();
        // Whatever the credit, no more than two frames are queued.
        assert_eq!(write(&mut host, stream, 1 << 20), 2 * MAX_DATA);
    }
    let mut ping = Some(Envelope {
        id: 1,
        body: Some(Body::Ping(Ping {})),
    });
    assert!(host.poll_send(&mut cx(), &mut ping).is_ready());
    let frames: Vec<Frame> = std::iter::from_fn(|| Some(batch(&mut host)).filter(|batch| !batch.is_empty()))
        .flatten()
        .collect();
    assert!(matches!(frames[0], Frame::Control(_)));
    let turns: Vec<u32> = frames[1..]
        .iter()
        .map(|frame| match frame {
            Frame::Data { stream, payload, .. } if payload.len() == MAX_DATA => *stream,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(turns, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_batch_is_short_enough_for_a_kill_to_follow_soon() {
    let mut host = established(Role::Host);
    for stream in 1..=100 {
        host.open_writer(stream).unwrap();
        host.receive(Frame::Credit {
            stream,
            limit: u64::MAX,
        })
        .unwrap();
        write(&mut host, stream, 1 << 20);
    }
    let mut out = BytesMut::new();
    assert!(host.poll_output(&mut cx(), &mut out).is_ready());
    assert!(out.len() <= BATCH + MAX_DATA);
}

#[test]
fn small_writes_share_a_frame() {
    let mut host = established(Role::Host);
    host.open_writer(1).unwrap();
    host.receive(Frame::Credit {
        stream: 1,
        limit: 1000,
    })
    .unwrap();
    (0..20).for_each(|_| assert_eq!(write(&mut host, 1, 10), 10));
    assert_eq!(batch(&mut host), [data(1, 200)]);
}

#[test]
fn windows_of_all_streams_stay_within_the_budget() {
    let mut host = established(Role::Host);
    for stream in 1..=MAX_STREAMS as u32 {
        host.open_reader(stream).unwrap();
    }
    let windows: Vec<u64> = host.streams.values().map(Stream::window).collect();
    assert!(windows[..16].iter().all(|window| *window == WINDOW));
    assert!(windows[99] >= 16 << 10 && windows.iter().all(|window| *window >= MIN_WINDOW));
    assert!(windows.iter().sum::<u64>() <= WINDOW_BUDGET + MAX_STREAMS as u64 * MIN_WINDOW);
    assert!(matches!(host.open_reader(5000), Err(LinkError::TooManyStreams)));
    assert!(matches!(host.open_reader(1), Err(LinkError::StreamInUse(1))));
    assert!(matches!(host.open_writer(0), Err(LinkError::StreamInUse(0))));
}

#[test]
fn a_guest_is_not_offered_more_streams_than_there_may_be() {
    let mut guest = established(Role::Guest);
    for stream in 1..=MAX_STREAMS as u32 {
        guest.receive(Frame::Credit { stream, limit: 1 }).unwrap();
    }
    let over = guest.receive(Frame::Credit {
        stream: 5000,
        limit: 1,
    });
    assert_eq!(violation(over), Violation::TooManyStreams);
}

/// A waker that counts.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_paused_reader_is_woken_when_there_is_room() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut guest = established(Role::Guest);
    let mut stream = 0;
    while guest.poll_input(&mut Context::from_waker(&waker)).is_ready() {
        stream += 1;
        guest.receive(Frame::Reset { stream }).unwrap();
    }
    batch(&mut guest);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert!(guest.poll_input(&mut cx()).is_ready());
}

#[test]
fn reading_pauses_while_messages_wait() {
    let mut guest = established(Role::Guest);
    let ping: Bytes = Envelope {
        id: 1,
        body: Some(Body::Ping(Ping {})),
    }
    .encode_to_vec()
    .into();
    let mut messages = 0;
    while guest.poll_input(&mut cx()).is_ready() {
        guest.receive(Frame::Control(ping.clone())).unwrap();
        messages += 1;
    }
    assert!(guest.held() <= CONTROL_QUEUE + 100);
    for _ in 0..messages {
        assert!(matches!(guest.poll_receive(&mut cx()), Poll::Ready(Some(Ok(_)))));
    }
    assert!(guest.poll_receive(&mut cx()).is_pending());
    assert!(guest.poll_input(&mut cx()).is_ready());
}

#[test]
fn reading_pauses_while_answers_wait() {
    let mut guest = established(Role::Guest);
    let mut stream = 0;
    while guest.poll_input(&mut cx()).is_ready() {
        stream += 1;
        guest.receive(Frame::Reset { stream }).unwrap();
    }
    assert_eq!(stream as usize, MAX_URGENT);
    assert!(guest.stillborn.len() <= MAX_STREAMS);
}
