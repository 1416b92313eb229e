use super::*;
use crate::generation::GENERATION;
use crate::message::{Exited, Failed, Log, Ping, ProcessInfo, Processes, Started};

fn from_guest(body: Body) -> Result<Envelope, Violation> {
    let bytes = Envelope {
        id: 1,
        body: Some(body),
    }
    .encode_to_vec();
    decode(bytes.into(), Role::Guest, GENERATION)
}

fn reply(outcome: Outcome) -> Body {
    Body::Reply(Reply {
        outcome: Some(outcome),
    })
}

fn exited(status: Option<ExitStatus>) -> Body {
    Body::Exited(Exited {
        status,
        ..Exited::default()
    })
}

#[test]
fn a_message_newer_than_the_peer_is_not_sent_and_not_taken() {
    let ping = Envelope {
        id: 1,
        body: Some(Body::Ping(Ping {})),
    };
    assert!(matches!(
        encode(ping.clone(), Role::Host, 0),
        Err(LinkError::TooNew {
            message: "Ping",
            needs: 1,
            speaks: 0
        })
    ));
    assert_eq!(
        decode(ping.encode_to_vec().into(), Role::Host, 0),
        Err(Violation::Unsolicited("Ping"))
    );
}

#[test]
fn unknown_bodies_and_requests_of_the_guest_are_violations() {
    // Tag 200, an empty message.
    let unknown = Bytes::from_static(b"\x08\x01\xc2\x0c\x00");
    assert_eq!(decode(unknown, Role::Guest, GENERATION), Err(Violation::Unknown));
    assert_eq!(
        from_guest(Body::Ping(Ping {})),
        Err(Violation::Unsolicited("Ping"))
    );
    let truncated = Bytes::from_static(b"\x08\x01\xc2\x02\x7f");
    assert!(matches!(
        decode(truncated, Role::Guest, GENERATION),
        Err(Violation::Malformed(_))
    ));
}

#[test]
fn values_no_honest_guest_sends_are_violations() {
    let process = |pid| Processes {
        processes: vec![ProcessInfo { pid, exec_id: None }],
    };
    let stat = |key: &str| Stats {
        memory_stat: [(key.into(), 1)].into(),
        ..Stats::default()
    };
    let others = |other_pids| Stats {
        other_pids,
        ..Stats::default()
    };
    let cases = [
        (exited(None), "status"),
        (exited(Some(ExitStatus::Code(256))), "status"),
        (exited(Some(ExitStatus::Signal(0))), "status"),
        (exited(Some(ExitStatus::Signal(65))), "status"),
        (
            Body::Exited(Exited {
                exec_id: "x".repeat(MAX_ID + 1),
                ..Exited::default()
            }),
            "exec_id",
        ),
        (reply(Outcome::Started(Started { pid: 0 })), "pid"),
        (reply(Outcome::Started(Started { pid: u32::MAX })), "pid"),
        (reply(Outcome::Processes(process(1 << 31))), "pid"),
        (
            reply(Outcome::Failed(Failed {
                message: "x".repeat(10 << 20),
                ..Failed::default()
            })),
            "message",
        ),
        (
            reply(Outcome::Failed(Failed {
                stage: "x".repeat(MAX_TEXT + 1),
                ..Failed::default()
            })),
            "stage",
        ),
        (Body::Reply(Reply::default()), "outcome"),
        (
            Body::Log(Log {
                level: 1,
                message: "x".repeat(MAX_TEXT + 1),
            }),
            "message",
        ),
        (Body::Stats(stat("anon\"} 1\n")), "memory_stat"),
        (
            Body::Stats(Stats {
                io: vec![Default::default(); MAX_STATS + 1],
                ..Stats::default()
            }),
            "io",
        ),
        (Body::Stats(others(vec![1; MAX_OTHER_PIDS + 1])), "other_pids"),
        (Body::Stats(others(vec![1, 0])), "other_pids"),
    ];
    for (body, field) in cases {
        let message = entry(&body).name;
        assert_eq!(from_guest(body), Err(Violation::Range { message, field }));
    }
    assert!(from_guest(exited(Some(ExitStatus::Code(255)))).is_ok());
    assert!(from_guest(Body::Stats(stat("inactive_anon"))).is_ok());
    assert!(from_guest(Body::Stats(others(vec![1; MAX_OTHER_PIDS]))).is_ok());
}

#[test]
fn texts_are_cut_and_cleaned_on_both_ways() {
    let text = format!("\u{1b}[31mred\0\r\ttab {}", "é".repeat(MAX_TEXT));
    let body = reply(Outcome::Failed(Failed {
        message: text,
        ..Failed::default()
    }));
    let bytes = encode(
        Envelope {
            id: 1,
            body: Some(body),
        },
        Role::Guest,
        GENERATION,
    )
    .unwrap();
    let Some(Body::Reply(Reply {
        outcome: Some(Outcome::Failed(failed)),
    })) = decode(bytes, Role::Guest, GENERATION).unwrap().body
    else {
        panic!("another message");
    };
    assert!(
        failed.message.starts_with("\\u{1b}[31mred\\u{0}\\r\ttab é"),
        "{}",
        failed.message
    );
    assert!(failed.message.len() <= MAX_TEXT && failed.message.len() > MAX_TEXT - 4);

    let forged = Body::Log(Log {
        level: 3,
        message: "fine\nerror: forged\u{1b}c".into(),
    });
    let Some(Body::Log(log)) = from_guest(forged).unwrap().body else {
        panic!("another message")
    };
    assert_eq!(log.message, "fine\\nerror: forged\\u{1b}c");
}

#[test]
fn what_is_too_long_is_refused_where_it_is_sent() {
    let processes = vec![
        ProcessInfo {
            pid: 1,
            exec_id: Some("x".repeat(1000))
        };
        1000
    ];
    let body = reply(Outcome::Processes(Processes { processes }));
    let result = encode(
        Envelope {
            id: 1,
            body: Some(body),
        },
        Role::Guest,
        GENERATION,
    );
    assert!(matches!(result, Err(LinkError::TooLong { message: "Reply", .. })));
}

#[test]
fn a_hello_without_a_generation_is_a_violation() {
    assert!(matches!(decode_hello(Bytes::new()), Err(Violation::Range { .. })));
    assert_eq!(
        decode_hello(Bytes::from_static(b"\x08\x01")).map(|hello| hello.generation),
        Ok(1)
    );
}
