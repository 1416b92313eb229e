//! A link whose peer does what no peer may do: fault F25. Each ends the link with the reason, at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test has no better way to fail"
)]

use std::time::Duration;

use bulkhead_agent_protocol::error::{LinkError, Violation};
use bulkhead_agent_protocol::frame::{Frame, FrameError, HEADER_LEN, MAX_DATA, SYNC_LEN, Sync};
use bulkhead_agent_protocol::generation::GENERATION;
use bulkhead_agent_protocol::link::{Incoming, Link, Role};
use bulkhead_agent_protocol::message::Hello;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::time::timeout;

/// Longer than anything here takes; only a hang meets it.
const HANG: Duration = Duration::from_secs(20);
/// What the carrier holds.
const CARRIER: usize = 64 << 10;

fn hello() -> Hello {
    Hello {
        generation: GENERATION,
        ..Hello::default()
    }
}

/// What an honest peer of generation 1 says first.
fn greeting(epoch: u64, answers: u64) -> BytesMut {
    let mut bytes = BytesMut::new();
    Frame::Sync(Sync { epoch, answers }).encode(&mut bytes);
    Frame::Hello(Bytes::from_static(b"\x08\x01")).encode(&mut bytes);
    bytes
}

/// A host's link and the carrier's other end, after the handshake.
async fn victim() -> (Link, Incoming, DuplexStream) {
    let (carrier, mut peer) = duplex(CARRIER);
    let (read, write) = split(carrier);
    let (link, incoming) = Link::start(Role::Host, read, write, hello());
    let mut sync = [0; SYNC_LEN];
    peer.read_exact(&mut sync).await.unwrap();
    let epoch = u64::from_be_bytes(sync[8..16].try_into().unwrap());
    peer.write_all(&greeting(42, epoch)).await.unwrap();
    link.peer_hello().wait_for(Option::is_some).await.unwrap();
    (link, incoming, peer)
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [
        &length.to_be_bytes()[..],
        &stream.to_be_bytes(),
        &[kind, 0],
        payload,
    ]
    .concat()
}

/// Lets the link's task, which is on this thread, run until it has nothing to do.
async fn idle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

async fn end_of(link: &Link) -> LinkError {
    timeout(HANG, link.closed()).await.expect("the link did not end")
}

