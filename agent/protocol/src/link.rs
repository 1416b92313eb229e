//! The tokio driver of one connection: the same type on both sides, over any byte stream.
//!
//! The carrier must report a hang-up as end of file or error, as a virtio port in the guest does: it reads
//! 0 bytes while the host is away.
//! When a link has ended its carrier is dropped, and a new link may be started on it or on a new one; the
//! handshake finds its way through whatever is left in between.

mod stream;

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

pub use self::stream::{StreamReader, StreamWriter};
pub use crate::error::{LinkError, StreamError, Violation};
use crate::frame::{Decoder, HEADER_LEN, MAX_DATA};
pub use crate::generation::Role;
use crate::message::{Envelope, Hello};
use crate::mux::Mux;

/// What one read takes at most: the longest data frame, so that a busy stream costs one system call for it.
const READ: usize = HEADER_LEN + MAX_DATA;
/// An output buffer that one long control message has stretched beyond this is given back.
const KEEP_OUTPUT: usize = 4 * MAX_DATA;

/// One end of a connection; clones share it. Dropping the last clone closes it.
#[derive(Clone, Debug)]
pub struct Link {
    shared: Arc<Shared>,
    _close_on_drop: Arc<CloseOnDrop>,
}

/// Control messages from the peer, in order. Must be read promptly: while its queue is full nothing is read
/// from the carrier, so its reader must not wait for `Link::send` or for a stream.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Held for the time of a state change, never across an await.
    mux: Mutex<Mux>,
    hello: watch::Sender<Option<Hello>>,
    /// Set when the driver has ended and dropped the carrier.
    ended: watch::Sender<Option<LinkError>>,
}

#[derive(Debug)]
struct CloseOnDrop(Arc<Shared>);

impl Link {
    /// Spawns the driver on the current tokio runtime (`current_thread` is enough). It waits for the peer's
    /// HELLO without a deadline; that is the caller's.
    pub fn start<R, W>(role: Role, read: R, write: W, hello: Hello) -> (Link, Incoming)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        // Keys of the standard hasher come from the kernel and differ with each call.
        let epoch = RandomState::new().hash_one(role as u8).max(1);
        let shared = Arc::new(Shared {
            mux: Mutex::new(Mux::new(role, epoch, hello)),
            hello: watch::Sender::new(None),
            ended: watch::Sender::new(None),
        });
        tokio::spawn(drive(
            Arc::clone(&shared),
            Decoder::new(role.peer(), epoch),
            read,
            write,
        ));
        let close = Arc::new(CloseOnDrop(Arc::clone(&shared)));
        (
            Link {
                shared: Arc::clone(&shared),
                _close_on_drop: close,
            },
            Incoming { shared },
        )
    }

    /// Queues a control message, waiting for the peer's HELLO and for room in the queue. An error that is
    /// about the message (`TooNew`, `TooLong`, `WrongSender`) leaves the link as it is.
    /// Cancel safe: a cancelled send has sent nothing.
    pub async fn send(&self, envelope: Envelope) -> Result<(), LinkError> {
        let mut envelope = Some(envelope);
        poll_fn(|cx| self.shared.mux().poll_send(cx, &mut envelope)).await
    }

    /// Waits until everything queued was handed to the carrier, apart from what waits for credit.
    pub async fn flush(&self) -> Result<(), LinkError> {
        poll_fn(|cx| self.shared.mux().poll_flush(cx)).await
    }

    /// Opens the reading end of a stream and grants the peer credit; it cannot send before. The host opens
    /// its ends before it sends the message that names the stream, and drops them when that fails; the guest
    /// opens its own only then. An id is used once in a link.
    pub fn open_reader(&self, stream: u32) -> Result<StreamReader, LinkError> {
        self.shared.mux().open_reader(stream)?;
        Ok(StreamReader::new(Arc::clone(&self.shared), stream))
    }

    /// Opens the writing end of a stream; see `open_reader`.
    pub fn open_writer(&self, stream: u32) -> Result<StreamWriter, LinkError> {
        self.shared.mux().open_writer(stream)?;
        Ok(StreamWriter::new(Arc::clone(&self.shared), stream))
    }

    /// The peer's HELLO, once it came.
    pub fn peer_hello(&self) -> watch::Receiver<Option<Hello>> {
        self.shared.hello.subscribe()
    }

    /// Bytes that came for readers which had been dropped, in total.
    pub fn discarded(&self) -> u64 {
        self.shared.mux().discarded()
    }

    /// Ends the link without sending what is queued. `closed` answers `LinkError::Closed`.
    pub fn close(&self) {
        self.shared.fail(LinkError::Closed);
    }

    /// Waits until the link has ended and its carrier was dropped; says why it ended.
    pub async fn closed(&self) -> LinkError {
        let mut ended = self.shared.ended.subscribe();
        let error = ended.wait_for(Option::is_some).await;
        // The sender lives in `shared`.
        error
            .ok()
            .and_then(|error| error.clone())
            .unwrap_or(LinkError::Closed)
    }
}

