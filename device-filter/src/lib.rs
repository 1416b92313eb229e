//! Which devices the processes of a cgroup of version 2 may open and make: by a program that the kernel asks.
//!
//! `program` assembles it from rules, `kernel` loads and attaches it. The host limits a VM's processes with it, and the
//! guest a container's.
#![deny(unsafe_code)]

#[cfg(any(test, feature = "interpreter"))]
mod interpreter;
mod kernel;
mod program;

#[cfg(any(test, feature = "interpreter"))]
pub use interpreter::allows;
pub use kernel::{Below, attach, is_attached};
pub use program::{Instruction, Kind, Rule, access, assemble};
