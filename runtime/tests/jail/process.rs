//! What /proc and the cgroup file system say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A process, or a thread, by number.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

/// An open descriptor.
#[derive(Debug)]
pub struct Descriptor {
    /// Its place in /proc.
    pub path: PathBuf,
    /// What it is open on.
    pub target: PathBuf,
}

/// A part of an address space.
#[derive(Debug)]
pub struct Mapping {
    /// `VmFlags`, see proc_pid_smaps(5).
    pub flags: String,
    pub resident_kib: u64,
}

impl Process {
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub fn namespace(&self, kind: &str) -> PathBuf {
        fs::read_link(self.path("ns").join(kind)).unwrap()
    }

    /// A line of `status`.
    pub fn status(&self, key: &str) -> String {
        let text = self.read("status");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("no {key} in {text}"));
        line.trim().to_owned()
    }

    pub fn hexadecimal(&self, key: &str) -> u64 {
        u64::from_str_radix(&self.status(key), 16).unwrap()
    }

    /// A hard limit.
    pub fn limit(&self, name: &str) -> String {
        let text = self.read("limits");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    pub fn threads(&self) -> Vec<Self> {
        let entries = fs::read_dir(self.path("task")).unwrap();
        entries
            .map(|entry| Self(entry.unwrap().file_name().to_str().unwrap().parse().unwrap()))
            .collect()
    }

    pub fn descriptors(&self) -> Vec<Descriptor> {
        let entries = fs::read_dir(self.path("fd")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        // One that has been closed since is none.
        paths
            .filter_map(|path| {
                let target = fs::read_link(&path).ok()?;
                Some(Descriptor { path, target })
            })
            .collect()
    }

    /// The options of every mount that it sees.
    pub fn mounts(&self) -> Vec<String> {
        let text = self.read("mountinfo");
        let options = text
            .lines()
            .map(|line| line.split(' ').nth(5).unwrap().to_owned());
        options.collect()
    }

    /// Everything that it sees and that is no directory.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        collect(&self.root(), Path::new("/"), &mut found);
        found
    }

    pub fn mapping(&self, name: &str) -> Mapping {
        let text = self.read("smaps");
        let from = text.find(name).unwrap_or_else(|| panic!("no {name} in {text}"));
        let field = |key: &str| {
            let line = text[from..]
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap();
            line.trim().to_owned()
        };
        let resident = field("Rss:");
        Mapping {
            flags: field("VmFlags:"),
            resident_kib: resident.split(' ').next().unwrap().parse().unwrap(),
        }
    }
}

fn collect(root: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) {
    let here = root.join(below.strip_prefix("/").unwrap());
    for entry in fs::read_dir(here).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, found);
        } else {
            found.insert(path);
        }
    }
}

/// A cgroup of the memory controller's, v1 or v2, for one test.
pub struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// `None` where there is no such controller.
    pub fn new() -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let root = if v1.is_dir() {
            v1
        } else {
            Path::new("/sys/fs/cgroup")
        };
        let directory = root.join(format!("bulkhead-jail-test-{}", std::process::id()));
        fs::create_dir(&directory).ok()?;
        let cgroup = Self(directory);
        cgroup.0.join("memory.stat").exists().then_some(cgroup)
    }

    pub fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Bytes of shared memory charged to it.
    pub fn shared_memory(&self) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.stat")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("shmem ")).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // What the test was about has been checked.
        fs::remove_dir(&self.0).ok();
    }
}
