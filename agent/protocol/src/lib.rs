//! The agent exec protocol: what the host and the guest's agent say to each other, and how it is framed.
#![forbid(unsafe_code)]

pub mod frame;
pub mod generation;
pub mod link;
pub mod message;
pub mod mux;
