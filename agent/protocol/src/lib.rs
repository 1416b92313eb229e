//! The agent exec protocol: what the host and the guest's agent say to each other, and how it is framed.
//!
//! `frame` finds frames in bytes, `mux` is one connection's state machine, `link` drives it with tokio;
//! `message`, `generation` and `control` are what is said; `wake` is what is said between two links. The wire format is described in
//! `docs/agent-protocol.md`.
#![forbid(unsafe_code)]

pub mod control;
pub mod error;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod generation;
pub mod link;
pub mod message;
pub mod mux;
pub mod wake;
