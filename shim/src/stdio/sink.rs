//! Where a process's output goes.

use std::io;

use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use super::fifo;

/// One output.
#[derive(Debug)]
pub enum Sink {
    /// The client's fifo.
    Fifo(fifo::Output),
    /// A logging program's pipe.
    Pipe(pipe::Sender),
    /// A file.
    File(File),
}

impl Sink {
    /// Writes some of `bytes`, waiting for room, and says how many.
    ///
    /// # Errors
    /// The reader of a pipe is gone, or the disk is full.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Fifo(output) => output.sender.write(bytes).await,
            Self::Pipe(sender) => sender.write(bytes).await,
            Self::File(file) => {
                file.write_all(bytes).await?;
                // tokio's file reports an error of a write at the next call otherwise.
                file.flush().await?;
                Ok(bytes.len())
            }
        }
    }
}
