//! Running a host command to its end, with its output and a deadline.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::deadline;

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to stdout.
    pub stdout: Vec<u8>,
    /// All it wrote to stderr.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stderr as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs `command` with `stdin` as its input. Kills it and panics when `limit` has passed.
#[track_caller]
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Output {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    finish(child, stdin, limit, command)
}

/// Like [`run`], and panics unless the command succeeds.
#[track_caller]
pub fn succeed(command: &mut Command, limit: Duration) -> Output {
    let output = run(command, b"", limit);
    assert!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        output.text(),
        output.error_text()
    );
    output
}

#[track_caller]
fn finish(mut child: Child, stdin: &[u8], limit: Duration, command: &Command) -> Output {
    let mut input = child.stdin.take().expect("stdin is piped");
    let stdin = stdin.to_vec();
    // A command that ends before it has read its input is not an error of the input's writer.
    let writer = thread::spawn(move || input.write_all(&stdin).is_ok());
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let Some(status) = deadline::try_poll(limit, || child.try_wait().expect("wait for a child")) else {
        let killed = child.kill().and_then(|()| child.wait());
        panic!("{command:?}: still running after {limit:?}; killed: {killed:?}");
    };
    drop(writer);
    Output {
        status,
        stdout: stdout.join().expect("reader"),
        stderr: stderr.join().expect("reader"),
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What arrived before an error is still the answer; the exit status tells the rest.
        if let Err(error) = from.read_to_end(&mut bytes) {
            bytes.extend_from_slice(format!("[read error: {error}]").as_bytes());
        }
        bytes
    })
}
