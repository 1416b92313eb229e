//! Which files a jailed process may open, however it gets at them, and whom it may reach: Landlock.
//!
//! The root of the jail is made of mounts, and what is not mounted has no path. These rules hold as well for what
//! has none: for files below a descriptor that strayed into the process, for what is in a mount that the host has
//! taken away since, for sockets in a network namespace that is less empty than it was meant to be. No capability
//! lifts them.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags,
};

/// The newest version that this has been tried with. A kernel with an older one is asked for less.
const NEWEST: ABI = ABI::V7;
/// The oldest that is of use. Before it nothing could be renamed from one directory into another, whatever the
/// rules are: better none at all.
const OLDEST: ABI = ABI::V2;

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To a file: it is read.
    Read,
    /// To a file: it is executed, which the kernel has it read for.
    Execute,
    /// To a device: it is read, written, and given commands.
    Use,
    /// To a directory: everything, to all that is or will be in it.
    Everything,
}

/// How much of it a kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// All.
    Full,
    /// What it knows of.
    Partial,
    /// Nothing.
    None,
}

/// Why a process is not confined.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum LandlockError {
    /// no file can be opened for a Landlock rule: {0}
    Path(#[from] PathFdError),
    /// the kernel does not take the Landlock rules: {0}
    Rules(#[from] RulesetError),
}

impl Support {
    fn of(status: &RestrictionStatus) -> Self {
        match status.ruleset {
            RulesetStatus::FullyEnforced => Self::Full,
            RulesetStatus::PartiallyEnforced => Self::Partial,
            RulesetStatus::NotEnforced => Self::None,
        }
    }
}

impl Right {
    fn bits(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::ReadFile.into(),
            Self::Execute => make_bitflags!(AccessFs::{ReadFile | Execute}),
            Self::Use => make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev}),
            Self::Everything => AccessFs::from_all(NEWEST),
        }
    }
}

/// Confines the calling thread and all that it starts, for good: to these paths, to no TCP port, to signals and
/// abstract sockets of its own kind. Descriptors that are open stay what they are. The thread has given up gaining
/// privileges. Says whether the kernel does all of it, or less, or nothing.
///
/// # Errors
/// A path is not there. That the kernel has no Landlock, or an older one, is no error.
pub fn restrict<'a>(rules: impl IntoIterator<Item = (&'a Path, Right)>) -> Result<Support, LandlockError> {
    let mut ruleset = Ruleset::default()
        // What makes the oldest of use: without it the crate applies nothing.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (path, right) in rules {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, right.bits()))?;
    }
    Ok(Support::of(&ruleset.restrict_self()?))
}

/// How much of it this kernel does.
pub fn support() -> Support {
    let has = |abi| -> Result<_, RulesetError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi))?;
        match abi {
            // Has nothing else.
            OLDEST => ruleset.create(),
            _ => ruleset
                .handle_access(AccessNet::from_all(abi))?
                .scope(Scope::from_all(abi))?
                .create(),
        }
    };
    if has(NEWEST).is_ok() {
        Support::Full
    } else if has(OLDEST).is_ok() {
        Support::Partial
    } else {
        Support::None
    }
}

/// QEMU and its parent: the programs and their interpreter are executed, the other files are read.
pub(super) fn of_a_monitor<'a>(
    executed: impl IntoIterator<Item = &'a Path>,
    read: impl IntoIterator<Item = &'a Path>,
    kvm: bool,
) -> impl Iterator<Item = (&'a Path, Right)> {
    let devices = [Some("/dev/null"), kvm.then_some("/dev/kvm")];
    let executed = executed.into_iter().map(|path| (path, Right::Execute));
    let read = read.into_iter().map(|path| (path, Right::Read));
    let used = devices
        .into_iter()
        .flatten()
        .map(|path| (Path::new(path), Right::Use));
    executed.chain(read).chain(used)
}

/// The file-sharing server: all of its root, and so what the host mounts in there later, and nothing else.
pub fn of_a_file_server() -> [(&'static Path, Right); 1] {
    [(Path::new("/"), Right::Everything)]
}

#[cfg(test)]
mod tests;
