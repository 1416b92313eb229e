//! What confines the processes that a guest talks to, so that a guest that has taken one of them over has
//! taken nothing else.
//!
//! Each piece is one idea: [`root`] is what such a process sees of the host's files, [`user`] who it is,
//! [`privileges`] what it may, [`limits`] how much, [`filter`] by which system calls, and [`landlock`] with which
//! files, whether it sees them or not. [`Jail`] puts them
//! together for QEMU and its parent; the file-sharing server puts its own together, because it has to serve
//! any user's files. docs/jail.md names each item, where it is made, and the test that looks at it.

mod executable;
mod plan;

pub mod filter;
pub mod landlock;
pub mod limits;
pub mod privileges;
pub mod root;
pub mod user;

pub use executable::Executable;
pub use plan::Jail;
