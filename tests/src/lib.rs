//! A harness for tests and benchmarks against real containerd.
//!
//! ```text
//! Container::new(&daemon).args(["sh", "-c", "exit 7"]).memory_limit(mib(64)).run().expect_exit(7);
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what the environment says: versions, runtime, where the binaries are |
//! | [`daemon`] | one private containerd |
//! | [`container`] | the builder tests begin with; [`run`] and [`task`] are what it builds |
//! | [`process`], [`exec`] | the init process or an exec of a task, over containerd's gRPC API |
//! | [`stdio`] | the client's end of a process's fifos |
//! | [`disk_images`] | root file systems on disks, made by hand |
//! | [`loop_device`] | a block device of the host that a test can spare |
//! | [`events`] | what containerd published, in order |
//! | [`host`] | the host's processes that serve a container |
//! | [`leak`] | proves that a test left nothing behind |
//! | [`shim`] | a shim driven by hand, for what containerd would refuse or hide |
//! | [`case`](mod@case) | a test, and how it is run on a containerd version |
//!
//! The harness stops a test at the first surprise: it panics with what it was doing and what it saw.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test harness reports by panicking.

pub mod case;
pub mod client;
pub mod command;
pub mod container;
pub mod daemon;
pub mod deadline;
pub mod disk_images;
pub mod events;
pub mod exec;
pub mod host;
pub mod image;
pub mod leak;
pub mod loop_device;
pub mod process;
pub mod run;
pub mod settings;
pub mod shim;

pub mod stdio;
pub mod task;

pub use case::{Case, case};
pub use container::Container;
pub use daemon::Daemon;

/// `n` MiB in bytes.
pub const fn mib(n: u64) -> u64 {
    n * 1024 * 1024
}
