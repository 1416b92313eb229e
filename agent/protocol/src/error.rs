//! Why a link or a stream ended.

use std::io;
use std::sync::Arc;

use crate::frame::FrameError;
use crate::generation::Role;

/// Why a link ended, or why it did not take a message or a stream.
#[derive(Clone, Debug, displaydoc::Display, thiserror::Error)]
pub enum LinkError {
    /// the peer closed the connection
    Eof,
    /// this side closed the connection
    Closed,
    /// the connection failed: {0}
    Io(#[source] Arc<io::Error>),
    /// the peer restarted; start a new link
    PeerRestarted,
    /// the peer broke the protocol: {0}
    Violation(#[from] Violation),
    /// {message} needs protocol generation {needs}, the peer speaks {speaks}
    TooNew {
        /// Name of the message.
        message: &'static str,
        /// The generation that introduced it.
        needs: u32,
        /// The generation both sides speak.
        speaks: u32,
    },
    /// {message} of {length} bytes is too long to send
    TooLong {
        /// Name of the message.
        message: &'static str,
        /// Its encoded length.
        length: usize,
    },
    /// {message} is not sent by the {sender:?}
    WrongSender {
        /// Name of the message, or what it lacks.
        message: &'static str,
        /// Who tried.
        sender: Role,
    },
    /// stream {0} is already open
    StreamInUse(u32),
    /// too many open streams
    TooManyStreams,
}

/// Why a stream ended early.
#[derive(Clone, Debug, displaydoc::Display, thiserror::Error)]
pub enum StreamError {
    /// the peer gave the stream up
    Reset,
    /// {0}
    Link(#[source] LinkError),
}

/// What a peer did that no peer may do. It ends the link.
#[derive(Clone, Debug, PartialEq, displaydoc::Display, thiserror::Error)]
pub enum Violation {
    /// {0}
    Frame(#[from] FrameError),
    /// {frame} before or after its place in the handshake
    Handshake {
        /// Name of the frame.
        frame: &'static str,
    },
    /// {frame} for stream {stream} does not fit its state
    Stream {
        /// Name of the frame.
        frame: &'static str,
        /// Its stream.
        stream: u32,
    },
    /// stream {stream} brought {received} bytes where {granted} were granted
    OverWindow {
        /// Which stream.
        stream: u32,
        /// Bytes since the stream began.
        received: u64,
        /// Bytes it had credit for.
        granted: u64,
    },
    /// too many open streams
    TooManyStreams,
    /// malformed message: {0}
    Malformed(#[from] prost::DecodeError),
    /// a message without a known body
    Unknown,
    /// {0} from the wrong side, or newer than the agreed generation
    Unsolicited(&'static str),
    /// {message}: {field} is out of range
    Range {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
    },
}
