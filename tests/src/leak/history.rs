//! What must be true of the events of any test: each process ends once, and in order.

use std::collections::BTreeMap;

use crate::events::{Event, Kind};

/// Names every breach of containerd's rules of order in `events`.
pub(super) fn faults(events: &[Event]) -> Vec<String> {
    let mut per_container: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        per_container.entry(&event.container_id).or_default().push(event);
    }
    per_container
        .into_iter()
        .flat_map(|(id, events)| faults_of(id, &events))
        .collect()
}

fn faults_of(id: &str, events: &[&Event]) -> Vec<String> {
    let names: Vec<String> = events.iter().map(|event| event.kind.name()).collect();
    let mut faults = Vec::new();
    // A test may make another container of the same id: judge each life by itself.
    for life in names.chunk_by(|_, next| next != "create") {
        for (index, name) in life.iter().enumerate() {
            let before = &life[..index];
            let seen = |earlier: &str| before.iter().any(|name| name == earlier);
            let ends = name
                .strip_prefix("exit")
                .filter(|rest| rest.is_empty() || rest.starts_with(':'));
            if let Some(exec) = ends {
                // An exec's id can be used again.
                let begin = format!("exec-added{exec}");
                if before
                    .iter()
                    .rev()
                    .take_while(|earlier| **earlier != begin)
                    .any(|earlier| earlier == name)
                {
                    faults.push(format!("two {name} events of {id}: {life:?}"));
                }
            }
            let needs = match name.split_once(':') {
                Some(("exec-started", exec)) => Some(format!("exec-added:{exec}")),
                Some(("exit", exec)) => Some(format!("exec-started:{exec}")),
                _ if name == "start" => Some("create".to_owned()),
                _ => None,
            };
            if let Some(needed) = needs.filter(|needed| !seen(needed)) {
                faults.push(format!("{name} of {id} without an earlier {needed}: {life:?}"));
            }
            let after_exit = name.starts_with("exec-") || name == "oom" || name == "start";
            if after_exit && seen("exit") {
                faults.push(format!("{name} of {id} after its exit: {life:?}"));
            }
        }
    }
    let unstamped = events
        .iter()
        .filter(|event| matches!(&event.kind, Kind::Exit { at, .. } if *at == std::time::UNIX_EPOCH));
    faults.extend(unstamped.map(|event| format!("an exit without a time: {event:?}")));
    faults
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn event(kind: Kind) -> Event {
        Event {
            container_id: "c".to_owned(),
            kind,
        }
    }

    fn exit(exec_id: &str) -> Event {
        let at = UNIX_EPOCH + Duration::from_secs(1);
        event(Kind::Exit {
            exec_id: exec_id.to_owned(),
            pid: 1,
            status: 0,
            at,
        })
    }

    fn life() -> Vec<Event> {
        vec![
            event(Kind::Create {
                pid: 1,
                bundle: String::new(),
                io: None,
            }),
            event(Kind::Start { pid: 1 }),
            exit(""),
            event(Kind::Delete { pid: 1, status: 0 }),
        ]
    }

    #[test]
    fn an_ordinary_life_has_no_fault() {
        assert_eq!(faults(&life()), Vec::<String>::new());
        assert_eq!(faults(&[life(), life()].concat()), Vec::<String>::new());
    }

    #[test]
    fn a_second_exit_is_a_fault() {
        let mut events = life();
        events.insert(3, exit(""));
        assert_eq!(faults(&events).len(), 1);
    }

    #[test]
    fn an_oom_after_the_exit_is_a_fault() {
        let mut events = life();
        events.insert(3, event(Kind::Oom));
        assert_eq!(faults(&events).len(), 1);
    }

    #[test]
    fn an_exec_exit_needs_a_start() {
        let mut events = life();
        events.insert(2, exit("e"));
        assert_eq!(faults(&events).len(), 1);
    }
}