async fn violation_of(bytes: &[u8]) -> Violation {
    let (link, mut incoming, mut peer) = victim().await;
    let reader = link.open_reader(1).unwrap();
    // The link may end before it has read all.
    peer.write_all(bytes).await.ok();
    let messages = async { while incoming.next().await.is_some() {} };
    timeout(HANG, messages).await.expect("the messages did not end");
    drop(reader);
    match end_of(&link).await {
        LinkError::Violation(violation) => violation,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn broken_frames_end_the_link() {
    let huge = [&u32::MAX.to_be_bytes()[..], &[0, 0, 0, 1, 3, 0], &[0; 100]].concat();
    let length = FrameError::Length {
        kind: "DATA",
        length: u32::MAX as usize,
    };
    assert_eq!(violation_of(&huge).await, Violation::Frame(length));
    assert_eq!(
        violation_of(&frame(77, 1, b"")).await,
        Violation::Frame(FrameError::Kind(77))
    );
    assert_eq!(
        violation_of(&[0xa5; 100]).await,
        Violation::Frame(FrameError::Garbage)
    );
    let unknown = Violation::Stream {
        frame: "DATA",
        stream: 9,
    };
    assert_eq!(violation_of(&frame(3, 9, b"x")).await, unknown);
}

#[tokio::test]
async fn broken_messages_end_the_link() {
    assert!(matches!(
        violation_of(&frame(2, 0, b"\xff\xff")).await,
        Violation::Malformed(_)
    ));
    assert_eq!(violation_of(&frame(2, 0, b"\x08\x01")).await, Violation::Unknown);
    // A Ping, which is the host's.
    assert_eq!(
        violation_of(&frame(2, 0, b"\xba\x01\x00")).await,
        Violation::Unsolicited("Ping")
    );
}

#[tokio::test]
async fn more_than_the_window_ends_the_link() {
    let flood = frame(3, 1, &vec![0; MAX_DATA]).repeat(5);
    assert!(matches!(
        violation_of(&flood).await,
        Violation::OverWindow { stream: 1, .. }
    ));
}

#[tokio::test]
async fn a_peer_that_stops_in_the_middle_of_a_frame_ends_the_link() {
    let (link, _incoming, mut peer) = victim().await;
    peer.write_all(&frame(2, 0, &[0; 100])[..HEADER_LEN + 50])
        .await
        .unwrap();
    drop(peer);
    assert!(matches!(end_of(&link).await, LinkError::Eof));
}

#[tokio::test]
async fn a_peer_that_says_hello_again_has_restarted() {
    let (link, _incoming, mut peer) = victim().await;
    let mut reader = link.open_reader(1).unwrap();
    peer.write_all(&greeting(43, 0)).await.unwrap();
    assert!(matches!(end_of(&link).await, LinkError::PeerRestarted));
    assert!(reader.read().await.is_err());
}

/// Byte by byte is slow, not wrong.
#[tokio::test]
async fn a_slow_peer_is_understood() {
    let (link, _incoming, mut peer) = victim().await;
    let mut reader = link.open_reader(1).unwrap();
    let mut credit = [0; HEADER_LEN + 8];
    let greeted = greeting(0, 0).len();
    peer.read_exact(&mut vec![0; greeted]).await.unwrap();
    peer.read_exact(&mut credit).await.unwrap();
    let slowly = tokio::spawn(async move {
        for byte in frame(3, 1, b"slow") {
            peer.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        peer
    });
    assert_eq!(
        timeout(HANG, reader.read()).await.unwrap().unwrap().unwrap(),
        "slow"
    );
    drop(slowly);
    assert!(reader.read().await.is_err());
}

/// A flood of messages that nobody takes stops at the queue's bound, and the sender with it.
#[tokio::test]
async fn a_flood_of_messages_is_not_stored() {
    let (link, mut incoming, mut peer) = victim().await;
    let message = frame(2, 0, b"\x08\x01\xc2\x02\x02\x0a\x00");
    let flood = message.repeat(1000);
    let mut sent = 0;
    loop {
        tokio::select! {
            biased;
            written = peer.write_all(&flood) => written.unwrap(),
            () = idle() => break,
        }
        sent += flood.len();
        assert!(sent < 4 << 20, "{sent} bytes were taken");
    }
    assert!(timeout(HANG, incoming.next()).await.unwrap().is_some());
    drop(peer);
    while timeout(HANG, incoming.next()).await.unwrap().is_some() {}
    assert!(matches!(end_of(&link).await, LinkError::Eof));
}

#[tokio::test]
async fn a_peer_without_a_hello_is_given_up_after_a_bound() {
    let (carrier, mut peer) = duplex(CARRIER);
    let (read, write) = split(carrier);
    let (link, _incoming) = Link::start(Role::Host, read, write, hello());
    let garbage = vec![b'x'; 1 << 20];
    while peer.write_all(&garbage).await.is_ok() {}
    let no_hello = Violation::Frame(FrameError::NoHello);
    assert!(matches!(end_of(&link).await, LinkError::Violation(violation) if violation == no_hello));
}

/// Bytes an earlier connection left, with a container's forged SYNC among them, do not disturb a new one.
#[tokio::test]
async fn a_link_finds_its_peer_behind_the_remains_of_another() {
    let (carrier, mut peer) = duplex(CARRIER);
    peer.write_all(&greeting(7, 99)).await.unwrap();
    peer.write_all(&frame(3, 1, &greeting(8, 0))[..40]).await.unwrap();
    let (read, write) = split(carrier);
    let (left, _incoming) = Link::start(Role::Host, read, write, hello());
    let (read, write) = split(peer);
    let (right, _incoming) = Link::start(Role::Guest, read, write, hello());
    for link in [&left, &right] {
        timeout(HANG, link.peer_hello().wait_for(Option::is_some))
            .await
            .unwrap()
            .unwrap();
    }
    let mut reader = left.open_reader(1).unwrap();
    let mut writer = right.open_writer(1).unwrap();
    writer.write(Bytes::from_static(b"through")).await.unwrap();
    assert_eq!(
        timeout(HANG, reader.read()).await.unwrap().unwrap().unwrap(),
        "through"
    );
}
