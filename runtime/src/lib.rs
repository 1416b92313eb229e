//! One sandbox on the host.
#![deny(unsafe_code)]

pub mod config;
pub mod console;
pub mod fs_server;
pub mod process;
pub mod rootfs;
pub mod sandbox;
pub mod state;
pub mod vmm;
