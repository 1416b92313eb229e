//! What the guest's kernel and the VMM say: kept in memory to quote, and logged to a bounded file.
//!
//! Bytes are kept as they come: escape sequences are the reader's to interpret.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// The log and its one predecessor may be this large each: a guest that floods its console costs 8 MiB.
const MAX_LOG: u64 = 4 << 20;
/// How much of the end stays in memory: a panic with its registers and back trace is under 8 KiB.
const KEPT: usize = 64 << 10;
/// One read. A pipe holds 64 KiB; the console is slow, so less is enough.
const CHUNK: usize = 4 << 10;
/// How long a process that holds the pipe open may delay the quote of what it said.
const SETTLE: Duration = Duration::from_millis(500);

/// The collected output. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<Mutex<Kept>>,
    /// Number of sources still open.
    open: watch::Sender<usize>,
}

#[derive(Debug)]
struct Kept {
    tail: VecDeque<u8>,
    log: RotatingLog,
}

/// A file that makes room by becoming its own predecessor, `<name>.1`.
#[derive(Debug)]
struct RotatingLog {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    limit: u64,
}

impl Console {
    /// Logs to `path`, which is made anew with mode 0600.
    pub fn create(path: &Path) -> io::Result<Self> {
        let log = RotatingLog::create(path, MAX_LOG)?;
        let kept = Kept {
            tail: VecDeque::new(),
            log,
        };
        Ok(Self {
            shared: Arc::new(Mutex::new(kept)),
            open: watch::Sender::new(0),
        })
    }

    /// Collects what comes out of `pipe` until its end. Needs a tokio runtime.
    pub fn collect(&self, pipe: OwnedFd) -> io::Result<()> {
        let mut source = pipe::Receiver::from_owned_fd(pipe)?;
        let console = self.clone();
        console.open.send_modify(|open| *open += 1);
        tokio::spawn(async move {
            let mut chunk = vec![0; CHUNK];
            loop {
                match source.read(&mut chunk).await {
                    Ok(0) => break,
                    Ok(length) => console.write(&chunk[..length]),
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the guest's console");
                        break;
                    }
                }
            }
            console.open.send_modify(|open| *open -= 1);
        });
        Ok(())
    }

    /// Waits, for a moment at most, until every source has ended: then nothing more will come.
    pub async fn settled(&self) {
        let mut open = self.open.subscribe();
        // Too late is as good as never here: whatever has come by then is quoted.
        tokio::time::timeout(SETTLE, open.wait_for(|open| *open == 0))
            .await
            .map(drop)
            .ok();
    }

    /// The last `count` lines that hold anything, without control characters, oldest first.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = self.tail();
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().map(printable).filter(|line| !line.is_empty());
        let mut lines: Vec<_> = lines.collect();
        lines.split_off(lines.len().saturating_sub(count))
    }

    /// The last 64 KiB, raw.
    pub fn tail(&self) -> Vec<u8> {
        self.lock().tail.iter().copied().collect()
    }

    fn write(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        kept.tail.extend(bytes);
        let excess = kept.tail.len().saturating_sub(KEPT);
        kept.tail.drain(..excess);
        kept.log.write(bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line fit for an error message.
fn printable(line: &str) -> String {
    line.chars()
        .filter(|char| !char.is_control())
        .collect::<String>()
        .trim()
        .to_owned()
}

impl RotatingLog {
    fn create(path: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Some(create(path)?),
            size: 0,
            limit,
        })
    }

    /// A log that cannot be written is given up, once: the sandbox goes on without it.
    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_write(bytes) {
            tracing::warn!(path = %self.path.display(), %error, "console log given up");
            self.file = None;
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if self.size + bytes.len() as u64 > self.limit {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            *file = create(&self.path)?;
            self.size = 0;
        }
        file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(directory: &Path) -> Console {
        Console::create(&directory.join("console.log")).unwrap()
    }

    #[tokio::test]
    async fn output_is_logged_as_it_comes_and_quoted_without_control_characters() {
        let directory = tempfile::tempdir().unwrap();
        let console = console(directory.path());
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        console.collect(read).unwrap();
        let said = b"\x1b[1mone\x1b[0m\r\n\r\ntwo\xff\r\nthree";
        File::from(write).write_all(said).unwrap();
        console.settled().await;
        assert_eq!(std::fs::read(directory.path().join("console.log")).unwrap(), said);
        assert_eq!(console.last_lines(2), ["two\u{fffd}", "three"]);
        assert_eq!(console.last_lines(9)[0], "[1mone[0m");
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let console = console(directory.path());
        for number in 0..20_000 {
            console.write(format!("line {number}\n").as_bytes());
        }
        assert_eq!(console.tail().len(), KEPT);
        assert_eq!(console.last_lines(1), ["line 19999"]);
    }

    #[test]
    fn the_log_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = RotatingLog::create(&path, 10).unwrap();
        for part in ["12345", "67890", "abc", "defghijk"] {
            log.write(part.as_bytes());
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "defghijk");
        assert_eq!(
            std::fs::read_to_string(directory.path().join("log.1")).unwrap(),
            "abc"
        );
    }

    #[test]
    fn a_log_that_cannot_be_rotated_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = RotatingLog::create(&path, 4).unwrap();
        log.write(b"1234");
        std::fs::remove_file(&path).unwrap();
        log.write(b"5678");
        assert!(log.file.is_none());
    }
}
