//! One sandbox on the host.
#![deny(unsafe_code)]

pub mod config;
pub mod process;
pub mod rootfs;
pub mod sandbox;
