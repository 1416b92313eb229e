//! A hostile guest speaks FUSE to the file-sharing server, and the host's files outside the share stay as they
//! are (CVE-2026-47243, CVE-2020-35517 and their kind). No VM: the test is the guest, at the server's socket.
//!
//! Needs root; without it each test says so and passes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test is meant to panic"
)]

mod guest;
mod mounts;
#[path = "../support/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use bulkhead_runtime::fs_server::{self, FsServer, FsServerSpec};
use bulkhead_runtime::process::{Exit, Placement};
use guest::{Guest, Outcome, ROOT, Reply, header, opcode, words};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use skip::skip;
use tempfile::TempDir;

/// `struct fuse_entry_out` begins with the node; its attributes come after 40 bytes.
const ATTRIBUTES: usize = 40;
const OPEN_READ_WRITE: u32 = 2;

/// A share, and beside it what nobody may touch.
struct Host {
    _share: Mounted,
    directory: TempDir,
    server: FsServer,
    guest: Guest,
    before: BTreeMap<PathBuf, Seen>,
}

struct Mounted(PathBuf);

/// Everything about a file that a guest could have changed.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Host {
    async fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        let directory = tempfile::tempdir().unwrap();
        let (share, sentinel) = (directory.path().join("share"), directory.path().join("sentinel"));
        for made in [share.join("inside"), sentinel.join("deep")] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(share.join("file"), "the guest's").unwrap();
        for name in ["secret", "deep/secret"] {
            fs::write(sentinel.join(name), "the host's").unwrap();
        }
        symlink(sentinel.join("secret"), share.join("to-file")).unwrap();
        symlink(&sentinel, share.join("to-directory")).unwrap();
        symlink("../sentinel/secret", share.join("relative")).unwrap();
        let none = None::<&str>;
        mount(Some(&share), &share, none, MsFlags::MS_BIND, none).unwrap();
        // As the share of a sandbox is: what is mounted in it later appears, and goes.
        mount(none, &share, none, MsFlags::MS_SHARED, none).unwrap();
        let mounted = Mounted(share.clone());
        let lock = File::create(directory.path().join("lock")).unwrap();
        let spec = FsServerSpec {
            program: program("bulkhead-fs"),
            directory: share,
            socket_directory: directory.path().to_owned(),
            placement: Placement::default(),
            lock: lock.into(),
            stderr: None,
        };
        let mut server = fs_server::start(spec).await.unwrap();
        let socket = std::mem::replace(&mut server.socket, File::open("/dev/null").unwrap().into());
        let guest = Guest::connect(socket);
        let before = look(&sentinel);
        Some(Self {
            _share: mounted,
            directory,
            server,
            guest,
            before,
        })
    }

    fn sentinel(&self) -> PathBuf {
        self.directory.path().join("sentinel")
    }

    fn say(&mut self, opcode: u32, node: u64, body: &[u8]) -> Reply {
        self.guest.say(opcode, node, body)
    }

    /// The node that a name of the share's root has.
    fn node(&mut self, name: &str) -> u64 {
        let entry = self.say(opcode::LOOKUP, ROOT, &text(&[name])).unwrap();
        u64::from_le_bytes(entry[..8].try_into().unwrap())
    }

    /// The sentinel is as it was, nothing has appeared beside the share, and the server serves on.
    #[track_caller]
    fn assert_untouched(&mut self) {
        self.assert_outside_untouched();
        assert_eq!(self.server.process.try_wait(), None);
        self.say(opcode::GETATTR, ROOT, &[0; 16]).unwrap();
    }

    #[track_caller]
    fn assert_outside_untouched(&self) {
        assert_eq!(look(&self.sentinel()), self.before);
        let mut beside: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        beside.sort();
        assert_eq!(beside, ["lock", "sentinel", "share"]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whatever the test was about has been checked.
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

/// Names that lead out, or mean to.
fn hostile(host: &Host) -> Vec<String> {
    let outside = host.sentinel().to_string_lossy().into_owned();
    let mut names: Vec<String> = [
        "..",
        ".",
        "/",
        "",
        "../sentinel",
        "../sentinel/secret",
        "inside/../../sentinel/secret",
        "to-directory/secret",
        "to-directory/deep/planted",
        "relative",
        "to-file",
        "/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/proc/1/root",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend([
        format!("{outside}/secret"),
        format!("{outside}/planted"),
        format!("..{outside}/planted"),
        "../".repeat(64) + &outside[1..] + "/secret",
        "n".repeat(5000),
    ]);
    names
}

#[tokio::test]
async fn names_that_lead_out_do_not() {
    let Some(mut host) = Host::new().await else { return };
    let outside = look(&host.sentinel())
        .into_keys()
        .map(|path| inode(&path))
        .collect::<Vec<_>>();
    let inside = host.node("inside");
    for name in hostile(&host) {
        for parent in [ROOT, inside] {
            let one = text(&[&name]);
            if let Ok(entry) = host.say(opcode::LOOKUP, parent, &one) {
                let found = u64::from_le_bytes(entry[ATTRIBUTES..ATTRIBUTES + 8].try_into().unwrap());
                assert!(!outside.contains(&found), "{name} is outside");
            }
            for (opcode, before) in [
                (opcode::UNLINK, vec![]),
                (opcode::RMDIR, vec![]),
                (opcode::MKDIR, words(&[0o777, 0])),
                (opcode::MKNOD, words(&[libc::S_IFREG | 0o666, 0, 0, 0])),
                (
                    opcode::CREATE,
                    words(&[flags(libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY), 0o666, 0, 0]),
                ),
            ] {
                host.say(opcode, parent, &[before, one.clone()].concat()).ok();
                host.assert_untouched();
            }
            let secret = host.sentinel().join("secret").to_string_lossy().into_owned();
            host.say(opcode::SYMLINK, parent, &text(&[&name, &secret])).ok();
            host.say(opcode::SYMLINK, parent, &text(&["planted", &name])).ok();
            host.say(opcode::UNLINK, parent, &text(&["planted"])).ok();
            for (old, new) in [("file", name.as_str()), (name.as_str(), "file")] {
                let names = text(&[old, new]);
                host.say(
                    opcode::RENAME,
                    parent,
                    &[ROOT.to_le_bytes().to_vec(), names.clone()].concat(),
                )
                .ok();
                // RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT.
                for how in [1, 2, 4] {
                    let mut body = ROOT.to_le_bytes().to_vec();
                    body.extend(words(&[how, 0]));
                    body.extend(&names);
                    host.say(opcode::RENAME2, parent, &body).ok();
                }
            }
            if let Ok(file) = host.say(opcode::LOOKUP, ROOT, &text(&["file"])) {
                let body = [file[..8].to_vec(), one].concat();
                host.say(opcode::LINK, parent, &body).ok();
            }
            host.assert_untouched();
        }
    }
}

/// A message that breaks the protocol is the last one: the server ends, by itself.
#[tokio::test]
async fn names_have_one_nul_at_their_end() {
    for name in [&b"file\0../sentinel/secret\0"[..], b"file", b"\0\0", b""] {
        for opcode in [opcode::LOOKUP, opcode::UNLINK, opcode::RMDIR] {
            let Some(mut host) = Host::new().await else { return };
            let length = u32::try_from(40 + name.len()).unwrap();
            let request = [header(length, opcode, ROOT), name.to_vec()].concat();
            match host.guest.say_raw(&request) {
                Outcome::Answered(reply) => assert!(reply.is_err(), "{name:?}"),
                Outcome::Taken => panic!("{name:?}"),
                Outcome::Refused => assert_eq!(host.server.process.wait().await, Exit::Code(1)),
            }
            assert!(host.directory.path().join("share/file").exists());
            host.assert_outside_untouched();
        }
    }
}

#[tokio::test]
async fn links_are_the_guests_to_follow() {
    let Some(mut host) = Host::new().await else { return };
    for link in ["to-file", "relative", "to-directory"] {
        let node = host.node(link);
        let target = host.say(opcode::READLINK, node, &[]).unwrap();
        assert!(String::from_utf8_lossy(&target).contains("sentinel"));
        for how in [
            0,
            OPEN_READ_WRITE,
            flags(libc::O_TRUNC | libc::O_WRONLY),
            flags(libc::O_PATH),
        ] {
            assert!(host.say(opcode::OPEN, node, &words(&[how, 0])).is_err(), "{link}");
        }
        assert!(
            host.say(opcode::OPENDIR, node, &words(&[0, 0])).is_err(),
            "{link}"
        );
        for (opcode, body) in [
            (opcode::LOOKUP, text(&["secret"])),
            (opcode::MKDIR, [words(&[0o777, 0]), text(&["planted"])].concat()),
            (opcode::UNLINK, text(&["secret"])),
        ] {
            assert!(host.say(opcode, node, &body).is_err(), "{link} {opcode}");
        }
        // FATTR_MODE, FATTR_SIZE and FATTR_UID of what it points to.
        for what in [1, 8, 2] {
            let mut body = words(&[what, 0]);
            body.resize(88, 0);
            host.say(opcode::SETATTR, node, &body).ok();
        }
        let value = [words(&[1, 0]), text(&["user.planted"]), b"x".to_vec()].concat();
        host.say(opcode::SETXATTR, node, &value).ok();
        let creation = words(&[flags(libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY), 0o666, 0, 0]);
        assert!(
            host.say(opcode::CREATE, ROOT, &[creation, text(&[link])].concat())
                .is_err(),
            "{link}"
        );
        host.assert_untouched();
    }
}

/// A directory that the guest knows becomes a link to the outside behind its back: CVE-2021-30465's race, lost.
#[tokio::test]
async fn a_node_stays_what_it_was() {
    let Some(mut host) = Host::new().await else { return };
    let inside = host.node("inside");
    let share = host.directory.path().join("share");
    fs::rename(share.join("inside"), share.join("was-inside")).unwrap();
    symlink(host.sentinel(), share.join("inside")).unwrap();
    assert_eq!(
        host.say(opcode::LOOKUP, inside, &text(&["secret"])),
        Err(libc::ENOENT)
    );
    let body = [words(&[0o777, 0]), text(&["planted"])].concat();
    host.say(opcode::MKDIR, inside, &body).unwrap();
    assert!(share.join("was-inside/planted").is_dir());
    host.assert_untouched();
}

#[tokio::test]
async fn devices_can_be_made_and_not_opened() {
    let Some(mut host) = Host::new().await else { return };
    let share = host.directory.path().join("share");
    for (name, kind, number) in [
        ("null", libc::S_IFCHR, 0x103),
        ("disk", libc::S_IFBLK, 0xfe00),
        ("kmsg", libc::S_IFCHR, 0x10b),
        ("pipe", libc::S_IFIFO, 0),
        ("socket", libc::S_IFSOCK, 0),
    ] {
        let body = [words(&[kind | 0o666, number, 0, 0]), text(&[name])].concat();
        let entry = host.say(opcode::MKNOD, ROOT, &body).unwrap();
        assert!(!share.join(name).symlink_metadata().unwrap().file_type().is_file());
        let node = u64::from_le_bytes(entry[..8].try_into().unwrap());
        for how in [0, 1, OPEN_READ_WRITE, flags(libc::O_NONBLOCK)] {
            let refused = host.say(opcode::OPEN, node, &words(&[how, 0]));
            assert!(refused.is_err(), "{name} {how}");
        }
    }
    assert!(
        share
            .join("disk")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_block_device()
    );
    host.assert_untouched();
}

#[tokio::test]
async fn attributes_that_mean_something_to_the_host_stay_within_the_share() {
    let Some(mut host) = Host::new().await else { return };
    let node = host.node("file");
    // What takes CAP_SYS_ADMIN, the server cannot do.
    let body = [words(&[1, 0]), text(&["trusted.overlay.opaque"]), b"y".to_vec()].concat();
    assert_eq!(host.say(opcode::SETXATTR, node, &body), Err(libc::EPERM));
    for name in [
        "../x",
        "user./../x",
        "security.evil",
        "system.posix_acl_access",
        "",
    ] {
        let body = [words(&[1, 0]), text(&[name]), b"y".to_vec()].concat();
        host.say(opcode::SETXATTR, node, &body).ok();
        host.say(opcode::GETXATTR, node, &[words(&[64, 0]), text(&[name])].concat())
            .ok();
    }
    host.assert_untouched();
}

#[tokio::test]
async fn nodes_that_were_never_given_out_are_none() {
    let Some(mut host) = Host::new().await else { return };
    let file = host.node("file");
    for node in [0, 2_000, u64::MAX, u64::MAX - 1, 1 << 63] {
        for (opcode, body) in [
            (opcode::GETATTR, vec![0; 16]),
            (opcode::LOOKUP, text(&["file"])),
            (opcode::OPEN, words(&[OPEN_READ_WRITE, 0])),
            (opcode::READLINK, vec![]),
            (
                opcode::RENAME,
                [node.to_le_bytes().to_vec(), text(&["a", "b"])].concat(),
            ),
        ] {
            assert!(host.say(opcode, node, &body).is_err(), "{node} {opcode}");
        }
        let body = [node.to_le_bytes().to_vec(), text(&["link"])].concat();
        assert!(host.say(opcode::LINK, ROOT, &body).is_err());
        let body = [node.to_le_bytes().to_vec(), text(&["file", "moved"])].concat();
        assert!(host.say(opcode::RENAME, ROOT, &body).is_err());
        // A handle that was never given out.
        let mut body = node.to_le_bytes().to_vec();
        body.extend(0_u64.to_le_bytes());
        body.extend(words(&[1, 0]));
        body.resize(40, 0);
        body.push(b'x');
        assert!(host.say(opcode::WRITE, file, &body).is_err());
    }
    host.assert_untouched();
}

#[tokio::test]
async fn nonsense_is_survived() {
    let Some(mut host) = Host::new().await else { return };
    for opcode in [0, 99, 4096, u32::MAX] {
        assert!(host.say(opcode, ROOT, &[0; 64]).is_err(), "{opcode}");
    }
    // The guest forgets its share, which is its own loss.
    let forget = [header(48, opcode::FORGET, ROOT), u64::MAX.to_le_bytes().to_vec()].concat();
    host.guest.say_raw(&forget);
    host.assert_outside_untouched();
}

/// Lengths that are not the message's; messages that end early.
#[tokio::test]
async fn a_message_that_is_none_ends_the_server_at_worst() {
    for (length, rest) in [(0, 0), (39, 0), (u32::MAX, 100), (40, 100), (1 << 20, 8)] {
        for opcode in [opcode::LOOKUP, opcode::SETXATTR, opcode::WRITE, opcode::RENAME2] {
            let Some(mut host) = Host::new().await else { return };
            let request = [header(length, opcode, ROOT), vec![0xff; rest]].concat();
            match host.guest.say_raw(&request) {
                Outcome::Refused => assert_eq!(host.server.process.wait().await, Exit::Code(1)),
                Outcome::Answered(_) | Outcome::Taken => host.assert_untouched(),
            }
            host.assert_outside_untouched();
        }
    }
}

#[tokio::test]
async fn the_server_ends_when_the_guest_hangs_up() {
    let Some(host) = Host::new().await else { return };
    drop(host.guest);
    assert_eq!(host.server.process.wait().await, Exit::Code(0));
}

/// Names, each with its end.
fn text(names: &[&str]) -> Vec<u8> {
    names
        .iter()
        .flat_map(|name| [name.as_bytes(), b"\0"].concat())
        .collect()
}

fn flags(flags: libc::c_int) -> u32 {
    flags.unsigned_abs()
}

fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

/// Everything at `path` and below it.
fn look(path: &Path) -> BTreeMap<PathBuf, Seen> {
    let status = path.symlink_metadata().unwrap();
    let mut found = BTreeMap::new();
    if status.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            found.extend(look(&entry.unwrap().path()));
        }
    }
    let content = if status.is_file() {
        fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let seen = Seen {
        mode: status.mode(),
        owner: (status.uid(), status.gid()),
        links: status.nlink(),
        changed: (status.ctime(), status.ctime_nsec()),
        content,
    };
    found.insert(path.to_owned(), seen);
    found
}

/// Beside this test's own program's directory.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join(name)
}
