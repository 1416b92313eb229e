//! The file-sharing server: `bulkhead-fs`, one jailed process per sandbox.
//!
//! It serves one directory to one VMM over vhost-user, and ends when the VMM hangs up. Its socket is
//! connected here and has no name by the time anyone could look for it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

use crate::process::{FIRST_FREE_FD, Launch, Placement, ProcessError, ProcessHandle};

/// The program, beside the shim.
pub const PROGRAM: &str = "bulkhead-fs";
/// Where the server finds its listening socket.
pub const LISTENER_FD: i32 = FIRST_FREE_FD;
/// Where it keeps its copy of the lifecycle lock.
pub const LOCK_FD: i32 = FIRST_FREE_FD + 1;
/// Moving into a jail is a dozen system calls; all the rest of this is for a host under load.
const READY_DEADLINE: Duration = Duration::from_secs(10);

/// A line of its stderr that is logged in one piece.
const MAX_LINE: u64 = 4096;

/// What to serve.
#[derive(Debug)]
pub struct FsServerSpec {
    /// The program.
    pub program: PathBuf,
    /// The directory, absolute. A shared mount, so that what is mounted below it later appears.
    pub directory: PathBuf,
    /// An existing directory for the socket's moment on disk.
    pub socket_directory: PathBuf,
    /// Where the server belongs.
    pub placement: Placement,
    /// The lifecycle lock, see [`crate::vmm::VmSpec::lock`].
    pub lock: OwnedFd,
    /// Where its stderr goes. `None`: to the log, a warning a line.
    pub stderr: Option<OwnedFd>,
}

/// A running server.
#[derive(Debug)]
pub struct FsServer {
    /// Dropping it ends the server.
    pub process: ProcessHandle,
    /// The VMM's end of the vhost-user connection.
    pub socket: OwnedFd,
}

/// The server's configuration, as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub struct FsServerConfig {
    /// The directory to serve.
    pub directory: PathBuf,
    /// Where it belongs.
    pub placement: Placement,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum FsServerError {
    /// file-sharing server: {0}
    Process(#[from] ProcessError),
    /// cannot make the file-sharing server's socket: {0}
    Socket(io::Error),
    /// cannot write the file-sharing server's configuration: {0}
    Config(serde_json::Error),
}

/// Starts a server. Returns once it is jailed and about to accept the connection.
///
/// Dropping the future leaves nothing behind.
pub async fn start(spec: FsServerSpec) -> Result<FsServer, FsServerError> {
    let mut server = spawn(spec)?;
    ready(&mut server.process).await?;
    Ok(server)
}

/// Waits until a spawned server is jailed and about to accept the connection.
pub async fn ready(server: &mut ProcessHandle) -> Result<(), FsServerError> {
    server.ready(READY_DEADLINE).await?;
    Ok(())
}

/// Starts a server without waiting for it. Its socket can be used at once: whoever speaks first waits in it.
pub fn spawn(spec: FsServerSpec) -> Result<FsServer, FsServerError> {
    let (listener, socket) = connection(&spec.socket_directory).map_err(FsServerError::Socket)?;
    let config = FsServerConfig {
        directory: spec.directory,
        placement: spec.placement,
    };
    let stderr = match spec.stderr {
        Some(stderr) => stderr,
        None => log().map_err(FsServerError::Socket)?,
    };
    let launch = Launch::new(spec.program)
        .config(serde_json::to_vec(&config).map_err(FsServerError::Config)?)
        .watchdog()
        .reports()
        .pid_namespace()
        .descriptor(listener.into(), LISTENER_FD)
        .descriptor(spec.lock, LOCK_FD)
        .stderr(stderr);
    let process = launch.spawn()?;
    Ok(FsServer {
        process,
        socket: socket.into(),
    })
}

/// A pipe whose lines end up in the log.
fn log() -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut source = BufReader::new(pipe::Receiver::from_owned_fd(read)?);
    tokio::spawn(async move {
        let mut line = Vec::new();
        // What cannot be read any more cannot be logged either.
        while (&mut source)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
            .is_ok_and(|read| read > 0)
        {
            tracing::warn!("{}", String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    });
    Ok(write)
}

/// A listening socket with one connection waiting, and that connection.
fn connection(directory: &Path) -> io::Result<(UnixListener, UnixStream)> {
    // Through a descriptor: the directory's own path may be longer than a socket's address can be.
    let directory = fs::File::open(directory)?;
    let path = format!("/proc/self/fd/{}/fs.sock", directory.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path);
    fs::remove_file(&path)?;
    Ok((listener, stream?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_connection_waits_in_the_listener_and_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let (listener, mut ours) = connection(&deep).unwrap();
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
        ours.write_all(b"early").unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let mut said = [0; 5];
        theirs.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"early");
    }
}
