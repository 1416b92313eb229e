//! Finds out why the library could not create a container.
//!
//! Its errors cross two forks as text without their causes, but it logs each failure where it happens.
//! A worker therefore records the library's error events (and how many mounts it has begun) in a pipe
//! that its forks inherit, and reads it back when `build` fails.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::exec::bad_cwd;
use crate::failure::{Failure, OsError};

/// Longest text of one event in bytes; below `PIPE_BUF` with the rest, so that events of several
/// processes do not mix.
const MAX_EVENT: usize = 2048;

/// Where the library says that it begins a mount.
const MOUNT_TARGET: &str = "libcontainer::rootfs::mount";

/// What is in the pipe, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    /// The library began its next mount.
    Mounting,
    /// The library's words and the fields it logged with them.
    Event(String),
    /// Our own code in init knows the reason exactly.
    Failure(Failure),
}

/// A recording in progress.
pub struct Diagnosis {
    reader: OwnedFd,
    writer: OwnedFd,
}

struct Recorder {
    pipe: RawFd,
}

struct Text(String);

impl Diagnosis {
    /// Records what the library logs in this process and its forks from now on.
    ///
    /// # Errors
    /// As `pipe2(2)`.
    pub fn start() -> Result<Self, Failure> {
        // Never waits: what does not fit is lost, and what happened first is what we look for.
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(|errno| Failure::os(FailureKind::Other, "make diagnosis pipe", &errno))?;
        // A worker does one job, so no other subscriber can be there.
        let _ = tracing::subscriber::set_global_default(Recorder {
            pipe: writer.as_raw_fd(),
        });
        Ok(Self { reader, writer })
    }

    /// Where [`Diagnosis::record_failure`] writes.
    pub fn fd(&self) -> RawFd {
        self.writer.as_raw_fd()
    }

    /// Records a reason that needs no interpretation.
    pub fn record_failure(pipe: RawFd, failure: &Failure) {
        write(pipe, &Entry::Failure(failure.clone()));
    }

