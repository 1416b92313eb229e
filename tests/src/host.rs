//! What the host's process table says of one container.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::deadline;

/// A process of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostProcess {
    /// Its pid.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its name, 15 bytes at most.
    pub name: String,
    /// Its arguments, with spaces between.
    pub command: String,
}

// === impl HostProcess ===

impl HostProcess {
    /// Every process there is.
    pub fn all() -> Vec<HostProcess> {
        let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
        entries
            .filter_map(|entry| HostProcess::read(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// The shim that serves a container.
    #[track_caller]
    pub fn shim_of(daemon: &Daemon, id: &str) -> HostProcess {
        let marks = [
            format!("-namespace {} ", daemon.namespace()),
            format!("-id {id} "),
        ];
        let is_shim = |process: &HostProcess| {
            marks
                .iter()
                .all(|mark| format!("{} ", process.command).contains(mark))
                && process.command.contains("containerd-shim")
        };
        let found: Vec<HostProcess> = HostProcess::all().into_iter().filter(is_shim).collect();
        assert_eq!(found.len(), 1, "shims of {id}: {found:?}");
        found[0].clone()
    }

    /// Every shim of a daemon, with the id it was started for.
    pub fn shims(daemon: &Daemon) -> Vec<(HostProcess, String)> {
        let mark = format!("-namespace {} ", daemon.namespace());
        let shims = HostProcess::all()
            .into_iter()
            .filter(|process| process.command.contains(&mark));
        let with_id = shims.filter_map(|process| {
            let id = process
                .command
                .split(' ')
                .skip_while(|word| *word != "-id")
                .nth(1)?
                .to_owned();
            Some((process, id))
        });
        with_id.collect()
    }

    /// This process's children, their children, and so on.
    pub fn descendants(&self) -> Vec<HostProcess> {
        let all = HostProcess::all();
        let mut found: Vec<HostProcess> = Vec::new();
        let mut parents = vec![self.pid];
        while let Some(parent) = parents.pop() {
            for child in all.iter().filter(|process| process.parent == parent) {
                parents.push(child.pid);
                found.push(child.clone());
            }
        }
        found
    }

    /// The descendant of that name.
    #[track_caller]
    pub fn descendant(&self, name: &str) -> HostProcess {
        let all = self.descendants();
        let found = all.iter().find(|process| process.name.starts_with(name));
        found
            .unwrap_or_else(|| panic!("no {name} under the shim: {all:?}"))
            .clone()
    }

    /// The VM under this shim, once there is but one: while a template is made there are two.
    #[track_caller]
    pub fn vmm(&self) -> HostProcess {
        deadline::poll("one VM under the shim", deadline::LONG, || {
            let all = self.descendants().into_iter();
            let mut vms = all.filter(|process| process.name.starts_with("qemu-system"));
            let first = vms.next()?;
            vms.next().is_none().then_some(first)
        })
    }

    /// Its proportional set size in KiB.
    #[track_caller]
    pub fn pss(&self) -> u64 {
        let file = format!("/proc/{}/smaps_rollup", self.pid);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no Pss in {file}"))
    }

    /// Sends SIGKILL.
    #[track_caller]
    pub fn kill(&self) {
        let pid = Pid::from_raw(i32::try_from(self.pid).expect("a pid"));
        kill(pid, Signal::SIGKILL).unwrap_or_else(|error| panic!("kill {self:?}: {error}"));
    }

    /// Waits until the process is gone, or is another one with the same pid.
    #[track_caller]
    pub fn expect_gone(&self) {
        deadline::poll(format!("the end of {self:?}"), deadline::ORDINARY, || {
            let now = HostProcess::read(self.pid);
            now.is_none_or(|now| now.name != self.name || now.is_zombie())
                .then_some(())
        });
    }

    fn is_zombie(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    }

    fn read(pid: u32) -> Option<HostProcess> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may contain any of them.
        let (name, rest) = (stat.find('(')?, stat.rfind(')')?);
        let parent = stat[rest + 2..].split(' ').nth(1)?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(HostProcess {
            pid,
            parent,
            name: stat[name + 1..rest].to_owned(),
            command: String::from_utf8_lossy(&command)
                .replace('\0', " ")
                .trim_end()
                .to_owned(),
        })
    }
}
