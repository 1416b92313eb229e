//! The server's socket: its name as containerd computes it, and who gets to bind it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Component, Path, PathBuf};

use displaydoc::Display;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Where containerd's own shims have their sockets.
pub const DEFAULT_DIR: &str = "/run/containerd/s";
/// containerd's Go code refuses longer paths (`sun_path` has 108 bytes, one of them a NUL).
const MAX_PATH: usize = 106;
/// What an address of ours starts with.
const SCHEME: &str = "unix://";

/// Why there is no socket.
#[derive(Debug, Display, Error)]
pub enum SocketError {
    /// socket path {0} is longer than the 106 bytes containerd allows
    TooLong(PathBuf),
    /// cannot {what} {path}: {source}
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A sandbox's socket, in the hands of the only process that may use it.
#[derive(Debug)]
pub enum Claim {
    /// Nobody serves this sandbox: here is its socket, listening.
    Ours(UnixListener),
    /// A server answers already.
    Served,
}

/// The path of the socket for one sandbox: `<dir>/<sha256 of "<address>/<namespace>/<sandbox>">`, where
/// the hashed path is cleaned as Go's `filepath.Join` does. containerd's tests compute it too.
///
/// # Errors
/// `dir` is so long that containerd would refuse the path.
pub fn path(dir: &Path, grpc_address: &str, namespace: &str, sandbox: &str) -> Result<PathBuf, SocketError> {
    let joined = clean(&[grpc_address, namespace, sandbox]);
    let name: String = Sha256::digest(joined.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = dir.join(name);
    if path.as_os_str().len() > MAX_PATH {
        return Err(SocketError::TooLong(path));
    }
    Ok(path)
}

/// The socket as containerd is told of it.
pub fn address(path: &Path) -> String {
    format!("{SCHEME}{}", path.display())
}

/// Binds the socket at `path`, unless a server answers there. The directory is locked meanwhile: of
/// several `start`s for the containers of one pod, one binds and the others find it bound.
///
/// # Errors
/// The directory or the socket cannot be made.
pub fn claim(path: &Path) -> Result<Claim, SocketError> {
    let _lock = lock_dir(path)?;
    match UnixStream::connect(path) {
        Ok(_) => return Ok(Claim::Served),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) => remove(path)?,
    }
    // A socket gets its mode from bind; chmod afterwards would leave a gap. This process has one thread.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    bound.map(Claim::Ours).map_err(|source| SocketError::Io {
        what: "bind",
        path: path.to_owned(),
        source,
    })
}

/// The identity of a bound socket's file, by which its server recognises it before removing it.
///
/// # Errors
/// The file is gone.
pub fn file_identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Removes the socket if it still is the one with this identity: another server may have bound the same
/// path since. No new client can find this one afterwards.
///
/// # Errors
/// The directory cannot be locked or the file not removed.
pub fn release(path: &Path, identity: (u64, u64)) -> Result<(), SocketError> {
    let _lock = lock_dir(path)?;
    match file_identity(path) {
        Ok(found) if found == identity => remove(path),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), SocketError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Io {
            what: "remove",
            path: path.to_owned(),
            source,
        }),
        Ok(()) => Ok(()),
    }
}

/// Locks the directory itself, so that no lock file stays behind beside the sockets.
fn lock_dir(socket: &Path) -> Result<Flock<File>, SocketError> {
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let failed = |what, source| SocketError::Io {
        what,
        path: dir.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| failed("make directory", source))?;
    let file = File::open(dir).map_err(|source| failed("open directory", source))?;
    let mode = file
        .metadata()
        .map_err(|source| failed("stat", source))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o700))
            .map_err(|source| failed("chmod", source))?;
    }
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed("lock directory", errno.into()))
}

/// Go's `filepath.Join`: empty parts are left out, `.` and `..` are resolved by name.
fn clean(parts: &[&str]) -> String {
    let joined = parts
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join("/");
    let mut cleaned = PathBuf::new();
    for component in Path::new(&joined).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if cleaned.file_name().is_some() => {
                cleaned.pop();
            }
            Component::ParentDir if cleaned.has_root() => {}
            other => cleaned.push(other),
        }
    }
    cleaned.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_containerd_computes() {
        // sha256sum of "/run/containerd/containerd.sock/default/web".
        let path = path(
            Path::new(DEFAULT_DIR),
            "/run/containerd/containerd.sock",
            "default",
            "web",
        )
        .unwrap();
        assert_eq!(
            address(&path),
            "unix:///run/containerd/s/2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883"
        );
    }

    #[test]
    fn the_hashed_path_is_cleaned_as_go_does() {
        assert_eq!(clean(&["/run//c/", "ns", "id"]), "/run/c/ns/id");
        assert_eq!(clean(&["", "ns", "id"]), "ns/id");
        assert_eq!(clean(&["/a/../../b/./c", "ns", "id"]), "/b/c/ns/id");
    }

    #[test]
    fn a_long_directory_is_refused() {
        let dir = PathBuf::from(format!("/{}", "d".repeat(42)));
        assert!(matches!(path(&dir, "/s", "n", "i"), Err(SocketError::TooLong(_))));
        let fits = PathBuf::from(format!("/{}", "d".repeat(40)));
        assert!(path(&fits, "/s", &"n".repeat(76), &"i".repeat(76)).is_ok());
    }

    #[test]
    fn one_binds_and_the_next_finds_it_served() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockets/abc");
        let Claim::Ours(listener) = claim(&path).unwrap() else {
            panic!("nobody served it")
        };
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(matches!(claim(&path).unwrap(), Claim::Served));
        drop(listener);
        assert!(
            matches!(claim(&path).unwrap(), Claim::Ours(_)),
            "a dead server's socket is taken over"
        );
    }

    #[test]
    fn a_server_removes_its_own_socket_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        let Claim::Ours(old) = claim(&path).unwrap() else {
            panic!("nobody served it")
        };
        let old_identity = file_identity(&path).unwrap();
        // Held open, so that the inode number is not given to the next file.
        let _old_file = fs::hard_link(&path, dir.path().join("kept"));
        drop(old);
        let Claim::Ours(_new) = claim(&path).unwrap() else {
            panic!("nobody served it")
        };
        release(&path, old_identity).unwrap();
        assert!(path.exists());
        release(&path, file_identity(&path).unwrap()).unwrap();
        assert!(!path.exists());
    }
}
