//! Whether containerd can find Bulkhead.

use std::path::Path;
use std::process::{Command, Stdio};

use toml::Table;

use super::Check;
use super::programs::find;

/// containerd's own default.
const CONFIG: &str = "/etc/containerd/config.toml";
/// Id of the check of its version.
const VERSION: &str = "containerd-version";
/// What a runtime is called there.
const RUNTIME_TYPE: &str = "io.containerd.bulkhead.v2";
/// containerd looks for it in its PATH.
const SHIM: &str = "containerd-shim-bulkhead-v2";
/// The oldest containerd that Bulkhead is tested on.
const MIN_VERSION: (u32, u32) = (1, 6);
/// Where the table of runtimes is, in version 2 and in version 3 of containerd's configuration.
const RUNTIMES: [&[&str]; 2] = [
    &["plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"],
    &[
        "plugins",
        "io.containerd.cri.v1.runtime",
        "containerd",
        "runtimes",
    ],
];

pub(super) fn checks() -> Vec<Check> {
    let text = std::fs::read_to_string(CONFIG);
    vec![shim(), version(), handler(text.ok().as_deref())]
}

fn shim() -> Check {
    match find(Path::new(SHIM)) {
        Some(path) => Check::ok("shim", format!("{} is in PATH", path.display())),
        None => Check::warning(
            "shim",
            format!("{SHIM} is not in this PATH"),
            "link it into a directory of containerd's PATH, or set runtime_path in its configuration",
        ),
    }
}

/// Of the program, as a daemon may not answer, or not be there yet.
fn version() -> Check {
    let program = find(Path::new("containerd")).and_then(|path| {
        let said = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
        Some((path, said.ok()?.stdout))
    });
    let Some((path, said)) = program else {
        let evidence = "containerd is not in this PATH";
        return Check::warning(
            VERSION,
            evidence,
            "install it, or run this with containerd's PATH",
        );
    };
    judge_version(&path, &String::from_utf8_lossy(&said))
}

/// `containerd github.com/containerd/containerd/v2 v2.1.9 c05f1d3`; distributions leave the `v` out.
fn judge_version(path: &Path, said: &str) -> Check {
    let (major, minor) = MIN_VERSION;
    let word = said.split_whitespace().nth(2).unwrap_or_default();
    let mut numbers = word.trim_start_matches('v').split('.').map(str::parse::<u32>);
    let evidence = format!("{}: {}", path.display(), said.trim());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) if (a, b) >= MIN_VERSION => Check::ok(VERSION, evidence),
        _ => Check::warning(
            VERSION,
            evidence,
            format!("containerd {major}.{minor} or newer is what Bulkhead is tested on"),
        ),
    }
}

/// For Kubernetes alone: ctr and nerdctl name the runtime themselves.
fn handler(text: Option<&str>) -> Check {
    const ID: &str = "containerd";
    let remedy = format!(
        "for Kubernetes, add a runtime with runtime_type = \"{RUNTIME_TYPE}\" to it; ctr and nerdctl need none"
    );
    let Some(text) = text else {
        return Check::warning(ID, format!("{CONFIG} cannot be read"), remedy);
    };
    match text.parse::<Table>() {
        Err(error) => Check::warning(ID, format!("{CONFIG}: {}", error.message()), remedy),
        Ok(config) => match handler_name(&config) {
            Some(name) => Check::ok(ID, format!("{CONFIG} has the runtime {name:?}")),
            None => Check::warning(
                ID,
                format!("{CONFIG} has no runtime of type {RUNTIME_TYPE}"),
                remedy,
            ),
        },
    }
}

fn handler_name(config: &Table) -> Option<&str> {
    RUNTIMES.iter().find_map(|path| {
        let runtimes = path
            .iter()
            .try_fold(config, |table, key| table.get(*key)?.as_table())?;
        let is_ours = |runtime: &toml::Value| {
            runtime
                .get("runtime_type")?
                .as_str()
                .map(|typ| typ == RUNTIME_TYPE)
        };
        let found = runtimes
            .iter()
            .find(|(_, runtime)| is_ours(runtime) == Some(true));
        found.map(|(name, _)| name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_runtime_is_found_in_both_versions_of_the_configuration() {
        for plugin in ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"] {
            let text = format!(
                "version = 2\n[plugins.\"{plugin}\".containerd.runtimes.vm]\nruntime_type = \"{RUNTIME_TYPE}\"\n"
            );
            let check = handler(Some(&text));
            assert_eq!(check.status, Status::Ok, "{}", check.evidence);
            assert!(check.evidence.contains("\"vm\""), "{}", check.evidence);
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        for (version, status) in [
            ("v2.1.9", Status::Ok),
            ("1.6.20~ds1", Status::Ok),
            ("v1.10.0", Status::Ok),
            ("v1.5.18", Status::Warning),
            ("", Status::Warning),
        ] {
            let said = format!("containerd github.com/containerd/containerd {version} c05f\n");
            let check = judge_version(Path::new("/usr/bin/containerd"), &said);
            assert_eq!(check.status, status, "{}", check.evidence);
        }
    }

    #[test]
    fn without_it_the_remedy_says_what_to_add() {
        for text in [None, Some("version = 2"), Some("version = ")] {
            let check = handler(text);
            assert_eq!(check.status, Status::Warning);
            assert!(check.remedy.unwrap().contains(RUNTIME_TYPE));
        }
    }
}
