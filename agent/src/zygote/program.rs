//! Finds and becomes the program, as the container's user and in its root. The words of the errors are
//! runc's: docker, nerdctl and the kubelet's users look for them.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::AccessFlags;
use oci_spec::runtime::Process;

use crate::failure::{Failure, OsError};

/// Most of the container's /etc/passwd that is read to find a home directory: it is the image's, and
/// may be endless.
const MAX_PASSWD: u64 = 1024 * 1024;

/// A program ready to become.
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks `process.args[0]` up in its `PATH`. Call it in the container, with the user's credentials.
    ///
    /// # Errors
    /// `ExecutableNotFound` or `PermissionDenied` in runc's words, `InvalidArgument` for a NUL byte.
    pub fn find(process: &Process) -> Result<Self, Failure> {
        let args = process.args().as_deref().unwrap_or_default();
        let name = args
            .first()
            .ok_or_else(|| Failure::invalid("process.args is empty"))?;
        let mut env = process.env().clone().unwrap_or_default();
        let path_variable = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let path = look_up(name, path_variable.unwrap_or_default())?;
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", home_of(process.user().uid())));
        }
        Ok(Self {
            path: text(path.to_string_lossy().as_ref())?,
            args: args.iter().map(|arg| text(arg)).collect::<Result<_, _>>()?,
            env: env.iter().map(|entry| text(entry)).collect::<Result<_, _>>()?,
        })
    }

    /// Becomes the program; returns only if the kernel refuses.
    pub fn become_it(&self) -> Failure {
        match nix::unistd::execve(&self.path, &self.args, &self.env) {
            Ok(never) => match never {},
            Err(errno) => refused(&self.path.to_string_lossy(), errno),
        }
    }
}

/// The kernel did not start `path`.
pub fn refused(path: &str, errno: Errno) -> Failure {
    let kind = match errno {
        Errno::ENOENT => FailureKind::ExecutableNotFound,
        Errno::EACCES | Errno::EPERM => FailureKind::PermissionDenied,
        Errno::ENOEXEC => FailureKind::NotExecutable,
        _ => FailureKind::Other,
    };
    Failure::new(kind, "execve", format!("exec {path}: {}", errno.words())).with_errno(errno as i32)
}

fn look_up(name: &str, path: &str) -> Result<PathBuf, Failure> {
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(Failure::new(
                FailureKind::ExecutableNotFound,
                "find program",
                format!("exec: {name:?}: stat {name}: no such file or directory"),
            )
            .with_errno(libc::ENOENT)),
            Err(errno) => Err(denied(name, errno)),
        };
    }
    let mut refused = None;
    for directory in path.split(':').filter(|directory| directory.starts_with('/')) {
        let candidate = Path::new(directory).join(name);
        match executable(&candidate) {
            Ok(()) if !name.is_empty() => return Ok(candidate),
            Err(Errno::EACCES | Errno::EISDIR) => refused = Some(Errno::EACCES),
            _ => {}
        }
    }
    if let Some(errno) = refused {
        return Err(denied(name, errno));
    }
    Err(Failure::new(
        FailureKind::ExecutableNotFound,
        "find program",
        format!("exec: {name:?}: executable file not found in $PATH"),
    )
    .with_errno(libc::ENOENT))
}

fn denied(name: &str, errno: Errno) -> Failure {
    let kind = FailureKind::PermissionDenied;
    let message = format!("exec: {name:?}: {}", errno.words());
    Failure::new(kind, "find program", message).with_errno(errno as i32)
}

/// A regular file that the effective user may execute.
fn executable(path: &Path) -> nix::Result<()> {
    let status = nix::sys::stat::stat(path)?;
    match status.st_mode & libc::S_IFMT {
        libc::S_IFDIR => return Err(Errno::EISDIR),
        libc::S_IFREG => {}
        _ => return Err(Errno::EACCES),
    }
    nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// The home directory that the container's /etc/passwd gives `uid`, else `/`, as runc does it.
fn home_of(uid: u32) -> String {
    let mut passwd = String::new();
    let read =
        fs::File::open("/etc/passwd").and_then(|file| file.take(MAX_PASSWD).read_to_string(&mut passwd));
    match read {
        Ok(_) => find_home(&passwd, uid).unwrap_or("/").to_owned(),
        Err(_) => "/".to_owned(),
    }
}

fn find_home(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let matches = fields.next()?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (matches && !home.is_empty()).then_some(home)
    })
}

fn text(value: &str) -> Result<CString, Failure> {
    CString::new(value).map_err(|_| Failure::invalid(format!("process: NUL byte in {value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_reported_in_runcs_words() {
        let failure = look_up("no-such-program", "/bin:/usr/bin").unwrap_err();
        assert_eq!(
            failure.message,
            r#"exec: "no-such-program": executable file not found in $PATH"#
        );
        assert_eq!(failure.kind(), FailureKind::ExecutableNotFound);
        let failure = look_up("/no/such", "").unwrap_err();
        assert_eq!(
            failure.message,
            r#"exec: "/no/such": stat /no/such: no such file or directory"#
        );
        assert_eq!(failure.errno, libc::ENOENT);
    }

    #[test]
    fn directories_and_plain_files_are_refused() {
        assert_eq!(
            look_up("/etc", "").unwrap_err().message,
            r#"exec: "/etc": is a directory"#
        );
        let failure = look_up("/etc/passwd", "").unwrap_err();
        assert_eq!(failure.message, r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(failure.kind(), FailureKind::PermissionDenied);
    }

    #[test]
    fn the_path_is_searched_in_order_and_relative_entries_are_not() {
        assert_eq!(
            look_up("sh", "/nowhere:.:/bin:/usr/bin").unwrap(),
            Path::new("/bin/sh")
        );
        assert!(look_up("sh", ".:").is_err());
        assert!(look_up("", "/bin").is_err());
    }

    #[test]
    fn home_is_found_by_uid() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33:web:/srv:/bin/sh\nno:x:5:5::\n";
        assert_eq!(find_home(passwd, 33), Some("/srv"));
        assert_eq!(find_home(passwd, 0), Some("/root"));
        assert_eq!(find_home(passwd, 5), None);
        assert_eq!(find_home(passwd, 77), None);
    }
}
