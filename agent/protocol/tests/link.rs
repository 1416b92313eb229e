//! Two links over an in-memory carrier.

use std::time::Duration;

use bulkhead_agent_protocol::error::{LinkError, StreamError};
use bulkhead_agent_protocol::generation::GENERATION;
use bulkhead_agent_protocol::link::{Incoming, Link, Role};
use bulkhead_agent_protocol::message::{Body, Done, Envelope, Hello, Outcome, Ping, Reply};
use bulkhead_agent_protocol::mux::WINDOW;
use bytes::Bytes;
use tokio::io::{DuplexStream, duplex, split};
use tokio::time::timeout;

/// Longer than anything here takes; only a hang meets it.
const HANG: Duration = Duration::from_secs(20);

fn hello() -> Hello {
    Hello {
        generation: GENERATION,
        ..Hello::default()
    }
}

fn start(role: Role, carrier: DuplexStream) -> (Link, Incoming) {
    let (read, write) = split(carrier);
    Link::start(role, read, write, hello())
}

/// A carrier that holds less than one data frame.
fn pair() -> ((Link, Incoming), (Link, Incoming)) {
    let (host, guest) = duplex(10_000);
    (start(Role::Host, host), start(Role::Guest, guest))
}

fn ping(id: u64) -> Envelope {
    Envelope {
        id,
        body: Some(Body::Ping(Ping {})),
    }
}

fn done(id: u64) -> Envelope {
    Envelope {
        id,
        body: Some(Body::Reply(Reply {
            outcome: Some(Outcome::Done(Done {})),
        })),
    }
}

fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|at| (at * 31 % 251) as u8)
        .collect::<Vec<_>>()
        .into()
}

#[tokio::test]
async fn request_and_reply_cross_the_link() {
    let ((host, mut from_guest), (guest, mut from_host)) = pair();
    host.send(ping(7)).await.unwrap();
    assert_eq!(from_host.next().await, Some(ping(7)));
    guest.send(done(7)).await.unwrap();
    assert_eq!(from_guest.next().await, Some(done(7)));
    assert_eq!(host.peer_hello().borrow().clone(), Some(hello()));
}

#[tokio::test]
async fn bytes_arrive_complete_and_end_explicitly() {
    let ((host, _h), (guest, _g)) = pair();
    let mut reader = host.open_reader(1).unwrap();
    let mut writer = guest.open_writer(1).unwrap();
    let sent = pattern(3_000_000);
    let copy = sent.clone();
    tokio::spawn(async move {
        writer.write(copy).await.unwrap();
        writer.write(Bytes::new()).await.unwrap();
        writer.end().await.unwrap();
    });
    let mut received = Vec::new();
    while let Some(chunk) = timeout(HANG, reader.read()).await.unwrap().unwrap() {
        assert!(!chunk.is_empty() && chunk.len() as u64 <= WINDOW);
        received.extend_from_slice(&chunk);
    }
    assert!(received == sent);
}

#[tokio::test]
async fn a_stalled_reader_stalls_only_its_own_stream() {
    let ((host, mut from_guest), (guest, mut from_host)) = pair();
    let stalled = host.open_reader(1).unwrap();
    let mut reader = host.open_reader(2).unwrap();
    let mut stuck = guest.open_writer(1).unwrap();
    let mut writer = guest.open_writer(2).unwrap();
    let stuck = tokio::spawn(async move {
        let result = stuck.write(pattern(4 << 20)).await;
        (result, stuck)
    });
    tokio::spawn(async move {
        writer.write(pattern(2 << 20)).await.unwrap();
        writer.end().await.unwrap();
    });
    let mut received = 0;
    while let Some(chunk) = timeout(HANG, reader.read()).await.unwrap().unwrap() {
        received += chunk.len();
    }
    assert_eq!(received, 2 << 20);
    host.send(ping(1)).await.unwrap();
    assert_eq!(from_host.next().await, Some(ping(1)));
    guest.send(done(1)).await.unwrap();
    assert_eq!(from_guest.next().await, Some(done(1)));
    assert!(!stuck.is_finished());

    stalled.reset();
    let (result, mut stuck) = timeout(HANG, stuck).await.unwrap().unwrap();
    assert!(matches!(result, Err(StreamError::Reset)));
    timeout(HANG, stuck.reset_by_peer()).await.unwrap();
    assert_eq!(host.discarded(), WINDOW);
}

#[tokio::test]
async fn a_writer_dropped_without_end_is_no_clean_end() {
    let ((host, _h), (guest, _g)) = pair();
    let mut reader = guest.open_reader(1).unwrap();
    let mut writer = host.open_writer(1).unwrap();
    writer.write(Bytes::from_static(b"half a")).await.unwrap();
    assert_eq!(reader.read().await.unwrap(), Some(Bytes::from_static(b"half a")));
    drop(writer);
    assert!(matches!(reader.read().await, Err(StreamError::Reset)));
}

#[tokio::test]
async fn a_stream_given_up_before_the_guest_opened_it_is_dead() {
    let ((host, _h), (guest, mut from_host)) = pair();
    drop(host.open_reader(1).unwrap());
    drop(host.open_writer(2).unwrap());
    host.send(ping(1)).await.unwrap();
    assert_eq!(from_host.next().await, Some(ping(1)));
    let mut writer = guest.open_writer(1).unwrap();
    let mut reader = guest.open_reader(2).unwrap();
    assert!(matches!(
        writer.write(Bytes::from_static(b"x")).await,
        Err(StreamError::Reset)
    ));
    assert!(matches!(reader.read().await, Err(StreamError::Reset)));
    drop((writer, reader));
    host.send(ping(2)).await.unwrap();
    assert_eq!(from_host.next().await, Some(ping(2)));
}

#[tokio::test]
async fn closing_ends_everything_on_both_sides() {
    let ((host, mut from_guest), (guest, mut from_host)) = pair();
    let mut reader = host.open_reader(1).unwrap();
    let mut writer = guest.open_writer(1).unwrap();
    writer.write(Bytes::from_static(b"last words")).await.unwrap();
    assert_eq!(
        reader.read().await.unwrap(),
        Some(Bytes::from_static(b"last words"))
    );
    guest.flush().await.unwrap();
    drop(guest);
    assert!(matches!(
        timeout(HANG, host.closed()).await.unwrap(),
        LinkError::Eof
    ));
    assert!(matches!(
        reader.read().await,
        Err(StreamError::Link(LinkError::Eof))
    ));
    assert!(matches!(
        writer.write(Bytes::from_static(b"x")).await,
        Err(StreamError::Link(LinkError::Closed))
    ));
    assert_eq!(from_guest.next().await, None);
    assert_eq!(from_host.next().await, None);
    assert!(matches!(host.send(ping(1)).await, Err(LinkError::Eof)));
    assert!(host.open_reader(2).is_err());
}

#[tokio::test]
async fn a_message_of_the_other_side_is_refused_where_it_is_sent() {
    let ((host, _h), (guest, mut from_host)) = pair();
    assert!(matches!(
        guest.send(ping(1)).await,
        Err(LinkError::WrongSender { .. })
    ));
    assert!(matches!(
        host.send(done(1)).await,
        Err(LinkError::WrongSender { .. })
    ));
    host.send(ping(2)).await.unwrap();
    assert_eq!(from_host.next().await, Some(ping(2)));
}
