//! `delete`: clean up after a server that is gone, from what is on disk. containerd gives it 5 s.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bulkhead_runtime::cleanup::{self, CleanupError};
use bulkhead_runtime::config::{CONFIG_PATH, Config};
use containerd_shim_protos::api::DeleteResponse;
use displaydoc::Display;
use protobuf::{Message, MessageField};
use thiserror::Error;

use crate::args::Args;
use crate::bootstrap::sandbox;
use crate::container::KILLED;
use crate::convert;
use crate::options::Options;

/// Why `delete` failed; one line, which containerd logs.
#[derive(Debug, Display, Error)]
pub enum DeleteError {
    /// container {0}
    Id(#[from] bulkhead_oci::IdError),
    /// namespace {0}
    Namespace(bulkhead_oci::IdError),
    /// cannot find the bundle: {0}
    Bundle(io::Error),
    /// {0}
    Cleanup(#[from] CleanupError),
    /// cannot encode the answer: {0}
    Encode(#[from] protobuf::Error),
}

/// Does `delete` and returns what to print. With nothing left to clean it does nothing, and answers the
/// same.
///
/// # Errors
/// Something of the container could not be removed.
pub fn delete(args: &Args) -> Result<Vec<u8>, DeleteError> {
    bulkhead_oci::validate_id(&args.id)?;
    bulkhead_oci::validate_id(&args.namespace).map_err(DeleteError::Namespace)?;
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(DeleteError::Bundle)?,
    };
    let pid = init_pid(&bundle);
    let sandbox = sandbox::noted(&bundle, &args.id);
    cleanup::container(
        &config(&bundle, &sandbox),
        &args.namespace,
        &sandbox,
        &args.id,
        &bundle,
    )?;
    remove_dead_socket(&bundle);
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: MessageField::some(convert::timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    };
    Ok(response.write_to_bytes()?)
}

/// The pid that Create answered; 0 if it never did.
fn init_pid(bundle: &Path) -> u32 {
    fs::read_to_string(bundle.join("init.pid"))
        .ok()
        .and_then(|pid| pid.trim().parse().ok())
        .unwrap_or(0)
}

/// The configuration that the server had. What cannot be read must not keep anything from being cleaned
/// up: the defaults are where most things are.
fn config(bundle: &Path, sandbox: &str) -> Config {
    let options = Options::load(bundle)
        .or_else(|| Options::load(&bundle.parent()?.join(sandbox)))
        .unwrap_or_default();
    options
        .config()
        .or_else(|_| Config::load(Path::new(CONFIG_PATH)))
        .unwrap_or_default()
}

/// Removes the server's socket, unless a server answers there: that of the other containers of a pod, or
/// a new one.
fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else {
        return;
    };
    let Some(path) = address.trim().strip_prefix("unix://").map(PathBuf::from) else {
        return;
    };
    if UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        // Somebody may have been faster.
        drop(fs::remove_file(path));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_bundle_says_the_pid_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(init_pid(dir.path()), 0);
        fs::write(dir.path().join("init.pid"), "42\n").unwrap();
        assert_eq!(init_pid(dir.path()), 42);
    }

    #[test]
    fn only_a_dead_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        fs::write(dir.path().join("address"), format!("unix://{}", path.display())).unwrap();
        remove_dead_socket(dir.path());
        assert!(path.exists());
        drop(listener);
        remove_dead_socket(dir.path());
        assert!(!path.exists());
    }
}
