//! The shim's log: logrus text, one write per line, to the fifo `log` of the bundle, from where containerd
//! copies it to its own stderr.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Longest line: a pipe takes so much in one piece (`PIPE_BUF`), or not at all.
const MAX_LINE: usize = 4096;

/// Where lines go. A line that cannot be written at once is dropped and counted: nobody waits for a log.
#[derive(Debug, Clone)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    dropped: AtomicU64,
}

impl Log {
    /// Opens the fifo (or file) at `path`. It is opened for reading too, so that writing never fails for
    /// want of a reader: while containerd is down the pipe fills, and what does not fit is dropped.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .append(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Self(Arc::new(Inner {
            file,
            dropped: AtomicU64::new(0),
        })))
    }

    /// Makes this log the process's stdout and stderr, so that whatever is printed there, a panic above
    /// all, reaches containerd's log.
    ///
    /// # Errors
    /// The descriptors cannot be replaced.
    pub fn take_over_stdio(&self) -> io::Result<()> {
        nix::unistd::dup2_stdout(self.0.file.as_fd())?;
        nix::unistd::dup2_stderr(self.0.file.as_fd())?;
        Ok(())
    }

    /// Sends this process's traces and panics here.
    pub fn install(self, debug: bool) {
        let level = if debug { Level::DEBUG } else { Level::INFO };
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(self)
            .event_format(Logrus)
            .finish();
        // A second call, which only tests make, keeps the first log.
        drop(tracing::subscriber::set_global_default(subscriber));
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dropped = self.0.dropped.swap(0, Ordering::Relaxed);
        let mut file = &self.0.file;
        let written = if dropped == 0 {
            file.write(line)
        } else {
            let note = format!("level=warning msg=\"{dropped} lines of this log were dropped\"\n");
            file.write(&[note.as_bytes(), line].concat())
        };
        if written.is_err() {
            self.0.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `time="…" level=info msg="…" key=value`.
struct Logrus;

impl<S, N> FormatEvent<S, N> for Logrus
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .map_err(|_| fmt::Error)?;
        writer.write_str(&line(&now, *event.metadata().level(), &fields))
    }
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.take(field.name(), &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value);
    }
}

impl Fields {
    fn take(&mut self, name: &str, value: &str) {
        if name == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.rest.push(' ');
            self.rest.push_str(name);
            self.rest.push('=');
            self.rest.push_str(&quoted_if_needed(value));
        }
    }
}

/// One line. Its end may be cut off, never its form: newlines and control characters are escaped, since
/// part of a message may be a guest's.
fn line(now: &str, level: Level, fields: &Fields) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let mut line = format!(
        "time=\"{now}\" level={level} msg={:?}{}",
        fields.message, fields.rest
    );
    if line.len() >= MAX_LINE {
        let mut end = MAX_LINE - 1;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
    }
    line.push('\n');
    line
}

fn quoted_if_needed(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::FileTypeExt;

    use super::*;

    fn fields(message: &str, pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        fields.take("message", message);
        for (name, value) in pairs {
            fields.take(name, value);
        }
        fields
    }

    #[test]
    fn lines_look_like_logrus() {
        let fields = fields("vm booted", &[("id", "web-1"), ("error", "no such \"file\"")]);
        assert_eq!(
            line("2026-01-02T03:04:05Z", Level::WARN, &fields),
            "time=\"2026-01-02T03:04:05Z\" level=warning msg=\"vm booted\" id=web-1 \
             error=\"no such \\\"file\\\"\"\n"
        );
    }

    #[test]
    fn a_guests_text_cannot_break_a_line() {
        let text = line(
            "now",
            Level::INFO,
            &fields("a\nlevel=fatal\u{1b}[2J", &[("x", "\r\n")]),
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains('\u{1b}'));
        assert!(line("now", Level::INFO, &fields(&"é".repeat(5000), &[])).len() <= MAX_LINE);
    }

    #[test]
    fn a_full_pipe_drops_lines_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(std::fs::metadata(&path).unwrap().file_type().is_fifo());
        let mut log = Log::open(&path).unwrap();
        let line = [b'x'; MAX_LINE];
        for _ in 0..20 {
            assert_eq!(log.write(&line).unwrap(), MAX_LINE, "a pipe holds 16 such lines");
        }
        let mut reader = File::open(&path).unwrap();
        let mut buffer = vec![0; 16 * MAX_LINE];
        reader.read_exact(&mut buffer).unwrap();
        log.write_all(b"last\n").unwrap();
        let read = reader.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..read]);
        assert!(
            text.contains("4 lines of this log were dropped") && text.ends_with("last\n"),
            "{text}"
        );
    }
}
