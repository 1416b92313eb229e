//! What is read and what is refused, and how the refusal says why.

use super::*;

fn read(content: impl AsRef<[u8]>) -> Result<Spec, SpecError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, content).unwrap();
    read_spec(&path)
}

fn malformed_field(content: &str) -> String {
    match read(content) {
        Err(SpecError::Malformed { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

fn with_process(fields: &str) -> String {
    format!(r#"{{"ociVersion":"1.2.0","process":{{"user":{{}},"cwd":"/"{fields}}}}}"#)
}

#[test]
fn what_is_not_a_usable_file_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        read_spec(&dir.path().join("none")),
        Err(SpecError::Missing { .. })
    ));
    assert!(matches!(read_spec(dir.path()), Err(SpecError::NotAFile { .. })));
    assert!(matches!(read(""), Err(SpecError::Empty { .. })));
    assert!(matches!(
        read(b"{\"\xff"),
        Err(SpecError::NotUtf8 { offset: 2, .. })
    ));
}

#[test]
fn a_huge_file_is_refused_by_its_size_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    File::create(&path).unwrap().set_len(100 << 20).unwrap();
    assert!(matches!(
        read_spec(&path),
        Err(SpecError::TooLarge {
            size: 104_857_600,
            ..
        })
    ));
}

#[test]
fn nesting_is_bounded_wherever_it_is() {
    let nested = |n: usize| {
        format!(
            r#"{{"ociVersion":"1.0.0","x":{}{}}}"#,
            "[".repeat(n),
            "]".repeat(n)
        )
    };
    assert!(read(nested(MAX_DEPTH - 1)).is_ok());
    for levels in [MAX_DEPTH, 10_000] {
        assert!(matches!(read(nested(levels)), Err(SpecError::TooDeep { .. })));
    }
    assert!(matches!(
        read("[".repeat(100_000)),
        Err(SpecError::TooDeep { .. })
    ));
    let in_string = format!(r#"{{"ociVersion":"1.0.0","x":"\"{}"}}"#, "[".repeat(100));
    assert!(read(in_string).is_ok());
}

#[test]
fn only_version_one_is_read() {
    for version in ["1.0.0", "1.0.2-dev", "1.3.0+x"] {
        assert!(
            read(format!(r#"{{"ociVersion":"{version}"}}"#)).is_ok(),
            "{version}"
        );
    }
    for version in ["2.0.0", "0.9.0", "", "1", "1.x", "10.0.0"] {
        let spec = format!(r#"{{"ociVersion":"{version}","process":7}}"#);
        assert!(matches!(read(spec), Err(SpecError::Version { .. })), "{version}");
    }
    assert!(matches!(read("{}"), Err(SpecError::Version { .. })));
}

#[test]
fn a_malformed_field_is_named() {
    assert_eq!(
        malformed_field(&with_process(r#","args":[1]"#)),
        "process.args[0]"
    );
    let rlimit = r#","rlimits":[{"type":"RLIMIT_TEA","soft":1,"hard":1}]"#;
    assert_eq!(malformed_field(&with_process(rlimit)), "process.rlimits[0].type");
    // A duplicate is told in the reason.
    assert_eq!(malformed_field(&with_process(r#","cwd":"/""#)), "process");
    assert_eq!(malformed_field(r#"{"ociVersion":"1.0.0"} x"#), "end");
    assert_eq!(malformed_field(r#"{"ociVersion":1}"#), "ociVersion");
    for text in [
        "null",
        "7",
        "{",
        "\"a\"",
        r#"{"ociVersion":"1.0.0","process":{"cwd":NaN}}"#,
    ] {
        malformed_field(text);
    }
}

#[test]
fn numbers_out_of_range_are_malformed() {
    let limit =
        |n: &str| format!(r#"{{"ociVersion":"1.0.0","linux":{{"resources":{{"memory":{{"limit":{n}}}}}}}}}"#);
    assert_eq!(
        malformed_field(&limit("99999999999999999999")),
        "linux.resources.memory.limit"
    );
    assert_eq!(malformed_field(&limit("1.5")), "linux.resources.memory.limit");
    assert!(read(limit("-1")).is_ok());
}

#[test]
fn a_reason_does_not_repeat_a_whole_file() {
    let spec = with_process(&format!(r#","rlimits":[{{"type":"{}"}}]"#, "é".repeat(100_000)));
    let Err(SpecError::Malformed { reason, .. }) = read(spec) else {
        panic!("accepted")
    };
    assert!(reason.len() < 2 * MAX_REASON_BYTES, "{} bytes", reason.len());
}

#[test]
fn unknown_capabilities_are_left_out() {
    let sets = r#","capabilities":{"bounding":["CAP_KILL","CAP_TELEPORT"],"effective":["CAP_TELEPORT"]}"#;
    let spec = read(with_process(sets)).unwrap();
    let process = spec.process().as_ref().unwrap();
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
    assert!(capabilities.effective().as_ref().unwrap().is_empty());
    assert!(parse_process(br#"{"user":{},"cwd":"/","capabilities":{"bounding":["CAP_X"]}}"#).is_ok());
    assert_eq!(
        malformed_field(&with_process(r#","capabilities":{"bounding":[7]}"#)),
        "process.capabilities.bounding[0]"
    );
}

#[test]
fn unknown_fields_are_ignored_as_the_specification_says() {
    assert!(read(r#"{"ociVersion":"1.0.0","future":{"a":1},"linux":{"future":true}}"#).is_ok());
}