impl Incoming {
    /// The next message; `None` when the link has ended and all were taken. Cancel safe.
    pub async fn next(&mut self) -> Option<Envelope> {
        match poll_fn(|cx| self.shared.mux().poll_receive(cx)).await? {
            Ok(envelope) => Some(envelope),
            Err(violation) => {
                self.shared.fail(violation.into());
                None
            }
        }
    }
}

impl Shared {
    fn mux(&self) -> MutexGuard<'_, Mux> {
        self.mux.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: LinkError) -> LinkError {
        self.mux().fail(error)
    }

    /// Returns when reading or decoding fails, or the link was ended.
    async fn input(&self, read: &mut (impl AsyncRead + Unpin), mut decoder: Decoder) -> LinkError {
        // Initialised once: a carrier in safe Rust would clear a fresh buffer at each read, and a virtio port
        // brings 4 KiB of it.
        let mut chunk = vec![0; READ];
        let mut buffer = BytesMut::new();
        loop {
            if let Err(error) = poll_fn(|cx| self.mux().poll_input(cx)).await {
                return error;
            }
            if buffer.is_empty() {
                // An idle link holds none, however long the last message was.
                buffer = BytesMut::new();
            }
            match read.read(&mut chunk).await {
                Ok(0) => return LinkError::Eof,
                Ok(length) => buffer.extend_from_slice(&chunk[..length]),
                Err(error) => return LinkError::Io(Arc::new(error)),
            }
            if let Err(error) = self.receive(&mut decoder, &mut buffer) {
                return error;
            }
        }
    }

    fn receive(&self, decoder: &mut Decoder, buffer: &mut BytesMut) -> Result<(), LinkError> {
        let mut mux = self.mux();
        while let Some(frame) = decoder.decode(buffer).map_err(Violation::from)? {
            if let Some(hello) = mux.receive(frame)? {
                self.hello.send_replace(Some(hello));
            }
        }
        Ok(())
    }

    /// Returns when writing fails, or the link was ended.
    async fn output(&self, write: &mut (impl AsyncWrite + Unpin)) -> LinkError {
        let mut out = BytesMut::new();
        loop {
            if let Err(error) = poll_fn(|cx| self.mux().poll_output(cx, &mut out)).await {
                return error;
            }
            if let Err(error) = write.write_all(&out).await {
                return LinkError::Io(Arc::new(error));
            }
            out.clear();
            if out.capacity() > KEEP_OUTPUT {
                out = BytesMut::new();
            }
        }
    }
}

/// Reads and writes in one task, so that the carrier is gone when it ends.
async fn drive<R, W>(shared: Arc<Shared>, decoder: Decoder, mut read: R, mut write: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let error = tokio::select! {
        error = shared.input(&mut read, decoder) => error,
        error = shared.output(&mut write) => error,
    };
    drop((read, write));
    let error = shared.fail(error);
    shared.ended.send_replace(Some(error));
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.fail(LinkError::Closed);
    }
}
