//! The orderly end: kill, sync, unmount, power off.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use tokio::time::{Instant, sleep};

use super::mounts::SHARE;
use crate::agent::Agent;

/// How long killed processes may take to be gone before the machine ends with them.
const DIE: Duration = Duration::from_secs(1);

/// How often their number is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Kills every container and writes everything back. Nothing in here can fail the end: what does not work
/// is left to the power-off that follows.
pub async fn stop_everything(agent: &Agent) {
    let containers = agent.layout.cgroups.join("containers");
    // The whole subtree at once.
    let _ = fs::write(containers.join("cgroup.kill"), "1");
    let deadline = Instant::now() + DIE;
    while is_populated(&containers) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    if agent.layout.is_guest {
        nix::unistd::sync();
        // Lazily: a process in an uninterruptible wait may still hold it, and must not keep us.
        let _ = umount2(SHARE, MntFlags::MNT_DETACH);
        nix::unistd::sync();
    }
}

/// Ends the machine. Without ACPI there is no power switch: the kernel resets (`reboot=t`), and the VMM
/// runs with `-no-reboot`, which makes a reset the end.
pub fn power_off(agent: &Agent) {
    if agent.layout.is_guest {
        // It does not return; if it does, the end of PID 1 is the end of the kernel too.
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    }
    std::process::exit(0);
}

fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}
