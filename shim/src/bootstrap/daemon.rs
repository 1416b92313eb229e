//! Which containerd is talking to us, where neither flags nor environment tell: 1.7 and 2.0 to 2.2 call
//! `start` alike and need different answers.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Where the last answer is kept: running the daemon's binary costs some 30 ms, at every `start`.
const CACHE: &str = "/run/bulkhead/containerd-version.json";
/// For `containerd --version`, which only prints.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often its end is looked for.
const POLL: Duration = Duration::from_millis(2);

/// A binary's version, valid as long as the file is the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cached {
    dev: u64,
    ino: u64,
    mtime_ns: i128,
    major: Option<u32>,
}

/// Major version of the containerd that is our parent, or `None` if our parent is none or does not say.
pub fn parents_major() -> Option<u32> {
    let binary = PathBuf::from(format!("/proc/{}/exe", nix::unistd::getppid()));
    major_of(&binary, Path::new(CACHE))
}

fn major_of(binary: &Path, cache: &Path) -> Option<u32> {
    let meta = fs::metadata(binary).ok()?;
    let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    let known = fs::read(cache)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    if let Some(known) = known
        && (known.dev, known.ino, known.mtime_ns) == (meta.dev(), meta.ino(), mtime_ns)
    {
        return known.major;
    }
    let major = parse(&ask(binary).ok()?);
    let fresh = Cached {
        dev: meta.dev(),
        ino: meta.ino(),
        mtime_ns,
        major,
    };
    // Without the cache the next start asks again.
    drop(store(cache, &fresh));
    major
}

fn ask(binary: &Path) -> io::Result<String> {
    let mut child = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > DEADLINE {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(POLL);
    }
    // One line, which the pipe has held since before the process ended.
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}

/// `containerd github.com/containerd/containerd/v2 v2.1.9 1b9c…`, or Debian's `… 1.7.24~ds1 …`.
fn parse(line: &str) -> Option<u32> {
    let mut words = line.split_whitespace();
    if words.next()? != "containerd" {
        return None;
    }
    let version = words.nth(1)?;
    version
        .strip_prefix('v')
        .unwrap_or(version)
        .split('.')
        .next()?
        .parse()
        .ok()
}

fn store(cache: &Path, value: &Cached) -> io::Result<()> {
    let dir = cache.parent().unwrap_or(Path::new("/"));
    // Others keep their state there.
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = tempfile_in(dir)?;
    serde_json::to_writer(&mut file.1, value)?;
    fs::rename(&file.0, cache)
}

/// A file of this process alone, to be renamed: several `start`s may ask at once.
fn tempfile_in(dir: &Path) -> io::Result<(PathBuf, fs::File)> {
    let path = dir.join(format!(".containerd-version.{}", std::process::id()));
    let file = fs::File::create(&path)?;
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn version_lines_of_real_daemons() {
        let lines = [
            (
                "containerd github.com/containerd/containerd/v2 v2.1.9 1b9c0f3",
                Some(2),
            ),
            (
                "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1\n",
                Some(1),
            ),
            ("containerd github.com/containerd/containerd v1.7.34 abc", Some(1)),
            ("containerd containerd.io 1.7.27 05044ec", Some(1)),
            ("GNU bash, version 5.2.15(1)-release", None),
            ("containerd github.com/containerd/containerd unknown", None),
            ("", None),
        ];
        for (line, major) in lines {
            assert_eq!(parse(line), major, "{line}");
        }
    }

    #[test]
    fn a_binary_is_asked_once_and_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (binary, cache) = (dir.path().join("containerd"), dir.path().join("cache/v.json"));
        let install = |version: &str| {
            fs::remove_file(&binary).ok();
            let asked = dir.path().join("asked");
            let script = format!(
                "#!/bin/sh\necho >> {}\necho containerd x {version}\n",
                asked.display()
            );
            fs::write(&binary, script).unwrap();
            fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let times_asked = || {
            fs::read_to_string(dir.path().join("asked"))
                .unwrap()
                .lines()
                .count()
        };

        install("1.7.24");
        assert_eq!(major_of(&binary, &cache), Some(1));
        assert_eq!(major_of(&binary, &cache), Some(1));
        assert_eq!(times_asked(), 1);
        install("v2.1.9");
        assert_eq!(major_of(&binary, &cache), Some(2));
        assert_eq!(times_asked(), 2);
    }
}
