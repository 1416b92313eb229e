//! Moves a process's streams between pipes (or a terminal) and the link.
//!
//! Each stream is a task of its own with at most one chunk in hand: it reads when the host has credit for
//! more, so a reader that stalls stalls the process writing to it and nothing else. An idle stream holds
//! no buffer.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use bulkhead_agent_protocol::link::{Link, LinkError, StreamReader, StreamWriter};
use bulkhead_agent_protocol::message::{FailureKind, Stdio};
use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Uid, fchown, pipe2, read, write};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::task::AbortHandle;

use crate::failure::Failure;
use crate::sys::watch::{Owner, watch};

/// Bytes read at once: a pipe's capacity, and the protocol's largest data frame.
const CHUNK: usize = 64 * 1024;

/// The streams of a process that is yet to be made.
pub struct Streams {
    stdin: Option<Input>,
    outputs: Vec<Output>,
    /// Input and output of the terminal, until it exists.
    terminal: Option<(Option<StreamReader>, Option<StreamWriter>)>,
}

/// What the process is given: standard input, output and error, or none of them with a terminal.
pub type ProcessEnds = Vec<OwnedFd>;

struct Input {
    pipe: pipe::Sender,
    stream: StreamReader,
}

struct Output {
    pipe: pipe::Receiver,
    stream: StreamWriter,
}

impl Streams {
    /// Makes the pipes that `stdio` asks for and opens their streams. Pipes belong to `uid`, so that the
    /// process may open /dev/stdout; an absent stream is /dev/null.
    ///
    /// # Errors
    /// `InvalidArgument` for streams that cannot be opened, `Other` for pipes.
    pub fn open(link: &Link, stdio: &Stdio, uid: u32) -> Result<(Self, ProcessEnds), Failure> {
        let reader = |id: Option<u32>| {
            id.map(|id| link.open_reader(id))
                .transpose()
                .map_err(|error| refused(&error))
        };
        let writer = |id: Option<u32>| {
            id.map(|id| link.open_writer(id))
                .transpose()
                .map_err(|error| refused(&error))
        };
        let (stdin, stdout, stderr) = (reader(stdio.stdin)?, writer(stdio.stdout)?, writer(stdio.stderr)?);
        if stdio.terminal {
            if stderr.is_some() {
                return Err(Failure::invalid("a terminal has no separate standard error"));
            }
            let terminal = Some((stdin, stdout));
            return Ok((
                Self {
                    stdin: None,
                    outputs: Vec::new(),
                    terminal,
                },
                Vec::new(),
            ));
        }
        let failed = |error: io::Error| Failure::os(FailureKind::Other, "make standard streams", &error);
        let mut ends = Vec::new();
        let mut input = None;
        match stdin {
            None => ends.push(null().map_err(failed)?),
            Some(stream) => {
                let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
                give_to(uid, &theirs).map_err(failed)?;
                ends.push(theirs);
                input = Some(Input {
                    pipe: pipe::Sender::from_owned_fd(ours).map_err(failed)?,
                    stream,
                });
            }
        }
        let mut outputs = Vec::new();
        for stream in [stdout, stderr] {
            match stream {
                None => ends.push(null().map_err(failed)?),
                Some(stream) => {
                    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
                    give_to(uid, &theirs).map_err(failed)?;
                    ends.push(theirs);
                    let pipe = pipe::Receiver::from_owned_fd(ours).map_err(failed)?;
                    outputs.push(Output { pipe, stream });
                }
            }
        }
        Ok((
            Self {
                stdin: input,
                outputs,
                terminal: None,
            },
            ends,
        ))
    }

