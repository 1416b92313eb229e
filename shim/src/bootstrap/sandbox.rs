//! Which sandbox a bundle's container belongs to: chosen by `start`, noted in the bundle for `delete`.

use std::fs;
use std::io;
use std::path::Path;

use bulkhead_oci::group::{self, GroupError};
use bulkhead_oci::runtime::Spec;
use bulkhead_runtime::state::SandboxState;

use crate::options::Options;

/// In the bundle.
const FILE: &str = "sandbox";

/// The sandbox that the annotations name; without such, that of the container whose network or PID namespace
/// this one is to join, as with `nerdctl run --network container:NAME`; else its own.
///
/// A bundle without a readable spec is its own sandbox, too: Create refuses it, and `sandboxer = "shim"` has none.
///
/// # Errors
/// An annotation names no possible sandbox.
pub fn choose(bundle: &Path, namespace: &str, id: &str, options: &Options) -> Result<String, GroupError> {
    let Ok(spec) = bulkhead_oci::read_spec(&bundle.join("config.json")) else {
        return Ok(id.to_owned());
    };
    let named = group::group(spec.annotations().as_ref(), id)?.sandbox;
    if named != id {
        return Ok(named);
    }
    Ok(joined(&spec, namespace, options).unwrap_or(named))
}

fn joined(spec: &Spec, namespace: &str, options: &Options) -> Option<String> {
    let processes = bulkhead_oci::joined_processes(spec);
    if processes.is_empty() {
        return None;
    }
    // The server reports a configuration that cannot be read.
    let state_dir = options.config().ok()?.state_dir;
    let state = processes
        .into_iter()
        .find_map(|pid| SandboxState::of_process(&state_dir, namespace, pid))?;
    Some(state.id)
}

/// Notes the choice: by the time of `delete`, the processes it was made by may be gone.
///
/// # Errors
/// The file cannot be written.
pub fn note(bundle: &Path, sandbox: &str) -> io::Result<()> {
    fs::write(bundle.join(FILE), sandbox)
}

/// The sandbox that was noted. A bundle that `start` never saw has no other sandbox than its own.
pub fn noted(bundle: &Path, id: &str) -> String {
    let noted = fs::read_to_string(bundle.join(FILE)).ok();
    noted
        .filter(|sandbox| bulkhead_oci::validate_id(sandbox).is_ok())
        .unwrap_or_else(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use bulkhead_runtime::process::ProcessIdentity;
    use bulkhead_runtime::state::ContainerState;
    use serde_json::{Value, json};

    use super::*;

    /// What is chosen for container `c`, where this process stands for a container of sandbox `web`.
    fn chosen(spec: &Value) -> String {
        let dir = tempfile::tempdir().unwrap();
        let web = dir.path().join("ns/web");
        fs::create_dir_all(&web).unwrap();
        let mut state = SandboxState::new("ns", "web", String::new());
        let container = ContainerState {
            anchor: Some(ProcessIdentity::of(std::process::id()).unwrap()),
            ..ContainerState::default()
        };
        state.containers.insert("web".to_owned(), container);
        state.write(&web).unwrap();
        fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
        let options = Options {
            config_body: Some(format!("state_dir = {:?}", dir.path())),
            ..Options::default()
        };
        let sandbox = choose(dir.path(), "ns", "c", &options).unwrap();
        note(dir.path(), &sandbox).unwrap();
        assert_eq!(noted(dir.path(), "c"), sandbox);
        sandbox
    }

    fn joining(kind: &str, path: &str) -> Value {
        json!({"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": kind, "path": path}]}})
    }

    #[test]
    fn a_container_that_joins_anothers_namespace_joins_its_sandbox() {
        let own = std::process::id();
        assert_eq!(chosen(&joining("network", &format!("/proc/{own}/ns/net"))), "web");
        assert_eq!(chosen(&joining("pid", &format!("/proc/{own}/ns/pid"))), "web");
    }

    #[test]
    fn others_have_a_sandbox_of_their_own() {
        assert_eq!(chosen(&joining("network", "/proc/1/ns/net")), "c");
        assert_eq!(chosen(&joining("network", "/run/netns/x")), "c");
        assert_eq!(chosen(&json!({"ociVersion": "1.0.2"})), "c");
        assert_eq!(noted(Path::new("/nowhere"), "c"), "c");
    }

    #[test]
    fn annotations_go_first() {
        let mut spec = joining("network", &format!("/proc/{}/ns/net", std::process::id()));
        spec["annotations"] = json!({"io.kubernetes.cri.sandbox-id": "pod"});
        assert_eq!(chosen(&spec), "pod");
    }
}
