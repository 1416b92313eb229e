//! The client's end of a process's standard streams: fifos, read by a thread each.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::deadline;

/// Which streams a process gets, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// Make a stdin fifo.
    pub stdin: bool,
    /// One terminal instead of separate streams.
    pub terminal: bool,
    /// Open the stdout fifo, and do not read it until [`Stdio::read_stdout`].
    pub unread_stdout: bool,
    /// Count the bytes of stdout, and do not keep them.
    pub count_stdout: bool,
}

/// The fifos of one process. They are removed when this is dropped.
pub struct Stdio {
    dir: PathBuf,
    /// Path of the stdin fifo, or empty.
    pub stdin_path: String,
    /// Path of the stdout fifo.
    pub stdout_path: String,
    /// Path of the stderr fifo, or empty with a terminal.
    pub stderr_path: String,
    writer: Option<File>,
    held: Option<File>,
    stdout: Captured,
    stderr: Captured,
}

/// What has been read from one fifo so far.
#[derive(Clone, Default)]
pub struct Captured {
    inner: Arc<(Mutex<Buffer>, Condvar)>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    counts_only: bool,
    ended: bool,
    abandoned: bool,
}

// === impl Stdio ===

impl Stdio {
    /// Makes the fifos in the new directory `dir` and begins to read.
    pub fn create(dir: &Path, request: Request) -> Stdio {
        std::fs::create_dir_all(dir).unwrap();
        let make = |name: &str| {
            let path = dir.join(name);
            mkfifo(&path, Mode::S_IRWXU).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            path.to_str().unwrap().to_owned()
        };
        let mut stdio = Stdio {
            dir: dir.to_owned(),
            stdin_path: if request.stdin {
                make("stdin")
            } else {
                String::new()
            },
            stdout_path: make("stdout"),
            stderr_path: if request.terminal {
                String::new()
            } else {
                make("stderr")
            },
            writer: None,
            held: None,
            stdout: Captured::default(),
            stderr: Captured::default(),
        };
        stdio.stdout.inner.0.lock().unwrap().counts_only = request.count_stdout;
        let stdout = open_reader(Path::new(&stdio.stdout_path));
        if request.unread_stdout {
            stdio.held = Some(stdout);
        } else {
            stdio.stdout.follow(stdout);
        }
        if stdio.stderr_path.is_empty() {
            stdio.stderr.end();
        } else {
            stdio.stderr.follow(open_reader(Path::new(&stdio.stderr_path)));
        }
        stdio
    }

    /// What stdout has given so far.
    pub fn stdout(&self) -> &Captured {
        &self.stdout
    }

    /// What stderr has given so far.
    pub fn stderr(&self) -> &Captured {
        &self.stderr
    }

    /// Begins to read a stdout that was left unread.
    pub fn read_stdout(&mut self) {
        self.stdout
            .follow(self.held.take().expect("stdout was left unread"));
    }

    /// Writes to stdin, waiting for the shim to have opened it.
    pub fn write(&mut self, bytes: &[u8]) {
        let path = PathBuf::from(&self.stdin_path);
        let writer = self.writer.get_or_insert_with(|| open_writer(&path));
        writer.write_all(bytes).expect("write to the stdin fifo");
    }

    /// Closes this end of stdin; the process sees the end only after CloseIO.
    pub fn close_writer(&mut self) {
        self.writer = None;
    }

    /// Stops reading and closes every end, as a client that goes away does. The fifos stay.
    pub fn detach(&mut self) {
        self.writer = None;
        self.held = None;
        for stream in [&self.stdout, &self.stderr] {
            stream.abandon();
        }
    }

