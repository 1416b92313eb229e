use super::*;

const OURS: u64 = 0x1111_1111_1111_1111;
const THEIRS: u64 = 0x2222_2222_2222_2222;

fn decoder() -> Decoder {
    Decoder::new(Role::Guest, OURS)
}

fn synced(rest: &[u8]) -> (Decoder, BytesMut) {
    let mut buffer = BytesMut::new();
    Frame::Sync(Sync {
        epoch: THEIRS,
        answers: OURS,
    })
    .encode(&mut buffer);
    buffer.extend_from_slice(rest);
    let mut decoder = decoder();
    decoder.decode(&mut buffer).unwrap().unwrap();
    (decoder, buffer)
}

fn header(length: u32, stream: u32, kind: u8, flags: u8) -> Vec<u8> {
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, flags]].concat()
}

/// The example of docs/agent-protocol.md, byte for byte.
#[test]
fn worked_example() {
    let frames = [
        Frame::Sync(Sync {
            epoch: THEIRS,
            answers: OURS,
        }),
        Frame::Hello(Bytes::from_static(b"\x08\x01")),
        Frame::Control(Bytes::from_static(b"\x08\x07\xba\x01\x00")),
        Frame::Credit {
            stream: 2,
            limit: 262_144,
        },
        Frame::Data {
            stream: 1,
            payload: Bytes::from_static(b"hi\n"),
            end: false,
        },
        Frame::Data {
            stream: 1,
            payload: Bytes::new(),
            end: true,
        },
        Frame::Reset { stream: 2 },
    ];
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    let dump: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();

    let document = include_str!("../../../../docs/agent-protocol.md");
    let example = document.split("<!-- worked example -->").nth(1).unwrap();
    let documented: String = example
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').nth(1))
        .collect::<String>()
        .replace(' ', "");
    assert_eq!(dump, documented);

    let mut decoder = decoder();
    for frame in frames {
        assert_eq!(decoder.decode(&mut bytes), Ok(Some(frame)));
    }
    assert!(bytes.is_empty());
}

#[test]
fn garbage_before_the_sync_is_skipped() {
    let mut buffer = BytesMut::from(&b"old bytes \xa5BULK"[..]);
    Frame::Sync(Sync {
        epoch: THEIRS,
        answers: 99,
    })
    .encode(&mut buffer);
    buffer.extend_from_slice(&[7; 1000]);
    Frame::Sync(Sync {
        epoch: THEIRS,
        answers: OURS,
    })
    .encode(&mut buffer);
    let mut decoder = decoder();
    let answers = |frame| match frame {
        Ok(Some(Frame::Sync(sync))) => sync.answers,
        other => panic!("{other:?}"),
    };
    assert_eq!(answers(decoder.decode(&mut buffer)), 99);
    assert_eq!(answers(decoder.decode(&mut buffer)), OURS);
    assert!(buffer.is_empty());
}

/// A container may print what looks like the beginning of a connection; it cannot know the epoch, and
/// must not hide the true SYNC that follows.
#[test]
fn a_forged_sync_does_not_hide_the_true_one() {
    let mut buffer = BytesMut::from(&MAGIC[..]);
    Frame::Sync(Sync {
        epoch: THEIRS,
        answers: OURS,
    })
    .encode(&mut buffer);
    let mut decoder = decoder();
    let mut last = None;
    while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
        last = Some(frame);
    }
    assert_eq!(
        last,
        Some(Frame::Sync(Sync {
            epoch: THEIRS,
            answers: OURS
        }))
    );
}

#[test]
fn garbage_is_bounded() {
    let mut decoder = decoder();
    let mut buffer = BytesMut::new();
    let mut fed = 0;
    let error = loop {
        buffer.extend_from_slice(&[0; 1 << 20]);
        fed += 1 << 20;
        match decoder.decode(&mut buffer) {
            Ok(None) => assert!(fed <= MAX_GARBAGE + (1 << 20) && buffer.len() < MAGIC.len()),
            other => break other,
        }
    };
    assert_eq!(error, Err(FrameError::NoHello));
}

#[test]
fn a_frame_beyond_its_limits_is_refused_from_its_header_alone() {
    let over_control = MAX_CONTROL_FROM_GUEST as u32 + 1;
    let cases = [
        (header(1, 0, 0, 0), FrameError::Kind(0)),
        (header(1, 0, 6, 0), FrameError::Kind(6)),
        (
            header(over_control, 0, 2, 0),
            FrameError::Length {
                kind: "CONTROL",
                length: over_control as usize,
            },
        ),
        (
            header(0, 0, 2, 0),
            FrameError::Length {
                kind: "CONTROL",
                length: 0,
            },
        ),
        (
            header(0x7fff_ffff, 1, 3, 0),
            FrameError::Length {
                kind: "DATA",
                length: 0x7fff_ffff,
            },
        ),
        (
            header(u32::MAX, 1, 3, 0),
            FrameError::Length {
                kind: "DATA",
                length: u32::MAX as usize,
            },
        ),
        (
            header(MAX_DATA as u32 + 1, 1, 3, 0),
            FrameError::Length {
                kind: "DATA",
                length: MAX_DATA + 1,
            },
        ),
        (
            header(MAX_HELLO as u32 + 1, 0, 1, 0),
            FrameError::Length {
                kind: "HELLO",
                length: MAX_HELLO + 1,
            },
        ),
        (
            header(7, 1, 4, 0),
            FrameError::Length {
                kind: "CREDIT",
                length: 7,
            },
        ),
        (
            header(1, 1, 5, 0),
            FrameError::Length {
                kind: "RESET",
                length: 1,
            },
        ),
        (
            header(1, 1, 2, 0),
            FrameError::Stream {
                kind: "CONTROL",
                stream: 1,
            },
        ),
        (
            header(1, 0, 3, 0),
            FrameError::Stream {
                kind: "DATA",
                stream: 0,
            },
        ),
        (
            header(1, 1, 3, 2),
            FrameError::Flags {
                kind: "DATA",
                flags: 2,
            },
        ),
        (
            header(0, 1, 5, 1),
            FrameError::Flags {
                kind: "RESET",
                flags: 1,
            },
        ),
        (b"\xa5BULKHD\r________________".to_vec(), FrameError::Garbage),
    ];
    for (bytes, error) in cases {
        let (mut decoder, mut buffer) = synced(&bytes);
        assert_eq!(decoder.decode(&mut buffer), Err(error), "{bytes:02x?}");
    }
}

#[test]
fn the_longest_frames_pass() {
    for (kind, stream, length) in [
        (2, 0, MAX_CONTROL_FROM_GUEST),
        (3, 1, MAX_DATA),
        (1, 0, MAX_HELLO),
    ] {
        let (mut decoder, mut buffer) = synced(&header(length as u32, stream, kind, 0));
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        buffer.extend_from_slice(&vec![0; length]);
        assert!(decoder.decode(&mut buffer).unwrap().is_some());
        assert!(buffer.is_empty());
    }
}
