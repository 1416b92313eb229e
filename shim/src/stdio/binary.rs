//! `binary://`: output goes to a program on the host, one per process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::StdioError;
use super::uri::Binary;

/// How long a program may take until it is ready; then Create fails.
const READY_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take to write down what it has, once its input has ended, before it is asked to end.
const FLUSH_GRACE: Duration = Duration::from_secs(2);
/// From asking it to end until it is killed; runc's shim waits as long.
const TERM_GRACE: Duration = Duration::from_secs(12);
/// Fds are first moved above the fixed numbers 3, 4 and 5, so that none overwrites another.
const ABOVE_FIXED: RawFd = 10;

/// A running logging program.
#[derive(Debug)]
pub struct Logger {
    child: Child,
    path: std::path::PathBuf,
}

/// The program and our ends of its pipes.
#[derive(Debug)]
pub struct Started {
    /// It.
    pub logger: Logger,
    /// Its fd 3.
    pub stdout: pipe::Sender,
    /// Its fd 4.
    pub stderr: pipe::Sender,
}

/// Starts the program and waits until it is ready.
///
/// # Errors
/// It cannot be started, ends, or is not ready in time; then it has been killed.
pub async fn start(binary: &Binary, namespace: &str, container_id: &str) -> Result<Started, StdioError> {
    let at = || StdioError::at(&binary.path);
    let (stdout_read, stdout) = make_pipe().map_err(at())?;
    let (stderr_read, stderr) = make_pipe().map_err(at())?;
    let (ready, ready_write) = make_pipe().map_err(at())?;
    let fds = [stdout_read, stderr_read, ready_write];

    let mut command = Command::new(&binary.path);
    command
        .args(&binary.args)
        .env_clear()
        .env("CONTAINER_ID", container_id)
        .env("CONTAINER_NAMESPACE", namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    pass_fds(
        &mut command,
        [fds[0].as_raw_fd(), fds[1].as_raw_fd(), fds[2].as_raw_fd()],
    );
    let child = command.spawn().map_err(at())?;
    drop((command, fds));

    let ready = pipe::Receiver::from_owned_fd_unchecked(nonblocking(ready).map_err(at())?).map_err(at())?;
    let logger = Logger {
        child,
        path: binary.path.clone(),
    };
    await_ready(ready, binary).await?;
    let sender = |fd| {
        nonblocking(fd)
            .and_then(pipe::Sender::from_owned_fd_unchecked)
            .map_err(at())
    };
    Ok(Started {
        logger,
        stdout: sender(stdout)?,
        stderr: sender(stderr)?,
    })
}

async fn await_ready(mut ready: pipe::Receiver, binary: &Binary) -> Result<(), StdioError> {
    let read = timeout(READY_DEADLINE, ready.read_u8()).await;
    match read {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) if !binary.must_confirm => Ok(()),
        Ok(Err(_)) => Err(StdioError::LoggerEnded(binary.path.clone())),
        Err(_) => Err(StdioError::LoggerNotReady(binary.path.clone())),
    }
}

impl Logger {
    /// Sees the program off once its input has ended. Returns when it has ended by itself, or after a
    /// short while; what then still runs is asked to end, and killed if it does not, in the background.
    pub async fn finish(mut self) {
        if timeout(FLUSH_GRACE, self.child.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(program = %self.path.display(), "logging program still runs, asking it to end");
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // Not reaped yet, so the pid is its own and the signal arrives.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        tokio::spawn(async move {
            if timeout(TERM_GRACE, self.child.wait()).await.is_err() {
                tracing::warn!(program = %self.path.display(), "logging program killed");
                drop(self.child.kill().await);
            }
        });
    }
}

fn make_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((above_fixed(&read)?, above_fixed(&write)?))
}

fn above_fixed(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(ABOVE_FIXED))?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd)
}

fn pass_fds(command: &mut Command, fds: [RawFd; 3]) {
    let in_child = move || {
        for (from, to) in fds.into_iter().zip(3..) {
            // SAFETY: dup2 of integers; `to` is no descriptor that anything in this child uses.
            #[allow(unsafe_code)]
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it only calls dup2, which is async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(in_child);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn script(dir: &Path, body: &str) -> Binary {
        let path = dir.join("logger");
        std::fs::write(&path, format!("#!/bin/bash\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Binary {
            path,
            args: vec!["key".into(), "value".into()],
            must_confirm: false,
        }
    }

    #[tokio::test]
    async fn the_program_gets_pipes_arguments_and_two_variables() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let binary = script(
            dir.path(),
            &format!(
                "/usr/bin/env > {0}; echo $@ >> {0}; echo >&5; exec 5>&-; /bin/cat <&3 >> {0}; /bin/cat <&4 >> {0}",
                out.display()
            ),
        );
        let mut started = start(&binary, "ns", "c1").await.unwrap();
        started.stdout.write_all(b"to stdout\n").await.unwrap();
        started.stderr.write_all(b"to stderr\n").await.unwrap();
        drop((started.stdout, started.stderr));
        started.logger.finish().await;
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.ends_with("key value\nto stdout\nto stderr\n"), "{text}");
        // Beside what bash itself sets.
        let variables: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("CONTAINER"))
            .collect();
        assert_eq!(variables.len(), 2, "{text}");
        assert!(variables.contains(&"CONTAINER_ID=c1") && variables.contains(&"CONTAINER_NAMESPACE=ns"));
        assert!(!text.contains("HOME="), "{text}");
    }

    #[tokio::test]
    async fn f21_a_program_that_dies_or_does_not_exist_fails_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut binary = script(dir.path(), "exit 1");
        binary.must_confirm = true;
        let error = start(&binary, "ns", "c1").await.unwrap_err();
        assert!(matches!(error, StdioError::LoggerEnded(_)), "{error}");
        binary.path = dir.path().join("missing");
        assert!(start(&binary, "ns", "c1").await.unwrap_err().is_not_found());
    }
}
