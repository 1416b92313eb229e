//! Which system calls a jailed process may make.
//!
//! The lists are data, `filters/*.json`, in the format of the `seccompiler` crate: `allow` names each call and
//! the path that needs it; any other call kills the process. `refuse` names those among them that libraries
//! merely try: they are answered with ENOSYS.

use seccompiler::{BpfProgram, TargetArch};

/// Whose list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// QEMU, from before its first instruction.
    Qemu,
    /// QEMU's parent, once QEMU runs.
    Parent,
    /// The file-sharing server, before it serves.
    FileServer,
}

/// A list, ready for the kernel.
#[derive(Debug, Clone)]
pub struct Filter {
    /// In the order in which they are loaded: the one that kills comes last, or the next could not be loaded.
    programs: Vec<BpfProgram>,
}

/// Why there is no filter.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum FilterError {
    /// the list of system calls of {program:?}: {source}
    List {
        /// Whose.
        program: Program,
        /// The cause.
        source: seccompiler::Error,
    },
    /// the list of system calls of {0:?} has no part called allow
    Empty(Program),
    /// the kernel does not take the list of system calls: {0}
    Load(seccompiler::Error),
}

impl Program {
    /// The list, as in the source tree.
    pub fn list(self) -> &'static str {
        match self {
            Self::Qemu => include_str!("filters/qemu.json"),
            Self::Parent => include_str!("filters/vmm.json"),
            Self::FileServer => include_str!("filters/fs.json"),
        }
    }
}

impl Filter {
    /// Translates a list.
    pub fn of(program: Program) -> Result<Self, FilterError> {
        let mut parts = seccompiler::compile_from_json(program.list().as_bytes(), TargetArch::x86_64)
            .map_err(|source| FilterError::List { program, source })?;
        let allow = parts.remove("allow").ok_or(FilterError::Empty(program))?;
        Ok(Self {
            programs: parts.into_values().chain([allow]).collect(),
        })
    }

    /// Holds for the calling thread and all that it starts, for good. Makes system calls only: a process
    /// between fork and exec may call it.
    pub fn apply(&self) -> Result<(), FilterError> {
        self.programs
            .iter()
            .try_for_each(|program| seccompiler::apply_filter(program))
            .map_err(FilterError::Load)
    }
}

#[cfg(test)]
mod tests;
