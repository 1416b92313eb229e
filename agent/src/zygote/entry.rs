//! The last steps before a program, the same for an init and for an exec.

use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxSeccomp, Process};

use super::credentials;
use super::program::Program;
use crate::failure::{Failure, OsError};
use crate::sys;

/// What every process of a container takes on, besides what its own description says.
#[derive(Default)]
pub struct Surroundings<'a> {
    /// The container's filter.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// Its execution domain.
    pub personality: Option<u64>,
}

/// Makes this process, which is in its container already, what `process` describes, and finds its program.
///
/// # Errors
/// The first step that failed, typed.
pub fn take_on(process: &Process, surroundings: &Surroundings<'_>) -> Result<Program, Failure> {
    let other = |stage: &'static str| move |errno: Errno| Failure::os(FailureKind::Other, stage, &errno);
    if let Some(domain) = surroundings.personality {
        sys::personality(domain).map_err(other("set personality"))?;
    }
    // As root first, as runc does: the directory may be open to root alone.
    let entered = enter(process.cwd());
    if !matches!(entered, Ok(()) | Err(Errno::EACCES | Errno::EPERM)) {
        return Err(bad_cwd(process.cwd(), entered.err().unwrap_or(Errno::EACCES)));
    }
    credentials::assume(process, surroundings.seccomp)?;
    if entered.is_err() {
        enter(process.cwd()).map_err(|errno| bad_cwd(process.cwd(), errno))?;
    }
    let program = Program::find(process)?;
    // The program gets 0 to 2 and nothing of ours.
    sys::close_on_exec_from(3).map_err(other("close descriptors"))?;
    Ok(program)
}

/// Changes into `cwd` and makes sure that it is inside the root: `/proc/self/fd/N` could name a
/// directory outside of it (CVE-2024-21626).
fn enter(cwd: &Path) -> nix::Result<()> {
    nix::unistd::chdir(cwd)?;
    let inside = nix::unistd::getcwd()?.is_absolute();
    if inside { Ok(()) } else { Err(Errno::ENOENT) }
}

/// In runc's words.
fn bad_cwd(cwd: &Path, errno: Errno) -> Failure {
    let message = format!(
        "chdir to cwd ({:?}) set in config.json failed: {}",
        cwd.display().to_string(),
        errno.words()
    );
    Failure::new(FailureKind::BadCwd, "chdir", message).with_errno(errno as i32)
}