    /// Opens the fifos again, as `ctr tasks attach` does; what is captured begins anew.
    pub fn attach(&mut self) {
        self.stdout = Captured::default();
        self.stdout.follow(open_reader(Path::new(&self.stdout_path)));
        if !self.stderr_path.is_empty() {
            self.stderr = Captured::default();
            self.stderr.follow(open_reader(Path::new(&self.stderr_path)));
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        self.detach();
        // The daemon's directory goes at the end of the run in any case.
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}

fn open_reader(path: &Path) -> File {
    // Non-blocking, or the open would wait for a writer that comes with Create.
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn open_writer(path: &Path) -> File {
    let open = |flags: OFlag| {
        OpenOptions::new()
            .write(true)
            .custom_flags(flags.bits())
            .open(path)
    };
    // A blocking open would hang for good where the shim fails to open its end.
    let probe = deadline::poll(
        format!("a reader of {}", path.display()),
        deadline::ORDINARY,
        || open(OFlag::O_NONBLOCK).ok(),
    );
    let writer = open(OFlag::empty()).expect("open a fifo that has a reader");
    drop(probe);
    writer
}

// === impl Buffer ===

impl Buffer {
    fn take(&mut self, chunk: &[u8]) {
        self.len += chunk.len();
        if !self.counts_only {
            self.bytes.extend_from_slice(chunk);
        }
    }
}

// === impl Captured ===

impl Captured {
    /// Everything until now.
    pub fn bytes(&self) -> Vec<u8> {
        self.inner.0.lock().unwrap().bytes.clone()
    }

    /// Everything until now, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// How many bytes until now.
    pub fn len(&self) -> usize {
        self.inner.0.lock().unwrap().len
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the text so far contains `needle`.
    #[track_caller]
    pub fn wait_for(&self, needle: &str) {
        let found = self.wait_until(deadline::ORDINARY, |buffer| {
            String::from_utf8_lossy(&buffer.bytes).contains(needle)
        });
        assert!(found, "{needle:?} not in output: {:?}", self.text());
    }

    /// Waits until that many bytes have come.
    #[track_caller]
    pub fn wait_for_length(&self, length: usize, limit: Duration) {
        assert!(
            self.has_length(length, limit),
            "{} of {length} bytes within {limit:?}",
            self.len()
        );
    }

    /// Whether that many bytes have come, or come within `limit`.
    pub fn has_length(&self, length: usize, limit: Duration) -> bool {
        self.wait_until(limit, |buffer| buffer.len >= length)
    }

    /// Waits for the end of the stream, and gives all of it.
    #[track_caller]
    pub fn to_end(&self, limit: Duration) -> Vec<u8> {
        let ended = self.wait_until(limit, |buffer| buffer.ended);
        assert!(
            ended,
            "the stream has not ended within {limit:?}; {} bytes so far",
            self.len()
        );
        self.bytes()
    }

    fn wait_until(&self, limit: Duration, mut done: impl FnMut(&Buffer) -> bool) -> bool {
        let (buffer, changed) = &*self.inner;
        let end = Instant::now() + deadline::scaled(limit);
        let mut buffer = buffer.lock().unwrap();
        while !done(&buffer) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            buffer = changed.wait_timeout(buffer, left).unwrap().0;
        }
        true
    }

    fn end(&self) {
        self.inner.0.lock().unwrap().ended = true;
        self.inner.1.notify_all();
    }

    fn abandon(&self) {
        self.inner.0.lock().unwrap().abandoned = true;
    }

    fn follow(&self, mut from: File) {
        // How soon a thread notices that nobody wants its output any more.
        const LOOK_UP: u16 = 50;
        let captured = self.clone();
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            loop {
                let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut fds, PollTimeout::from(LOOK_UP)).unwrap_or(0);
                let flags = fds[0].revents().unwrap_or(PollFlags::empty());
                if captured.inner.0.lock().unwrap().abandoned {
                    return;
                }
                if ready == 0 {
                    continue;
                }
                // A fifo reads as ended before its first writer came; poll says hang-up only after.
                match from.read(&mut chunk) {
                    Ok(0) if flags.contains(PollFlags::POLLHUP) => return captured.end(),
                    Ok(read) => {
                        captured.inner.0.lock().unwrap().take(&chunk[..read]);
                        captured.inner.1.notify_all();
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return captured.end(),
                }
            }
        });
    }
}
