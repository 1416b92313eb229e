//! A logger for `binary://` log URIs, as containerd describes them: stdout of the container on fd 3,
//! stderr on fd 4, readiness told on fd 5. It writes both to the file that the URI's `file` names.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

fn main() -> io::Result<()> {
    // A shim that is done ends its logger with SIGTERM, then waits: what is in the pipes comes first.
    SigSet::from(Signal::SIGTERM).thread_block()?;
    let mut arguments = std::env::args().skip(1);
    let file = match (arguments.next().as_deref(), arguments.next()) {
        (Some("file"), Some(path)) => path,
        other => return Err(io::Error::other(format!("file PATH is wanted, not {other:?}"))),
    };
    let log = OpenOptions::new().create(true).append(true).open(file)?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    writeln!(
        &log,
        "id {} namespace {}",
        variable("CONTAINER_ID"),
        variable("CONTAINER_NAMESPACE")
    )?;
    let stdout = thread::spawn({
        let log = log.try_clone()?;
        move || copy("stdout", 3, log)
    });
    let stderr = thread::spawn({
        let log = log.try_clone()?;
        move || copy("stderr", 4, log)
    });
    // Opened anew and closed at once: the shim takes the byte or the end for readiness. The fd that
    // was inherited stays open, which an end-of-file alone would not survive.
    open_inherited(5, true)?.write_all(b"1")?;
    for copier in [stdout, stderr] {
        copier
            .join()
            .map_err(|_| io::Error::other("a copier panicked"))??;
    }
    writeln!(&log, "end")
}

fn copy(stream: &str, fd: u32, mut log: File) -> io::Result<()> {
    let mut text = String::new();
    open_inherited(fd, false)?.read_to_string(&mut text)?;
    // Written at once: the other stream's lines are not to come in between.
    let lines = text.lines().map(|line| format!("{stream}: {line}\n"));
    log.write_all(lines.collect::<String>().as_bytes())
}

/// The pipe behind an inherited fd, without `unsafe`: through /proc.
fn open_inherited(fd: u32, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(!write)
        .write(write)
        .open(format!("/proc/self/fd/{fd}"))
}
