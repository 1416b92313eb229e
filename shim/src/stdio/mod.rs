//! A process's standard streams, between what the client named in its request and the guest.
//!
//! [`Stdio::open`] opens what the client named, before the guest is asked for anything;
//! [`Stdio::attach`] starts the copying once the guest has streams for it.

mod binary;
mod copy;
mod fifo;
mod file;
mod sink;
mod uri;

use std::io;
use std::path::{Path, PathBuf};

use bulkhead_runtime::sandbox::{StdioRequest, Streams};
use displaydoc::Display;
use thiserror::Error;

pub use copy::Copies;
use sink::Sink;
use uri::Target;

/// The stdio fields of a request, as the client wrote them. State repeats them, so that a client that
/// re-attaches finds its fifos.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Fifo, or empty.
    pub stdin: String,
    /// Fifo, URI, or empty.
    pub stdout: String,
    /// The same. Not used with a terminal.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

/// What the client named, opened.
#[derive(Debug)]
pub struct Stdio {
    stdin: Option<fifo::Place>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    logger: Option<binary::Logger>,
    terminal: bool,
}

/// Why a stream cannot be opened.
#[derive(Debug, Display, Error)]
pub enum StdioError {
    /// stdio {path}: {source}
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// stdio {0} is not a fifo
    NotFifo(PathBuf),
    /// unsupported scheme of stdio {0:?}: expected a fifo, file:///, binary:/// or binary-v2:///
    Scheme(String),
    /// stdio {0:?} is not an absolute path
    Relative(String),
    /// stdin {0:?} is not a fifo
    Stdin(String),
    /// logging program {0} ended before it was ready
    LoggerEnded(PathBuf),
    /// logging program {0} was not ready within 10 s
    LoggerNotReady(PathBuf),
}

impl StdioError {
    /// Whether the request itself is wrong.
    pub fn is_callers_fault(&self) -> bool {
        matches!(
            self,
            Self::NotFifo(_) | Self::Scheme(_) | Self::Relative(_) | Self::Stdin(_)
        )
    }

    /// Whether what was named does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound
            || source.raw_os_error() == Some(libc::ENXIO))
    }

    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Stdio {
    /// Opens everything that `paths` names. Never waits for a client; for a logging program, 10 s at most.
    ///
    /// # Errors
    /// Something is not there, or is not what it has to be. Nothing stays open then.
    pub async fn open(paths: &Paths, namespace: &str, container_id: &str) -> Result<Self, StdioError> {
        let stdin = match Target::parse(&paths.stdin)? {
            Target::Null => None,
            Target::Fifo(path) => Some(fifo::Place::find(&path)?),
            Target::File(_) | Target::Binary(_) => return Err(StdioError::Stdin(paths.stdin.clone())),
        };
        // With a terminal there is one output; the client may name a stderr it never makes.
        let wants_stderr = !paths.terminal && !paths.stderr.is_empty();
        let mut stdio = Self {
            stdin,
            stdout: None,
            stderr: None,
            logger: None,
            terminal: paths.terminal,
        };
        match Target::parse(&paths.stdout)? {
            Target::Null => {}
            Target::Binary(program) => {
                // One program takes both, whatever stderr says.
                let started = binary::start(&program, namespace, container_id).await?;
                stdio.stdout = Some(Sink::Pipe(started.stdout));
                stdio.stderr = (!paths.terminal).then_some(Sink::Pipe(started.stderr));
                stdio.logger = Some(started.logger);
                return Ok(stdio);
            }
            Target::Fifo(path) => {
                let output = fifo::Output::open(&path)?;
                if wants_stderr && paths.stderr == paths.stdout {
                    let second = output.duplicate().map_err(StdioError::at(&path))?;
                    stdio.stderr = Some(Sink::Fifo(second));
                }
                stdio.stdout = Some(Sink::Fifo(output));
            }
            Target::File(path) => stdio.stdout = Some(Sink::File(file::open(&path).await?)),
        }
        if wants_stderr && stdio.stderr.is_none() {
            stdio.stderr = match Target::parse(&paths.stderr)? {
                Target::Null => None,
                Target::Fifo(path) => Some(Sink::Fifo(fifo::Output::open(&path)?)),
                Target::File(path) => Some(Sink::File(file::open(&path).await?)),
                Target::Binary(_) => return Err(StdioError::Scheme(paths.stderr.clone())),
            };
        }
        Ok(stdio)
    }

    /// What the guest is to be asked for.
    pub fn request(&self) -> StdioRequest {
        StdioRequest {
            stdin: self.stdin.is_some(),
            stdout: self.stdout.is_some(),
            stderr: self.stderr.is_some(),
            terminal: self.terminal,
        }
    }

    /// Starts copying; input only once [`Copies::process_starts`] says so. `name` is the process's, for the log.
    pub fn attach(self, streams: Streams, name: &str) -> Copies {
        let mut copies = Copies::new(name, self.logger);
        if let (Some(sink), Some(reader)) = (self.stdout, streams.stdout) {
            copies.output("stdout", reader, sink);
        }
        if let (Some(sink), Some(reader)) = (self.stderr, streams.stderr) {
            copies.output("stderr", reader, sink);
        }
        if let (Some(place), Some(writer)) = (self.stdin, streams.stdin) {
            copies.input(place, writer);
        }
        copies
    }
}

#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod tests;