    /// Starts moving bytes, once the process exists.
    ///
    /// # Errors
    /// `Pty` if its terminal cannot be used.
    pub fn start(self, master: Option<&Arc<OwnedFd>>) -> Result<Vec<AbortHandle>, Failure> {
        let mut tasks = Vec::new();
        if let Some((input, output)) = self.terminal {
            let failed = |error: io::Error| Failure::os(FailureKind::Pty, "use the terminal", &error);
            let master = master.ok_or_else(|| failed(Errno::ENOTTY.into()))?;
            fcntl(master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
                .map_err(|errno| failed(errno.into()))?;
            let both = Interest::READABLE | Interest::WRITABLE;
            let terminal = Arc::new(watch(Arc::clone(master), both).map_err(failed)?);
            if let Some(stream) = input {
                tasks.push(tokio::spawn(terminal_input(Arc::clone(&terminal), stream)).abort_handle());
            }
            tasks.push(tokio::spawn(terminal_output(terminal, output)).abort_handle());
        }
        if let Some(input) = self.stdin {
            tasks.push(tokio::spawn(pump_input(input)).abort_handle());
        }
        for output in self.outputs {
            tasks.push(tokio::spawn(pump_output(output)).abort_handle());
        }
        Ok(tasks)
    }
}

fn refused(error: &LinkError) -> Failure {
    Failure::invalid(format!("streams: {error}"))
}

/// Pipes are root's as they are made.
fn give_to(uid: u32, pipe: &OwnedFd) -> io::Result<()> {
    if uid == 0 {
        return Ok(());
    }
    Ok(fchown(pipe, Some(Uid::from_raw(uid)), None)?)
}

fn null() -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/null")?;
    Ok(file.into())
}

/// Host to process. The stream's end closes the pipe; a process that no longer reads resets the stream
/// (by dropping it), which is nobody's failure.
async fn pump_input(Input { mut pipe, mut stream }: Input) {
    while let Ok(Some(bytes)) = stream.read().await {
        if pipe.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Process to host, until nobody holds the pipe's other end: that may be long after the process. When the
/// host gives the stream up, the rest is discarded: a lost log must not kill the process that writes it.
async fn pump_output(Output { pipe, stream }: Output) {
    let mut stream = Some(stream);
    loop {
        let ready = pipe.readable().await;
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match ready.and_then(|()| pipe.try_read_buf(&mut buffer)) {
            Ok(0) => break,
            Ok(_) => {
                let Some(writer) = &mut stream else { continue };
                if writer.write(chunk(buffer)).await.is_err() {
                    stream = None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    if let Some(stream) = stream {
        // The link is gone if this fails, and the reader with it.
        let _ = stream.end().await;
    }
}

/// A small read is copied so that it does not keep a whole buffer alive while it waits for credit.
fn chunk(buffer: BytesMut) -> Bytes {
    if buffer.len() < CHUNK / 4 {
        Bytes::copy_from_slice(&buffer)
    } else {
        buffer.freeze()
    }
}

/// The master of a terminal, which the input, the output and resizing share.
type Terminal = Arc<AsyncFd<Owner<Arc<OwnedFd>>>>;

async fn terminal_input(terminal: Terminal, mut stream: StreamReader) {
    // Its end changes nothing: a terminal is not closed by one of its writers.
    while let Ok(Some(mut bytes)) = stream.read().await {
        while !bytes.is_empty() {
            let written = terminal
                .async_io(Interest::WRITABLE, |fd| Ok(write(fd.0.as_fd(), &bytes)?))
                .await;
            match written {
                Ok(count) => drop(bytes.split_to(count)),
                Err(_) => return,
            }
        }
    }
}

/// Reads until the last process has closed the terminal, which is EIO. Without a stream the bytes are
/// discarded: a full terminal would stop the process.
async fn terminal_output(terminal: Terminal, mut stream: Option<StreamWriter>) {
    loop {
        let mut buffer = [0; 4096];
        let received = terminal
            .async_io(Interest::READABLE, |fd| Ok(read(fd.0.as_fd(), &mut buffer)?))
            .await;
        match received {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                let Some(writer) = &mut stream else { continue };
                if writer
                    .write(Bytes::copy_from_slice(&buffer[..count]))
                    .await
                    .is_err()
                {
                    stream = None;
                }
            }
        }
    }
    if let Some(stream) = stream {
        // The link is gone if this fails, and the reader with it.
        let _ = stream.end().await;
    }
}
