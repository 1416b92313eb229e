//! The client's fifos.
//!
//! Both ends of each fifo are held: while the client, or containerd, is away, a write blocks instead of
//! failing, and a read waits instead of seeing the end.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio::net::unix::pipe;

use super::StdioError;

/// A fifo that output is written to.
#[derive(Debug)]
pub struct Output {
    /// Our writer.
    pub sender: pipe::Sender,
    /// Keeps the pipe from breaking.
    reader: OwnedFd,
}

/// A fifo that input will be read from: found, not yet open. A client that writes to it waits.
#[derive(Debug)]
pub struct Place {
    fifo: File,
    path: PathBuf,
}

/// A fifo that input is read from.
#[derive(Debug)]
pub struct Input {
    /// Our reader.
    pub receiver: pipe::Receiver,
    /// Keeps the input from ending when a client goes away; dropped by CloseIO.
    pub hold: Option<OwnedFd>,
}

impl Output {
    /// Opens a fifo for output; never waits for a reader.
    ///
    /// # Errors
    /// There is nothing at `path`, or something else than a fifo.
    pub fn open(path: &Path) -> Result<Self, StdioError> {
        let place = find(path)?;
        let reader = open_end(&place, path, false)?;
        let writer = open_end(&place, path, true)?;
        let sender = pipe::Sender::from_file(writer).map_err(StdioError::at(path))?;
        Ok(Self {
            sender,
            reader: reader.into(),
        })
    }

    /// A second writer, for a process whose stdout and stderr are the same fifo.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn duplicate(&self) -> io::Result<Self> {
        let writer = File::open_writer_of(&self.sender)?;
        Ok(Self {
            sender: pipe::Sender::from_file(writer)?,
            reader: self.reader.try_clone()?,
        })
    }
}

impl Place {
    /// Finds a fifo.
    ///
    /// # Errors
    /// There is nothing at `path`, or something else than a fifo.
    pub fn find(path: &Path) -> Result<Self, StdioError> {
        Ok(Self {
            fifo: find(path)?,
            path: path.to_owned(),
        })
    }

    /// Opens it for input; never waits for a writer.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn open(&self) -> Result<Input, StdioError> {
        let reader = open_end(&self.fifo, &self.path, false)?;
        let hold = open_end(&self.fifo, &self.path, true)?;
        let receiver = pipe::Receiver::from_file(reader).map_err(StdioError::at(&self.path))?;
        Ok(Input {
            receiver,
            hold: Some(hold.into()),
        })
    }
}

/// Looks at `path` without opening what is there: opening a device could already do something.
fn find(path: &Path) -> Result<File, StdioError> {
    let place = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(StdioError::at(path))?;
    let kind = place.metadata().map_err(StdioError::at(path))?.file_type();
    if kind.is_fifo() {
        Ok(place)
    } else {
        Err(StdioError::NotFifo(path.to_owned()))
    }
}

/// Opens one end of the fifo that was found, whatever its path names by now.
fn open_end(place: &File, path: &Path, write: bool) -> Result<File, StdioError> {
    File::options()
        .read(!write)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .map_err(StdioError::at(path))
}

trait OpenWriter: Sized {
    fn open_writer_of(sender: &pipe::Sender) -> io::Result<Self>;
}

impl OpenWriter for File {
    fn open_writer_of(sender: &pipe::Sender) -> io::Result<Self> {
        File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(format!("/proc/self/fd/{}", sender.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn fifo() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        (dir, path)
    }

    #[tokio::test]
    async fn f20_output_survives_readers_that_come_and_go() {
        let (_dir, path) = fifo();
        let mut output = Output::open(&path).unwrap();
        output.sender.write_all(b"one").await.unwrap();
        let mut buffer = [0; 8];
        {
            let mut reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
            assert_eq!(reader.read(&mut buffer).await.unwrap(), 3);
        }
        output.sender.write_all(b"two").await.unwrap();
        let mut reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 3);
        drop(output);
        assert_eq!(
            reader.read(&mut buffer).await.unwrap(),
            0,
            "both ends are closed together"
        );
    }

    #[tokio::test]
    async fn f20_input_ends_only_when_the_hold_and_every_writer_are_gone() {
        let (_dir, path) = fifo();
        let mut input = Place::find(&path).unwrap().open().unwrap();
        {
            let mut writer = pipe::OpenOptions::new().open_sender(&path).unwrap();
            writer.write_all(b"abc").await.unwrap();
        }
        let mut buffer = [0; 8];
        assert_eq!(input.receiver.read(&mut buffer).await.unwrap(), 3);
        assert!(input.receiver.try_read(&mut buffer).is_err(), "no end while held");
        input.hold = None;
        assert_eq!(input.receiver.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_duplicate_keeps_the_fifo_open_until_both_are_gone() {
        let (_dir, path) = fifo();
        let output = Output::open(&path).unwrap();
        let mut second = output.duplicate().unwrap();
        let mut reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        drop(output);
        second.sender.write_all(b"x").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 1);
        drop(second);
        assert_eq!(reader.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn f20_what_is_no_fifo_is_refused_without_waiting() {
        let (dir, path) = fifo();
        let missing = Output::open(&dir.path().join("missing")).unwrap_err();
        assert!(missing.is_not_found(), "{missing}");
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        for name in ["file", "link", "."] {
            let error = Output::open(&dir.path().join(name)).unwrap_err();
            assert!(error.is_callers_fault(), "{name}: {error}");
            assert!(Place::find(&dir.path().join(name)).is_err());
        }
    }
}
