//! The fuzz targets over their corpus and over random bytes, on any compiler.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::proptest;

use super::{OURS, THEIRS, decode, greeting, hostile_guest, hostile_host, schedule};

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!files.is_empty());
    for file in files {
        run(&fs::read(file).unwrap());
    }
}

#[test]
fn corpus_of_decode() {
    replay("decode", decode);
}

#[test]
fn corpus_of_hostile_guest() {
    replay("hostile_guest", hostile_guest);
}

#[test]
fn corpus_of_hostile_host() {
    replay("hostile_host", hostile_host);
}

#[test]
fn corpus_of_schedule() {
    replay("schedule", schedule);
}

/// Bytes that are more often frames than random ones are: short ones with small fields.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = (0u8..20, 0u8..7, 0u8..7, 0u8..2, vec(any::<u8>(), 20)).prop_map(
        |(length, stream, kind, flags, payload)| {
            let mut bytes = vec![0, 0, 0, length, 0, 0, 0, stream, kind, flags];
            bytes.extend_from_slice(&payload[..length.into()]);
            bytes
        },
    );
    vec(frame, 0..40).prop_map(|frames| frames.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode_the_same_however_they_are_split(data in vec(any::<u8>(), 0..400)) {
        decode(&data);
    }

    #[test]
    fn frames_decode_the_same_however_they_are_split(piece in any::<u8>(), frames in frames()) {
        decode(&[&[piece], &greeting(THEIRS, OURS)[..], &frames].concat());
    }

    #[test]
    fn a_hostile_guest_is_survived(frames in frames()) {
        hostile_guest(&frames);
    }

    #[test]
    fn a_hostile_host_is_survived(frames in frames()) {
        hostile_host(&frames);
    }

    #[test]
    fn any_schedule_keeps_every_promise(data in vec(any::<u8>(), 0..600)) {
        schedule(&data);
    }
}
