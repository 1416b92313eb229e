use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// Runs `attempts` in a process confined by `rules`, as root with every capability, and says which came to pass,
/// by name. So nothing but the rules stops any.
#[allow(unsafe_code)]
fn confined(rules: Vec<(PathBuf, Right)>, attempts: Vec<(&'static str, Attempt)>) -> Option<Vec<String>> {
    let (mut ours, mut theirs) = io::pipe().unwrap();
    let attempt_all = move || {
        let rules = rules.iter().map(|(path, right)| (path.as_path(), *right));
        rustix::thread::set_no_new_privs(true)?;
        let support = restrict(rules).map_err(io::Error::other)?;
        io::Write::write_all(&mut theirs, format!("{support:?}\n").as_bytes())?;
        for (name, attempt) in &attempts {
            if attempt().is_ok() {
                io::Write::write_all(&mut theirs, format!("{name}\n").as_bytes())?;
            }
        }
        Err(io::ErrorKind::Other.into())
    };
    let mut command = Command::new("/bin/true");
    // SAFETY: it allocates, which the C library makes fit for a child of a process with threads.
    unsafe { command.pre_exec(attempt_all) };
    command.spawn().unwrap_err();
    drop(command);
    let mut said = String::new();
    io::Read::read_to_string(&mut ours, &mut said).unwrap();
    let mut lines = said.lines().map(str::to_owned);
    match lines.next().unwrap().as_str() {
        "Full" => Some(lines.collect()),
        support => {
            eprintln!("skipped: {support} of the rules in this kernel");
            None
        }
    }
}

type Attempt = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

fn attempt(what: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Attempt {
    Box::new(what)
}

fn open(path: PathBuf) -> Attempt {
    attempt(move || File::open(&path).map(drop))
}

#[test]
fn a_monitor_reads_what_is_listed_and_executes_its_program_alone() {
    let directory = tempfile::tempdir().unwrap();
    let [listed, other] = ["listed", "other"].map(|name| directory.path().join(name));
    fs::write(&listed, "").unwrap();
    fs::write(&other, "").unwrap();
    let leak = File::open(directory.path()).unwrap();
    let through = PathBuf::from(format!("/proc/self/fd/{}/other", leak.as_raw_fd()));
    let program = fs::canonicalize("/bin/true").unwrap();
    let read = [program.clone(), listed.clone()];
    let rules = of_a_monitor([program.as_path()], read.iter().map(PathBuf::as_path), false)
        .map(|(path, right)| (path.to_owned(), right))
        .collect();
    let write = |path: PathBuf| attempt(move || OpenOptions::new().write(true).open(&path).map(drop));
    let make = other.with_file_name("made");
    let gone = other.clone();
    let executable = PathBuf::from("/bin/sh");
    let attempts = vec![
        ("read listed", open(listed.clone())),
        ("read null", open("/dev/null".into())),
        ("write null", write("/dev/null".into())),
        ("write listed", write(listed)),
        ("read other", open(other.clone())),
        ("read other through a descriptor", open(through)),
        ("read zero", open("/dev/zero".into())),
        ("list", attempt(|| fs::read_dir("/").map(drop))),
        ("make", attempt(move || File::create(&make).map(drop))),
        ("remove", attempt(move || fs::remove_file(&gone))),
        (
            "execute another",
            attempt(move || Err(Command::new(&executable).exec())),
        ),
        ("keep what is open", attempt(move || leak.try_clone().map(drop))),
    ];
    let Some(came_to_pass) = confined(rules, attempts) else {
        return;
    };
    let expected = ["read listed", "read null", "write null", "keep what is open"];
    assert_eq!(came_to_pass, expected);
}

#[test]
fn a_file_server_does_everything_below_its_root_and_reaches_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let [root, outside] = ["root", "outside"].map(|name| directory.path().join(name));
    fs::create_dir_all(root.join("one")).unwrap();
    fs::create_dir(root.join("two")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "").unwrap();
    let address = SocketAddr::from_abstract_name(format!("bulkhead-{}", std::process::id())).unwrap();
    let _named = UnixListener::bind_addr(&address).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap();
    let parent = rustix::process::getpid();
    let below = root.clone();
    let attempts = vec![
        (
            "make and move",
            attempt(move || {
                fs::write(below.join("one/file"), "text")?;
                fs::rename(below.join("one/file"), below.join("two/file"))?;
                fs::hard_link(below.join("two/file"), below.join("one/link"))?;
                std::os::unix::fs::symlink("target", below.join("one/symlink"))?;
                fs::remove_dir_all(below.join("one"))?;
                OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(below.join("two/file"))
                    .map(drop)
            }),
        ),
        ("read outside", open(outside.join("file"))),
        ("connect", attempt(move || TcpStream::connect(port).map(drop))),
        ("bind", attempt(|| TcpListener::bind("127.0.0.1:0").map(drop))),
        (
            "connect to a name without a file",
            attempt(move || UnixStream::connect_addr(&address).map(drop)),
        ),
        ("pair", attempt(|| UnixDatagram::pair().map(drop))),
        (
            "signal",
            attempt(move || Ok(rustix::process::test_kill_process(parent)?)),
        ),
    ];
    let Some(came_to_pass) = confined(vec![(root, Right::Everything)], attempts) else {
        return;
    };
    assert_eq!(came_to_pass, ["make and move", "pair"]);
}

#[test]
fn the_file_servers_root_is_all_that_it_has() {
    assert_eq!(of_a_file_server(), [(Path::new("/"), Right::Everything)]);
}
