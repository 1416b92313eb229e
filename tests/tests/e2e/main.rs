//! End-to-end tests against real containerd. See `docs/testing.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test stops at the first surprise.

mod block_io;
mod clients;
mod commands;
mod control;
mod devices;
mod disks;
mod exec;
mod exit;
mod faults;
mod group;
mod hooks;
mod jail;
mod logs;
mod malformed;
mod mounts;
mod options;
mod pids;
mod pods;
mod propagation;
mod restart;
mod stdio;
mod terminal;
mod vm;

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_tests::case::run_all(&[
        ("exit", exit::CASES),
        ("stdio", stdio::CASES),
        ("terminal", terminal::CASES),
        ("exec", exec::CASES),
        ("control", control::CASES),
        ("options", options::CASES),
        ("mounts", mounts::CASES),
        ("propagation", propagation::CASES),
        ("block_io", block_io::CASES),
        ("disks", disks::CASES),
        ("devices", devices::CASES),
        ("logs", logs::CASES),
        ("hooks", hooks::CASES),
        ("group", group::CASES),
        ("pids", pids::CASES),
        ("restart", restart::CASES),
        ("faults", faults::CASES),
        ("malformed", malformed::CASES),
        ("vm", vm::CASES),
        ("jail", jail::CASES),
        ("commands", commands::CASES),
        ("clients", clients::CASES),
    ])
}
