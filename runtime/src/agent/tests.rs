//! Against a guest's end of the same link, in this process.

use bulkhead_agent_protocol::link::Incoming;
use bulkhead_agent_protocol::message::{Exited, Failed, FailureKind, Ping, Reply, Started};
use bytes::Bytes;

use super::*;
use crate::sandbox::{ErrorKind, SandboxError};

const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(50);

struct Guest {
    link: Link,
    incoming: Incoming,
}

fn pair() -> (AgentClient, mpsc::Receiver<AgentEvent>, Guest) {
    let (host, guest) = tokio::io::duplex(64 << 10);
    let (read, write) = tokio::io::split(guest);
    let hello = Hello {
        generation: GENERATION,
        kernel_release: "6.1".into(),
        ..Hello::default()
    };
    let (link, incoming) = Link::start(Role::Guest, read, write, hello);
    let (client, events) = AgentClient::connect(host);
    (client, events, Guest { link, incoming })
}

impl Guest {
    async fn reply(&self, id: u64, outcome: Outcome) {
        let body = Body::Reply(Reply {
            outcome: Some(outcome),
        });
        self.link.send(Envelope { id, body: Some(body) }).await.unwrap();
    }

    async fn say(&self, body: Body) {
        self.link
            .send(Envelope {
                id: 0,
                body: Some(body),
            })
            .await
            .unwrap();
    }
}

fn ping() -> Body {
    Body::Ping(Ping {})
}

fn exited(container: &str) -> Exited {
    Exited {
        container_id: container.into(),
        status: Some(bulkhead_agent_protocol::message::ExitStatus::Code(0)),
        ..Exited::default()
    }
}

#[tokio::test]
async fn hello_is_heard() {
    let (client, _events, _guest) = pair();
    assert_eq!(client.hello(SOON).await.unwrap().kernel_release, "6.1");
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let (client, _events, mut guest) = pair();
    let (first, second) = (client.clone(), client.clone());
    let first = tokio::spawn(async move { first.request("first", ping(), SOON).await });
    let one = guest.incoming.next().await.unwrap();
    let second = tokio::spawn(async move { second.order("second", ping(), SOON).await });
    let two = guest.incoming.next().await.unwrap();
    guest.reply(two.id, Outcome::Done(Done {})).await;
    guest.reply(one.id, Outcome::Started(Started { pid: 7 })).await;
    second.await.unwrap().unwrap();
    assert_eq!(
        first.await.unwrap().unwrap(),
        Outcome::Started(Started { pid: 7 })
    );
}

#[tokio::test]
async fn the_agents_words_pass_unchanged() {
    let (client, _events, mut guest) = pair();
    let words = "exec: \"nope\": executable file not found in $PATH";
    let request = tokio::spawn(async move { client.order("create", ping(), SOON).await });
    let asked = guest.incoming.next().await.unwrap();
    let failed = Failed {
        kind: FailureKind::ExecutableNotFound.into(),
        errno: 2,
        stage: "execve".into(),
        message: words.into(),
    };
    guest.reply(asked.id, Outcome::Failed(failed)).await;
    let error = SandboxError::from(request.await.unwrap().unwrap_err());
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Internal, words)
    );
}

#[tokio::test]
async fn no_answer_is_an_error_in_time_and_a_late_one_harms_nobody() {
    let (client, _events, mut guest) = pair();
    let error = client.order("ping", ping(), NEVER).await.unwrap_err();
    assert!(matches!(error, AgentError::Slow { what: "ping", .. }), "{error}");
    let late = guest.incoming.next().await.unwrap();
    guest.reply(late.id, Outcome::Done(Done {})).await;
    let next = tokio::spawn(async move { client.order("next", ping(), SOON).await });
    let asked = guest.incoming.next().await.unwrap();
    assert_ne!(asked.id, late.id);
    guest.reply(asked.id, Outcome::Done(Done {})).await;
    next.await.unwrap().unwrap();
}

#[tokio::test]
async fn losing_the_guest_fails_who_waits_and_who_comes_later() {
    let (client, mut events, mut guest) = pair();
    let waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.order("ping", ping(), SOON).await });
    guest.incoming.next().await.unwrap();
    drop(guest);
    assert!(matches!(waiting.await.unwrap().unwrap_err(), AgentError::Gone(_)));
    assert_eq!(events.recv().await, None);
    assert!(matches!(
        client.order("ping", ping(), SOON).await.unwrap_err(),
        AgentError::Gone(_)
    ));
}

#[tokio::test]
async fn events_keep_their_order() {
    let (_client, mut events, guest) = pair();
    for container in ["a", "b", "c"] {
        guest.say(Body::Exited(exited(container))).await;
    }
    for container in ["a", "b", "c"] {
        assert_eq!(events.recv().await, Some(AgentEvent::Exited(exited(container))));
    }
}

#[tokio::test]
async fn streams_carry_bytes_both_ways() {
    let (client, _events, guest) = pair();
    client.hello(SOON).await.unwrap();
    let wanted = StdioRequest {
        stdin: true,
        stdout: true,
        stderr: true,
        terminal: false,
    };
    let (stdio, mut streams) = client.open_streams(wanted).unwrap();
    let mut input = guest.link.open_reader(stdio.stdin.unwrap()).unwrap();
    let mut output = guest.link.open_writer(stdio.stdout.unwrap()).unwrap();
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write(Bytes::from_static(b"in"))
        .await
        .unwrap();
    assert_eq!(input.read().await.unwrap().unwrap(), "in");
    output.write(Bytes::from_static(b"out")).await.unwrap();
    output.end().await.unwrap();
    let stdout = streams.stdout.as_mut().unwrap();
    assert_eq!(stdout.read().await.unwrap().unwrap(), "out");
    assert_eq!(stdout.read().await.unwrap(), None);
}

#[tokio::test]
async fn a_terminal_has_no_stderr() {
    let (client, _events, _guest) = pair();
    let wanted = StdioRequest {
        stdin: false,
        stdout: true,
        stderr: true,
        terminal: true,
    };
    let (stdio, streams) = client.open_streams(wanted).unwrap();
    assert!(stdio.terminal && stdio.stdin.is_none() && stdio.stdout.is_some() && stdio.stderr.is_none());
    assert!(streams.stderr.is_none());
}
