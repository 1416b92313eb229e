//! `start`: find the server of a container's sandbox or fork one, and print its address.

pub mod daemon;
pub mod params;
pub mod reply;
pub mod sandbox;
pub mod socket;
pub mod spawn;

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use bulkhead_oci::group;
use displaydoc::Display;
use thiserror::Error;

use crate::args::Args;
use crate::handoff::Handoff;
use crate::messages::BootstrapParams;
use crate::options::{Decoded, Options};
use params::Params;
use reply::{Daemon, Reply};
use socket::Claim;

/// More than any options table; containerd's own shims read as much.
const MAX_STDIN: u64 = 10 << 20;
/// Part of the path of every bundle that the sandbox controller makes; task bundles have it not.
const SANDBOX_CONTROLLER: &str = "io.containerd.sandbox.controller.v1.shim";
/// slog's Debug; levels below are more verbose.
const LOG_LEVEL_DEBUG: i32 = -4;

/// Why `start` failed; one line, which containerd shows to the user.
#[derive(Debug, Display, Error)]
pub enum StartError {
    /// cannot {what}: {source}
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// container {0}
    Id(#[from] bulkhead_oci::IdError),
    /// namespace {0}
    Namespace(bulkhead_oci::IdError),
    /// {0}
    Group(#[from] group::GroupError),
    /// {0}
    Socket(#[from] socket::SocketError),
    /// {0}
    Spawn(#[from] spawn::SpawnError),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// Does `start` and returns what to print.
///
/// # Errors
/// What went wrong; no server and no socket are left then.
pub fn start(args: &Args) -> Result<Vec<u8>, StartError> {
    bulkhead_oci::validate_id(&args.id)?;
    bulkhead_oci::validate_id(&args.namespace).map_err(StartError::Namespace)?;
    let bundle = std::env::current_dir().map_err(failed("find the bundle"))?;
    let params = Params::decode(
        &read_stdin().map_err(failed("read stdin"))?,
        &args.id,
        &args.namespace,
    );
    let bootstrap = match &params {
        Params::Bootstrap(bootstrap) => Some(bootstrap.as_ref()),
        Params::Legacy(_) => None,
    };

    let decoded = Options::decode(params.options());
    let sandbox = sandbox::choose(&bundle, &args.namespace, &args.id, &decoded.options)?;
    // Before there is anything for `delete` to clean.
    sandbox::note(&bundle, &sandbox).map_err(failed("write the bundle's sandbox file"))?;
    decoded
        .options
        .store(&bundle)
        .map_err(failed("write the bundle's options.json"))?;
    let dir = socket_dir(bootstrap);
    let socket = socket::path(&dir, grpc_address(args, bootstrap), &args.namespace, &sandbox)?;
    let address = socket::address(&socket);
    if let Claim::Ours(listener) = socket::claim(&socket)? {
        let served = serve(args, decoded, bootstrap, &listener, &bundle, &sandbox, &socket);
        if let Err(error) = served {
            // The listener is ours alone: its server is dead. Whoever joined it meanwhile is refused.
            drop(fs::remove_file(&socket));
            return Err(error);
        }
    }
    // 1.6 and 1.7 have no other way to find the server after a restart.
    fs::write(bundle.join("address"), &address).map_err(failed("write the bundle's address file"))?;

    let mut daemon = Daemon {
        sends_params: bootstrap.is_some(),
        sets_max_version: std::env::var_os("MAX_SHIM_VERSION").is_some(),
        sandbox_controller: bundle.iter().any(|part| part == SANDBOX_CONTROLLER),
        major: None,
    };
    if daemon.is_ambiguous() {
        daemon.major = daemon::parents_major();
    }
    Ok(Reply::choose(daemon).encode(&address))
}

/// Writes a reply so that it is out when this returns.
///
/// # Errors
/// containerd does not listen.
pub fn print(reply: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(reply)?;
    stdout.flush()
}

fn serve(
    args: &Args,
    decoded: Decoded,
    bootstrap: Option<&BootstrapParams>,
    listener: &std::os::unix::net::UnixListener,
    bundle: &Path,
    sandbox: &str,
    socket: &Path,
) -> Result<(), StartError> {
    let mut warnings = decoded.warnings;
    warnings.extend(
        args.unknown
            .iter()
            .map(|flag| format!("unknown flag -{flag} ignored")),
    );

    // All three are inherited by the server, and by what it starts, from its first instruction on.
    if let Err(error) = spawn::adjust_oom_score() {
        warnings.push(format!("oom_score_adj not set: {error}"));
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        spawn::create_core_scheduling_group().map_err(failed("create a core scheduling group"))?;
    }
    if let Some(cgroup) = &decoded.options.shim_cgroup {
        spawn::join_cgroup(cgroup).map_err(failed("join shim_cgroup"))?;
    }

    let debug = args.debug || bootstrap.is_some_and(|params| params.log_level <= LOG_LEVEL_DEBUG);
    let handoff = Handoff {
        bundle: bundle.to_owned(),
        sandbox: sandbox.to_owned(),
        socket: socket.to_owned(),
        ttrpc_address: ttrpc_address(bootstrap),
        options: decoded.options,
        debug,
        warnings,
    };
    let pid = spawn::server(args, listener, handoff)?;
    fs::write(bundle.join("shim.pid"), pid.to_string()).map_err(failed("write the bundle's shim.pid"))
}

fn socket_dir(bootstrap: Option<&BootstrapParams>) -> PathBuf {
    bootstrap
        .and_then(|params| params.socket_dir.as_deref())
        .filter(|dir| !dir.is_empty())
        .unwrap_or(socket::DEFAULT_DIR)
        .into()
}

fn grpc_address<'a>(args: &'a Args, bootstrap: Option<&'a BootstrapParams>) -> &'a str {
    match bootstrap {
        Some(params) if !params.containerd_grpc_address.is_empty() => &params.containerd_grpc_address,
        _ => &args.address,
    }
}

fn ttrpc_address(bootstrap: Option<&BootstrapParams>) -> String {
    match bootstrap {
        Some(params) if !params.containerd_ttrpc_address.is_empty() => {
            params.containerd_ttrpc_address.clone()
        }
        _ => std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
    }
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let stdin = io::stdin().lock();
    let mut bytes = Vec::new();
    // By hand, from a terminal, there is nothing to wait for.
    if !stdin.is_terminal() {
        stdin.take(MAX_STDIN).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
