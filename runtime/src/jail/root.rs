//! What a jailed process sees of the host's files: a root of its own, and nothing above it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{Gid, Uid, chown, pivot_root};

use crate::mount::attributes::{Attributes, change};

/// Where the new root is put together: a directory that every host has and no jail needs.
const STAGE: &str = "/proc";
/// What the new root may hold itself, beside the mounts in it: a copy of an interpreter, of which a static QEMU is
/// the largest, at 11 MiB.
const OPTIONS: &str = "mode=0755,size=64m,nr_inodes=1024";
/// Everybody looks and passes, nobody writes.
const DIRECTORY_MODE: u32 = 0o755;
/// Executed by everybody, read by nobody: what a process executes without being able to read it makes the
/// process one that cannot be dumped.
const EXECUTE_ONLY: u32 = 0o711;
/// A place to mount on.
const NO_ACCESS: u32 = 0o000;
const READABLE_BY_ALL: u32 = 0o004;
const EXECUTABLE_BY_ALL: u32 = 0o001;

/// A root with single files of the host in it, each at its own path, and nothing that can be written to.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Seen as they are, read-only. Everybody can read them already.
    pub files: &'a [PathBuf],
    /// What is to be executed without being read: a program's dynamic loader, or a static program.
    pub interpreter: Option<&'a Path>,
    /// Whether `/dev/kvm` is there.
    pub kvm: bool,
    /// Whose `/dev/kvm` is.
    pub user: u32,
}

/// Leaves the host's namespaces, but for users and, for the process itself, processes: what it starts is in a
/// PID namespace of its own. The single thread of a process does this.
pub fn leave_namespaces() -> io::Result<()> {
    unshare(of_every_jail() | CloneFlags::CLONE_NEWPID)?;
    propagate(MsFlags::MS_PRIVATE)
}

/// Leaves the host's namespaces, but for users and processes; what the host mounts and unmounts from now on is
/// still seen. The single thread of a process does this.
pub fn leave_namespaces_but_see_mounts() -> io::Result<()> {
    unshare(of_every_jail())?;
    propagate(MsFlags::MS_SLAVE)
}

fn of_every_jail() -> CloneFlags {
    CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP
}

fn propagate(how: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    Ok(mount(none, "/", none, MsFlags::MS_REC | how, none)?)
}

/// Makes `directory`, and what is or will be mounted below it, the root, and returns `/proc/self/fd` as seen
/// from nowhere else: the rest of /proc is out of reach even through that descriptor.
pub fn become_directory(directory: &Path) -> io::Result<File> {
    let none = None::<&str>;
    mount(Some("/proc/self/fd"), STAGE, none, MsFlags::MS_BIND, none)?;
    let proc_self_fd = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(STAGE)?;
    let all = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), directory, none, all, none)?;
    std::env::set_current_dir(directory)?;
    become_current_directory()?;
    Ok(proc_self_fd)
}

impl Tree<'_> {
    /// Makes it, and makes it the root. The single thread of a process in a mount namespace of its own does this.
    pub fn become_root(&self) -> io::Result<()> {
        umask(Mode::empty());
        let flags = MsFlags::MS_NOSUID;
        mount(Some("tmpfs"), STAGE, Some("tmpfs"), flags, Some(OPTIONS))?;
        std::env::set_current_dir(STAGE)?;
        for file in self.files {
            self.show(file).map_err(|error| named(&error, file))?;
        }
        if let Some(interpreter) = self.interpreter {
            self.show_to_execute(interpreter)
                .map_err(|error| named(&error, interpreter))?;
        }
        self.make_devices()?;
        let stage = File::open(".")?;
        let attributes = Attributes {
            set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
            propagation: 0,
        };
        change(stage.as_fd(), true, attributes)?;
        drop(stage);
        become_current_directory()
    }

    /// Binds a file that the process reads.
    fn show(&self, file: &Path) -> io::Result<()> {
        let status = fs::metadata(file)?;
        if !status.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let owned = status.uid() == self.user;
        if !owned && status.permissions().mode() & READABLE_BY_ALL == 0 {
            let message = "not readable by everybody, and QEMU runs as a user of its own";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        bind(file)
    }

    /// As it is, if its mode says so already, else as a copy: the host's file is not ours to change.
    fn show_to_execute(&self, program: &Path) -> io::Result<()> {
        let status = fs::metadata(program)?;
        let for_all = status.permissions().mode() & (READABLE_BY_ALL | EXECUTABLE_BY_ALL);
        if for_all == EXECUTABLE_BY_ALL && status.is_file() && status.uid() != self.user {
            bind(program)
        } else {
            copy(program)
        }
    }

    /// Nodes of the jail's own: those of the host have owners of the host's.
    fn make_devices(&self) -> io::Result<()> {
        DirBuilder::new().mode(DIRECTORY_MODE).create("dev")?;
        let character = SFlag::S_IFCHR;
        // The kernel's numbers of these two devices have never been others.
        mknod(
            "dev/null",
            character,
            Mode::from_bits_truncate(0o666),
            makedev(1, 3),
        )?;
        if self.kvm {
            mknod(
                "dev/kvm",
                character,
                Mode::from_bits_truncate(0o600),
                makedev(10, 232),
            )?;
            let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.user));
            chown("dev/kvm", Some(user), Some(group))?;
        }
        Ok(())
    }
}

/// Binds a file of the host at its own path.
fn bind(file: &Path) -> io::Result<()> {
    let place = place_of(file)?;
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(NO_ACCESS)
        .open(&place)
    {
        Ok(_) => {}
        // Named twice, and there already.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    let none = None::<&str>;
    Ok(mount(Some(file), &place, none, MsFlags::MS_BIND, none)?)
}

/// Copies a program that is to be executed and not read.
fn copy(program: &Path) -> io::Result<()> {
    let place = place_of(program)?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(EXECUTE_ONLY)
        .open(&place)?;
    io::copy(&mut File::open(program)?, &mut target)?;
    Ok(())
}

/// Where a file of the host is in the tree being made, with its directories made.
fn place_of(file: &Path) -> io::Result<PathBuf> {
    let place = file
        .strip_prefix("/")
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path"))?;
    if place
        .components()
        .any(|part| !matches!(part, std::path::Component::Normal(_)))
    {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain path"));
    }
    if let Some(directory) = place.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)?;
    }
    Ok(place.to_owned())
}

/// The old root is stacked on the new one, and goes.
fn become_current_directory() -> io::Result<()> {
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

fn named(error: &io::Error, file: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}
