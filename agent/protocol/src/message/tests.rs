//! The committed schema of each generation: later ones may only add to it.

use std::collections::BTreeSet;

use crate::generation::GENERATION;

const SOURCES: [&str; 5] = [
    include_str!("../message.rs"),
    include_str!("disk.rs"),
    include_str!("request.rs"),
    include_str!("reply.rs"),
    include_str!("event.rs"),
];

/// One line for each field, variant and enumerator: `Struct.field tag type`.
fn schema() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let (mut owner, mut attribute) = (String::new(), None);
    for line in SOURCES.iter().flat_map(|source| source.lines()).map(str::trim) {
        let declared = line
            .strip_prefix("pub struct ")
            .or(line.strip_prefix("pub enum "));
        if let Some(declared) = declared {
            owner = declared.split([' ', '{']).next().unwrap().into();
        } else if let Some(inner) = line
            .strip_prefix("#[prost(")
            .and_then(|line| line.strip_suffix(")]"))
        {
            attribute = inner.rsplit_once("tag = ");
        } else if let Some((kind, tag)) = attribute.take() {
            let name = line.trim_start_matches("pub ").split([':', '(']).next().unwrap();
            let kind = kind.trim_end_matches(", ");
            let of = line
                .split(['(', ':'])
                .nth(1)
                .unwrap_or_default()
                .trim_matches([' ', ',', ')']);
            lines.insert(format!("{owner}.{name} {} {kind} {of}", tag.trim_matches('"')));
        } else if let Some((name, number)) = line.trim_end_matches(',').split_once(" = ")
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            lines.insert(format!("{owner}.{name} {number}"));
        }
    }
    lines
}

fn committed(generation: u32) -> BTreeSet<String> {
    let path = format!(
        "{}/schema/generation-{generation}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(str::to_string)
        .collect()
}

#[test]
fn the_schema_is_the_committed_one() {
    let (now, committed) = (schema(), committed(GENERATION));
    let text: Vec<_> = now.iter().cloned().collect();
    assert!(
        now == committed,
        "if this is a change on purpose, this is schema/generation-{GENERATION}.txt:\n{}",
        text.join("\n")
    );
}

#[test]
fn the_schema_only_grows() {
    let generations: Vec<_> = (1..)
        .map(committed)
        .take_while(|schema| !schema.is_empty())
        .collect();
    assert_eq!(generations.len(), GENERATION as usize);
    for pair in generations.windows(2) {
        let lost: Vec<_> = pair[0].difference(&pair[1]).collect();
        assert!(lost.is_empty(), "a later generation lost {lost:?}");
    }
}
