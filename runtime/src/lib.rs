//! One sandbox on the host: a VM, the containers in it, and everything they hold here.
//!
//! The shim uses [`sandbox`], and [`cleanup`] for a sandbox whose shim is gone. Below that, each module has one
//! idea: [`vmm`] starts a VM and [`process`] owns its processes; [`share`], [`rootfs`] and [`mount`] show it
//! files, [`network`] a network, [`jail`] confines what serves them, [`agent`] talks to its agent; [`anchor`] and [`cgroup`] stand for its
//! containers on the host, [`hooks`] runs what their specs ask for there; [`state`] is what is on disk, and
//! [`undo`] how every step is taken back. docs/host-resources.md says who owns what.
#![deny(unsafe_code)]

pub mod agent;
pub mod anchor;
mod cache;
pub mod cgroup;
pub mod cleanup;
pub mod config;
pub mod console;
pub mod counters;
pub mod fs_server;
pub mod hooks;
pub mod jail;
pub mod kvm;
pub mod lease;
pub mod mount;
pub mod network;
pub mod ownership;
pub mod process;
pub mod rootfs;
pub mod sandbox;
pub mod share;
pub mod state;
pub mod template;
pub mod undo;
pub mod vmm;

#[cfg(test)]
mod testing;
