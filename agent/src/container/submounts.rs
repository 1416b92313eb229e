//! What the host mounts below a volume that follows it appears in the container as a mount of its own, which the
//! kernel makes when somebody first looks inside. A guest that remembers one keeps the host from unmounting it,
//! so the idle ones are let go: the next look makes them again.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::time::{MissedTickBehavior, interval};

use super::State;
use crate::agent::Agent;
use crate::lock;
use crate::sys;

/// How often idle mounts are looked for. One that nobody has touched between two visits goes with the second:
/// kubelet tries again to unmount a volume for minutes.
const VISIT: Duration = Duration::from_secs(5);

/// Visits between two times that the kernel forgets files, of which it may know some of a mount that nobody has
/// looked into. Not at each: it has to ask the host for them again.
const FORGET_EVERY: u32 = 6;

/// File system of the share and of all that is mounted in it.
const SHARE: &[u8] = b"virtiofs";

/// Lets go of idle mounts, for ever.
pub async fn let_go(agent: &Arc<Agent>) {
    let mut visits = interval(VISIT);
    visits.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for visit in 0_u32.. {
        visits.tick().await;
        let mut inits = followers(agent);
        while inits.is_empty() {
            // A guest without them sleeps undisturbed.
            agent.followed.notified().await;
            visits.reset();
            inits = followers(agent);
        }
        let mut forget = visit % FORGET_EVERY == 0;
        for (pid, init) in inits {
            // The container may have ended, and has let go of everything then.
            let Ok(table) = std::fs::read(format!("/proc/{pid}/mountinfo")) else {
                continue;
            };
            let points = points(&table);
            if !points.is_empty() {
                let expired = tokio::task::spawn_blocking(move || expire(&init, &points)).await;
                forget |= expired.is_ok_and(|any| any);
            }
        }
        if forget {
            agent.forget_shared_files().await;
        }
    }
}

/// Inits of the running containers that follow the host.
fn followers(agent: &Agent) -> Vec<(i32, OwnedFd)> {
    let mut registry = lock(&agent.registry);
    let following = registry
        .all()
        .map(|(_, container)| &*container)
        .filter(|container| container.surroundings.follows_host && container.state == State::Running);
    let pids = following.map(|container| container.init.pid);
    // One that cannot be opened has ended.
    pids.filter_map(|pid| Some((pid, sys::pidfd_open(pid).ok()?)))
        .collect()
}

/// Unmounts those of `points` in the mount namespace of `init` that have been idle since the last call.
/// Says whether there were any.
fn expire(init: &OwnedFd, points: &[PathBuf]) -> bool {
    let unmount = || -> nix::Result<bool> {
        // A thread that is to enter a mount namespace must share its root and directory with no other.
        unshare(CloneFlags::CLONE_FS)?;
        setns(init, CloneFlags::CLONE_NEWNS)?;
        let flags = MntFlags::MNT_EXPIRE | MntFlags::UMOUNT_NOFOLLOW;
        // Those inside others were made later, and go first. EAGAIN marks; the rest is in use, or gone.
        let expired = points.iter().rev().filter(|point| umount2(*point, flags).is_ok());
        Ok(expired.count() > 0)
    };
    // A thread of its own, which ends: nobody else is to find itself in the container.
    let outcome = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, unmount);
        thread
            .map_err(|_| Errno::EAGAIN)?
            .join()
            .map_err(|_| Errno::EIO)?
    });
    // The container may be ending. If not, the next visit is the next try.
    outcome.unwrap_or(false)
}

/// Where the mounts of the host are that have appeared in a container, in the order in which they did. Unlike what
/// is bound from the share, each shows its own root.
fn points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|&byte| byte == b'\n');
    let fields = lines.map(|line| line.split(|&byte| byte == b' ').collect::<Vec<_>>());
    fields
        .filter_map(|fields| {
            // proc(5): the fourth and fifth field, and the first one after the dash.
            let (root, point) = (*fields.get(3)?, *fields.get(4)?);
            let dash = fields.iter().position(|field| *field == b"-")?;
            let is_whole = root == b"/" && *fields.get(dash + 1)? == SHARE;
            is_whole.then(|| PathBuf::from(OsString::from_vec(unescape(point))))
        })
        .collect()
}

/// Undoes the kernel's octal escapes of blanks, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(digits.unwrap_or(byte));
        rest = if digits.is_some() { &tail[3..] } else { tail };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_host_are_told_from_what_is_bound_from_the_share() {
        let table = b"90 80 0:30 /c/rootfs / rw - virtiofs share rw\n\
            91 90 0:31 / /proc rw - proc proc rw\n\
            92 90 0:30 /c/mounts/0 /data ro - virtiofs share rw\n\
            93 92 0:40 / /data/a\\040b ro,nodev shared:3 - virtiofs share rw\n\
            94 93 0:41 / /data/a\\040b/in\\134side ro - virtiofs share rw\n\
            broken\n";
        assert_eq!(
            points(table),
            [PathBuf::from("/data/a b"), PathBuf::from("/data/a b/in\\side")]
        );
    }
}
