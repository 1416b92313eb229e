//! A container's root, seen from outside: every path is looked up inside of it, whatever its links say.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, mkdirat};

/// Permissions of directories and files that are made as mount points, as runc has them.
const NEW_DIRECTORY: Mode = Mode::from_bits_retain(0o755);
const NEW_FILE: Mode = Mode::from_bits_retain(0o644);

/// Most links to nowhere that are followed to make what they name, as many as the kernel follows itself.
const MAX_LINKS: u32 = 40;

/// The root of a container.
pub struct Root {
    /// What paths are looked up from.
    pub directory: OwnedFd,
}

impl Root {
    /// The root at `path`, which is the agent's own business and may have links.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(path: &Path) -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { directory })
    }

    /// What is at `path`.
    ///
    /// # Errors
    /// As `openat2(2)`.
    pub fn look_up(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.resolve(path, OFlag::empty(), ResolveFlag::empty())
    }

    /// The directory at `path`, made with those above it if need be, also where a link leads that leads nowhere.
    ///
    /// # Errors
    /// As `openat2(2)` and `mkdirat(2)`.
    pub fn directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.make_directory(path, MAX_LINKS)
    }

    /// As [`Root::directory`], but `ELOOP` if there is a link on the way.
    ///
    /// # Errors
    /// As `openat2(2)` and `mkdirat(2)`.
    pub fn plain_directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        let open = || self.resolve(path, OFlag::O_DIRECTORY, ResolveFlag::RESOLVE_NO_SYMLINKS);
        match open() {
            Err(Errno::ENOENT) => {
                self.make_directory(path, 0)?;
                open()
            }
            outcome => outcome,
        }
    }

    /// The file at `path`, made empty with the directories above it if need be, also where a link leads that
    /// leads nowhere: images have such an /etc/resolv.conf.
    ///
    /// # Errors
    /// As `openat2(2)`; `EISDIR` for the root itself.
    pub fn file(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.make_file(path, MAX_LINKS)
    }

    /// The directory that holds `path`, made if need be, and the last name.
    ///
    /// # Errors
    /// As [`Root::directory`]; `EISDIR` for the root itself.
    pub fn parent_of<'a>(&self, path: &'a Path) -> nix::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EISDIR)?;
        let parent = self.directory(path.parent().unwrap_or(Path::new("/")))?;
        Ok((parent, name))
    }

    fn make_file(&self, path: &Path, links: u32) -> nix::Result<OwnedFd> {
        match self.look_up(path) {
            Err(Errno::ENOENT) => {}
            outcome => return outcome,
        }
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&parent, name, flags, NEW_FILE) {
            Err(Errno::EEXIST) => self.make_file(&target_of(&parent, path)?, fewer(links)?),
            outcome => outcome,
        }
    }

    fn make_directory(&self, path: &Path, links: u32) -> nix::Result<OwnedFd> {
        let open = |path: &Path| self.resolve(path, OFlag::O_DIRECTORY, ResolveFlag::empty());
        match open(path) {
            Err(Errno::ENOENT) => {}
            outcome => return outcome,
        }
        let mut reached = PathBuf::from("/");
        let mut directory = open(&reached)?;
        for name in path.iter().filter(|name| *name != "/") {
            reached.push(name);
            directory = match open(&reached) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&directory, name, NEW_DIRECTORY) {
                        Ok(()) => {}
                        Err(Errno::EEXIST) => {
                            self.make_directory(&target_of(&directory, &reached)?, fewer(links)?)?;
                        }
                        Err(errno) => return Err(errno),
                    }
                    open(&reached)?
                }
                outcome => outcome?,
            };
        }
        Ok(directory)
    }

    fn resolve(&self, path: &Path, flags: OFlag, how: ResolveFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | how);
        openat2(&self.directory, path, how)
    }
}

/// Where the link `path`, an entry of `directory`, leads.
fn target_of(directory: &OwnedFd, path: &Path) -> nix::Result<PathBuf> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let target = readlinkat(directory, name)?;
    Ok(path.parent().unwrap_or(Path::new("/")).join(target))
}

fn fewer(links: u32) -> nix::Result<u32> {
    links.checked_sub(1).ok_or(Errno::ELOOP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        let (directory, root) = root();
        root.directory(Path::new("/a/b/c")).unwrap();
        root.file(Path::new("/a/d/file")).unwrap();
        root.file(Path::new("/a/d/file")).unwrap();
        assert!(directory.path().join("a/b/c").is_dir());
        assert!(directory.path().join("a/d/file").is_file());
        assert_eq!(root.file(Path::new("/")).err(), None);
    }

    #[test]
    fn links_stay_inside() {
        let (directory, root) = root();
        symlink("/inside", directory.path().join("absolute")).unwrap();
        symlink("../../../inside", directory.path().join("relative")).unwrap();
        std::fs::create_dir(directory.path().join("inside")).unwrap();
        root.directory(Path::new("/absolute/x")).unwrap();
        root.file(Path::new("/relative/y")).unwrap();
        assert!(directory.path().join("inside/x").is_dir());
        assert!(directory.path().join("inside/y").is_file());
        assert_eq!(
            root.plain_directory(Path::new("/absolute")).unwrap_err(),
            Errno::ELOOP
        );
    }

    #[test]
    fn what_a_broken_link_names_is_made_inside() {
        let (directory, root) = root();
        let at = |name: &str| directory.path().join(name);
        symlink("../../../gone/far/file", at("file")).unwrap();
        symlink("/gone/too", at("directory")).unwrap();
        symlink("loop", at("loop")).unwrap();
        root.file(Path::new("/file")).unwrap();
        root.directory(Path::new("/directory/x")).unwrap();
        assert!(at("gone/far/file").is_file() && at("gone/too/x").is_dir());
        assert_eq!(root.file(Path::new("/loop")).unwrap_err(), Errno::ELOOP);
        assert_eq!(
            root.plain_directory(Path::new("/directory")).unwrap_err(),
            Errno::ELOOP
        );
    }

    #[test]
    fn a_file_is_no_directory() {
        let (directory, root) = root();
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(root.directory(Path::new("/file")).unwrap_err(), Errno::ENOTDIR);
    }
}
