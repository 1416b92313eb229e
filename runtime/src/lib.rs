//! One sandbox on the host.
#![deny(unsafe_code)]

mod cache;
pub mod agent;
pub mod anchor;
pub mod cgroup;
pub mod cleanup;
pub mod config;
pub mod console;
pub mod fs_server;
pub mod hooks;
pub mod kvm;
pub mod lease;
pub mod mount;
pub mod network;
pub mod process;
pub mod rootfs;
pub mod sandbox;
pub mod share;
pub mod state;
pub mod undo;
pub mod vmm;

#[cfg(test)]
mod testing;