    /// What was recorded, as the failure to report for the library's `error`.
    pub fn explain(self, spec: &Spec, error: &dyn std::error::Error) -> Failure {
        drop(self.writer);
        let mut text = String::new();
        // The pipe does not block; whatever was read before an error is what there is.
        let _ = File::from(self.reader).read_to_string(&mut text);
        let entries: Vec<Entry> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        interpret(spec, &entries, &words_of(error))
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = *metadata.level();
        level == Level::ERROR || (level == Level::DEBUG && metadata.target() == MOUNT_TARGET)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        if *event.metadata().level() == Level::ERROR {
            write(self.pipe, &Entry::Event(text.0));
        } else if text.0.starts_with("mounting ") {
            write(self.pipe, &Entry::Mounting);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.0.len() > MAX_EVENT {
            return;
        }
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        let mut end = self.0.len().min(MAX_EVENT);
        while !self.0.is_char_boundary(end) {
            end -= 1;
        }
        self.0.truncate(end);
    }
}

fn write(pipe: RawFd, entry: &Entry) {
    if let Ok(mut line) = serde_json::to_vec(entry) {
        line.push(b'\n');
        // The pipe is open for as long as the worker and its forks are; a full pipe loses the line.
        let Ok(copy) = crate::sys::duplicate(pipe) else {
            return;
        };
        let _ = File::from(copy).write_all(&line);
    }
}

/// An error and its causes.
fn words_of(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

fn interpret(spec: &Spec, entries: &[Entry], library_words: &str) -> Failure {
    let exact = entries.iter().find_map(|entry| match entry {
        Entry::Failure(failure) => Some(failure.clone()),
        _ => None,
    });
    if let Some(failure) = exact {
        return failure;
    }
    // The first event is where it happened; later ones are callers passing it on.
    let event = entries.iter().find_map(|entry| match entry {
        Entry::Event(text) => Some(text.as_str()),
        _ => None,
    });
    let all: String = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Event(text) => Some(text.as_str()),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join("; ");
    let errno = find_errno(&all).or_else(|| find_errno(library_words));
    let first = event.unwrap_or(library_words);
    if all.contains("failed to chdir") || all.contains("failed to verify cwd") {
        let cwd = spec
            .process()
            .as_ref()
            .map_or(Path::new("/"), |process| process.cwd());
        return bad_cwd(cwd, errno.unwrap_or(Errno::ENOENT));
    }
    if all.contains("failed to prepare rootfs") {
        return mount_failure(spec, entries, first, errno);
    }
    let kind = kind_of(&all);
    let message = match errno {
        Some(errno) if !first.contains(errno.desc()) => format!("{first}: {}", errno.words()),
        _ => first.to_owned(),
    };
    Failure::new(kind, "create", message).with_errno(errno.map_or(0, |errno| errno as i32))
}

/// The mount that was begun last is the one that failed, unless devices were being made by then.
fn mount_failure(spec: &Spec, entries: &[Entry], first: &str, errno: Option<Errno>) -> Failure {
    let begun = entries
        .iter()
        .filter(|entry| matches!(entry, Entry::Mounting))
        .count();
    let mount = begun
        .checked_sub(1)
        .and_then(|index| spec.mounts().as_ref()?.get(index));
    let reason = errno.map_or_else(|| first.to_owned(), |errno| errno.words());
    let device = first.contains("dev ") || first.contains("device") || first.contains("symlink");
    let message = match mount {
        Some(mount) if !device => {
            let source = mount.source().as_deref().unwrap_or(Path::new("none"));
            let destination = mount.destination();
            format!("error mounting {source:?} to rootfs at {destination:?}: {reason}")
        }
        _ => format!("error preparing rootfs: {first}: {reason}"),
    };
    Failure::new(FailureKind::Mount, "mount", message).with_errno(errno.map_or(0, |errno| errno as i32))
}

/// By what the library's log says, most specific first.
fn kind_of(events: &str) -> FailureKind {
    const SIGNS: [(&str, FailureKind); 11] = [
        ("rlimit", FailureKind::ResourceLimit),
        ("uid", FailureKind::UserSetup),
        ("gid", FailureKind::UserSetup),
        ("capabilities", FailureKind::UserSetup),
        ("cgroup", FailureKind::Cgroup),
        ("tty", FailureKind::Pty),
        ("console", FailureKind::Pty),
        ("mount", FailureKind::Mount),
        ("path as", FailureKind::Mount),
        ("pivot", FailureKind::Mount),
        ("rootfs", FailureKind::Mount),
    ];
    SIGNS
        .iter()
        .find(|(sign, _)| events.contains(sign))
        .map_or(FailureKind::Other, |(_, kind)| *kind)
}

/// The first errno named in `text`, as Rust's debug output writes it: `ENOENT`, or `code: 2`.
fn find_errno(text: &str) -> Option<Errno> {
    /// Past the last errno of Linux.
    const END: i32 = 134;
    let by_code = text.split("code: ").nth(1).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().map(Errno::from_raw)
    });
    let by_name = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() > 2 && word.starts_with('E'))
        .find_map(|word| {
            (1..END)
                .map(Errno::from_raw)
                .find(|errno| format!("{errno:?}") == word)
        });
    by_name.or(by_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{MountBuilder, ProcessBuilder, SpecBuilder};

    fn spec() -> Spec {
        let mount = |destination: &str| {
            MountBuilder::default()
                .source("/run/share/x")
                .destination(destination)
                .build()
                .unwrap()
        };
        SpecBuilder::default()
            .process(ProcessBuilder::default().cwd("/nope").build().unwrap())
            .mounts(vec![mount("/proc"), mount("/data")])
            .build()
            .unwrap()
    }

    #[test]
    fn an_exact_failure_wins() {
        let exact = Failure::new(
            FailureKind::ExecutableNotFound,
            "find program",
            "exec: \"x\": not found",
        );
        let entries = [
            Entry::Event("failed to chdir".into()),
            Entry::Failure(exact.clone()),
        ];
        assert_eq!(interpret(&spec(), &entries, "whatever"), exact);
    }

    #[test]
    fn a_bad_directory_is_told_in_runcs_words() {
        let entries = [Entry::Event("failed to chdir e=ENOENT".into())];
        let failure = interpret(&spec(), &entries, "failed to unix syscall");
        assert_eq!(failure.kind(), FailureKind::BadCwd);
        assert_eq!(
            failure.message,
            r#"chdir to cwd ("/nope") set in config.json failed: no such file or directory"#
        );
    }

    #[test]
    fn the_mount_that_failed_is_named() {
        let entries = [
            Entry::Mounting,
            Entry::Mounting,
            Entry::Event(r#"failed to prepare rootfs err=Mount(Syscall(Nix(EINVAL)))"#.into()),
        ];
        let failure = interpret(&spec(), &entries, "failed to prepare rootfs");
        assert_eq!(failure.kind(), FailureKind::Mount);
        assert_eq!(failure.errno, libc::EINVAL);
        assert_eq!(
            failure.message,
            r#"error mounting "/run/share/x" to rootfs at "/data": invalid argument"#
        );
    }

    #[test]
    fn errnos_are_found_by_name_and_by_code() {
        assert_eq!(find_errno("SyscallOther(Nix(EPERM))"), Some(Errno::EPERM));
        assert_eq!(
            find_errno("Os { code: 20, kind: NotADirectory }"),
            Some(Errno::ENOTDIR)
        );
        assert_eq!(find_errno("Error EX"), None);
    }

    #[test]
    fn without_events_the_librarys_words_are_told() {
        let failure = interpret(&spec(), &[], "io error: No space");
        assert_eq!(
            (failure.message.as_str(), failure.kind()),
            ("io error: No space", FailureKind::Other)
        );
    }
}
