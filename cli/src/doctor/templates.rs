//! Whether sandboxes are restored from templates, as they should be where there are any.

use std::fs;
use std::path::Path;

use bulkhead_runtime::config::Config;
use bulkhead_runtime::state::Origin;

use super::Check;
use crate::ps::{self, Sandbox};

const ID: &str = "templates";
/// Beside a template that is none: why.
const NOTE: &str = "failed";
/// As much of a note as is shown.
const SHOWN: usize = 200;

pub(super) fn check(config: &Config) -> Check {
    if !config.templates {
        return Check::ok(ID, "off, as configured: each sandbox boots");
    }
    // Another check says what keeps them from being listed.
    let sandboxes = ps::list(&config.state_dir).unwrap_or_default();
    judge(&sandboxes, &notes(&config.template_dir))
}

fn judge(sandboxes: &[Sandbox], notes: &[String]) -> Check {
    let count = |origin| {
        let alive = sandboxes
            .iter()
            .filter(|sandbox| sandbox.status != ps::Status::Dead);
        alive.filter(|sandbox| sandbox.origin == Some(origin)).count()
    };
    let instead = count(Origin::BootedInstead);
    let evidence = format!(
        "of the sandboxes that run, {} were restored, {} booted, and {instead} booted as their template was of no use",
        count(Origin::Restored),
        count(Origin::Booted),
    );
    if instead == 0 && notes.is_empty() {
        return Check::ok(ID, evidence);
    }
    let evidence = match notes {
        [] => evidence,
        [first, ..] => format!("{evidence}; {} could not be made or used: {first}", notes.len()),
    };
    let remedy = "mend what it says, then `bulkhead template build`; meanwhile sandboxes boot";
    Check::warning(ID, evidence, remedy)
}

/// What has gone wrong with templates lately, each on a line.
fn notes(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut notes: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == NOTE))
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|note| note.split_whitespace().collect::<Vec<_>>().join(" "))
        .map(|note| note.chars().take(SHOWN).collect())
        .collect();
    notes.sort();
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn sandbox(origin: Origin) -> Sandbox {
        Sandbox {
            namespace: "k8s.io".into(),
            id: "box".into(),
            status: ps::Status::Running,
            origin: Some(origin),
            containers: Vec::new(),
            shim_pid: None,
            vmm_pids: Vec::new(),
            age_seconds: None,
            reason: None,
        }
    }

    #[test]
    fn a_template_of_no_use_is_a_warning() {
        let check = judge(&[sandbox(Origin::Restored), sandbox(Origin::Booted)], &[]);
        assert_eq!(check.status, Status::Ok, "{}", check.evidence);
        assert!(
            check.evidence.contains("1 were restored, 1 booted, and 0"),
            "{}",
            check.evidence
        );
        let check = judge(&[sandbox(Origin::BootedInstead)], &[]);
        assert_eq!(check.status, Status::Warning);
        let dead = Sandbox {
            status: ps::Status::Dead,
            ..sandbox(Origin::BootedInstead)
        };
        assert_eq!(judge(&[dead], &[]).status, Status::Ok);
    }

    #[test]
    fn notes_of_failures_are_shown() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.failed"), "no space\nleft\n").unwrap();
        fs::write(directory.path().join("b.vm"), "a template").unwrap();
        let notes = notes(directory.path());
        assert_eq!(notes, ["no space left"]);
        let check = judge(&[], &notes);
        assert_eq!(check.status, Status::Warning);
        assert!(
            check
                .evidence
                .ends_with("1 could not be made or used: no space left")
        );
    }
}
