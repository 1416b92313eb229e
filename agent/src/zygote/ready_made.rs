//! Mounts that nearly every container has, made before anybody has asked for the container: each is what its own spec
//! would have made of it. They lie in the guest's root as init sees it, and go with it; the container gets copies, which
//! the kernel lists in the order of the spec.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::mkdir;
use oci_spec::runtime::{Mount, Spec};

use super::mount_options::MountOptions;
use super::mounts::make_at;
use super::{devices, hidden_paths};
use crate::failure::Failure;
use crate::sys::mount::clone_file;

/// A mount as containerd and its clients ask for it: type, source, destination, options.
type Usual = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// What `ctr` and CRI have in each spec, word for word. Others write some of them otherwise, and have theirs made.
const USUAL: [Usual; 7] = [
    ("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
    (
        "tmpfs",
        "tmpfs",
        DEV,
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "devpts",
        "devpts",
        "/dev/pts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    (
        "tmpfs",
        "shm",
        "/dev/shm",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
    ("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
    ("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    (
        "tmpfs",
        "tmpfs",
        "/run",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
];

const DEV: &str = "/dev";

/// Directories of /dev that something is mounted on.
const IN_DEV: [&str; 3] = ["pts", "shm", "mqueue"];

/// Their permissions, as those of all mount points that are made.
const DIRECTORY_MODE: Mode = Mode::from_bits_retain(0o755);

/// Where they are made, in a mount namespace that is nobody else's.
const WORKSHOP: &str = "/run/bulkhead";

/// Mounts that nobody has yet, and what they are.
#[derive(Default)]
pub struct ReadyMade(Vec<(Mount, OwnedFd)>);

/// An empty directory to hide another with.
pub struct Cover(OwnedFd);

impl ReadyMade {
    /// Makes them, in the namespaces that this process has for its own.
    ///
    /// # Errors
    /// `Mount`, naming which.
    pub fn make() -> Result<Self, Failure> {
        USUAL
            .iter()
            .enumerate()
            .map(|(index, usual)| {
                let wanted = mount_of(usual);
                let what = wanted.destination().to_string_lossy();
                let made = make_one(index, &wanted).map_err(|errno| failed(&what, errno))?;
                if wanted.destination() == Path::new(DEV) {
                    devices::make_usual(&made)?;
                }
                Ok((wanted, made))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Drops a /dev that `spec` would not make like this. Says whether there is one, with its devices in it.
    pub fn keep_for(&mut self, spec: &Spec) -> bool {
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let lists_devices = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.devices().as_ref())
            .is_some_and(|devices| !devices.is_empty());
        let place = |path: &Path| {
            let mut places = (0..mounts.len()).filter(|index| mounts[*index].destination() == path);
            places.next().filter(|_| places.next().is_none())
        };
        // Mount points in it are there beforehand, and so is what others might be mounted on.
        let follows = |dev: usize| {
            let has = |name: &&str| place(&Path::new(DEV).join(name)).is_some_and(|index| index > dev);
            IN_DEV.iter().all(has) && !mounts.iter().any(hides_device)
        };
        let fits = |mount: &Mount| {
            mount.destination() != Path::new(DEV)
                || (!lists_devices && mounts.contains(mount) && place(Path::new(DEV)).is_some_and(follows))
        };
        self.0.retain(|(mount, _)| fits(mount));
        self.0
            .iter()
            .any(|(mount, _)| mount.destination() == Path::new(DEV))
    }

    /// The one that is just what is `wanted`. Each is there once.
    ///
    /// # Errors
    /// As `open_tree(2)`.
    pub fn take(&mut self, wanted: &Mount) -> nix::Result<Option<OwnedFd>> {
        let index = self.0.iter().position(|(mount, _)| mount == wanted);
        let made = index.map(|index| self.0.swap_remove(index).1);
        made.map(clone_file).transpose()
    }
}

impl Cover {
    /// Makes it.
    ///
    /// # Errors
    /// `Mount`.
    pub fn make() -> Result<Self, Failure> {
        let what = "masked paths";
        let place = place_for(USUAL.len()).map_err(|errno| failed(what, errno))?;
        hidden_paths::mount_cover(&place)
            .and_then(|()| open(&place))
            .map(Self)
            .map_err(|errno| failed(what, errno))
    }

    /// Gives it to the container, while the guest's root is there.
    ///
    /// # Errors
    /// `Mount`.
    pub fn take(self) -> Result<OwnedFd, Failure> {
        clone_file(self.0).map_err(|errno| failed("masked paths", errno))
    }
}

/// Whether it is mounted where there is a device, or a link, by the time that /dev is ready-made.
fn hides_device(mount: &Mount) -> bool {
    let below = mount.destination().strip_prefix(DEV);
    below.is_ok_and(|path| path.iter().next().is_some_and(devices::has))
}

fn mount_of((kind, source, destination, options): &Usual) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some((*kind).to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_destination(PathBuf::from(destination))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// Makes a mount in the workshop's directory number `index`, and opens it.
fn make_one(index: usize, wanted: &Mount) -> nix::Result<OwnedFd> {
    let place = place_for(index)?;
    let options = MountOptions::of(wanted);
    make_at(&open(&place)?, wanted, options.flags, &options.data)?;
    let made = open(&place)?;
    if wanted.destination() == Path::new(DEV) {
        for name in IN_DEV {
            mkdirat(&made, name, DIRECTORY_MODE)?;
        }
    }
    Ok(made)
}

/// Nothing of it is undone where a later step fails: this process ends then, and its mounts with it.
fn place_for(index: usize) -> nix::Result<PathBuf> {
    let place = Path::new(WORKSHOP).join(index.to_string());
    match mkdir(&place, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EEXIST) => Ok(place),
        Err(errno) => Err(errno),
    }
}

fn failed(what: &str, errno: Errno) -> Failure {
    Failure::os(
        FailureKind::Mount,
        format!("make a mount for {what} ahead"),
        &errno,
    )
}

fn open(path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
}
