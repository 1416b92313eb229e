//! How fast one stream crosses a link: `cargo run --release --example throughput [MEBIBYTES]`.
//!
//! Both ends have a thread with a `current_thread` runtime, as the agent has, and a unix socket between them.
#![allow(clippy::expect_used, reason = "a measurement has no better way to fail")]

use std::os::unix::net::UnixStream;
use std::time::Instant;

use bulkhead_agent_protocol::generation::GENERATION;
use bulkhead_agent_protocol::link::{Incoming, Link, Role};
use bulkhead_agent_protocol::message::Hello;
use bytes::Bytes;

fn main() {
    let mebibytes: usize = std::env::args()
        .nth(1)
        .map_or(1024, |arg| arg.parse().expect("a number of MiB"));
    let (host, guest) = UnixStream::pair().expect("a socket pair");
    let begin = Instant::now();
    let writer = std::thread::spawn(move || run(guest, Role::Guest, mebibytes));
    let received = run(host, Role::Host, mebibytes);
    let seconds = begin.elapsed().as_secs_f64();
    writer.join().expect("the writer's thread");
    assert_eq!(received, mebibytes << 20);
    println!(
        "{mebibytes} MiB in {seconds:.2} s: {:.0} MB/s",
        received as f64 / seconds / 1e6
    );
}

#[tokio::main(flavor = "current_thread")]
async fn run(socket: UnixStream, role: Role, mebibytes: usize) -> usize {
    socket.set_nonblocking(true).expect("a socket");
    let (read, write) = tokio::net::UnixStream::from_std(socket)
        .expect("a runtime")
        .into_split();
    let hello = Hello {
        generation: GENERATION,
        ..Hello::default()
    };
    let (link, mut incoming): (Link, Incoming) = Link::start(role, read, write, hello);
    let mut received = 0;
    if role == Role::Host {
        let mut reader = link.open_reader(1).expect("a stream");
        while let Some(bytes) = reader.read().await.expect("bytes") {
            received += bytes.len();
        }
    } else {
        let mut writer = link.open_writer(1).expect("a stream");
        for _ in 0..mebibytes * 16 {
            writer
                .write(Bytes::from(vec![7; 64 << 10]))
                .await
                .expect("credit");
        }
        writer.end().await.expect("a reader");
        // Until the host has gone.
        while incoming.next().await.is_some() {}
    }
    received
}
