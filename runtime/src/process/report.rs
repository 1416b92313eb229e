//! What a helper tells its owner, one JSON value a line, over a pipe of its own.

use std::io;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

/// A helper's report is a line of at most this many bytes: an error text of 4 KiB, escaped, fits.
const MAX_LINE: u64 = 16 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The helper does its work now; with the number of the process it started for it, if it did.
    Ready {
        /// The grandchild.
        child: Option<u32>,
    },
    /// It could not start; it exits now.
    Failed {
        /// Why, for people.
        message: String,
    },
    /// It no longer watches its owner.
    Detached,
}

impl Report {
    /// Writes one line; for helpers.
    pub fn write_to(&self, pipe: impl AsFd) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        // Shorter than PIPE_BUF or the pipe's only writer: a short write would need a full pipe.
        let written = rustix::io::write(pipe, &line)?;
        if written == line.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

/// The owner's end.
#[derive(Debug)]
pub(super) struct Reports(BufReader<pipe::Receiver>);

impl Reports {
    pub(super) fn new(pipe: std::os::fd::OwnedFd) -> io::Result<Self> {
        Ok(Self(BufReader::new(pipe::Receiver::from_owned_fd(pipe)?)))
    }

    /// The next line; `None` when the helper closed its end, which it does by exiting.
    pub(super) async fn next(&mut self) -> io::Result<Option<Report>> {
        let mut line = Vec::new();
        (&mut self.0).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}
