//! The orderly end: kill, sync, unmount, power off.

use std::fs;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use tokio::time::timeout;

use super::mounts::SHARE;
use crate::agent::Agent;
use crate::container::State;
use crate::lock;

/// How long killed processes may take to be gone before the machine ends with them.
const DIE: Duration = Duration::from_secs(1);

/// Kills every container, has the host told of it, and writes everything back. Nothing in here can fail
/// the end: what does not work is left to the power-off that follows.
pub async fn stop_everything(agent: &Agent) {
    // The whole subtree at once.
    let _ = fs::write(agent.layout.cgroups.join("containers/cgroup.kill"), "1");
    let all_stopped = async {
        loop {
            let reaped = agent.reaped.notified();
            tokio::pin!(reaped);
            // Registers before looking, so that a reaping in between is not missed.
            reaped.as_mut().enable();
            if lock(&agent.registry)
                .all()
                .all(|(_, container)| container.state == State::Stopped)
            {
                return;
            }
            reaped.await;
        }
    };
    // Those that have not died by then die with the machine.
    let _ = timeout(DIE, all_stopped).await;
    if agent.layout.is_guest {
        agent.disks.unmount_all();
        nix::unistd::sync();
        // Lazily: a process in an uninterruptible wait may still hold it, and must not keep us.
        let _ = umount2(SHARE, MntFlags::MNT_DETACH);
        nix::unistd::sync();
    }
}

/// Ends the machine. Without ACPI there is no power switch: the kernel resets (`reboot=t`), and the VMM
/// runs with `-no-reboot`, which makes a reset the end.
pub fn power_off(agent: &Agent) -> ! {
    if agent.layout.is_guest {
        reset();
    }
    std::process::exit(0);
}

/// [`power_off`], of a guest that runs nothing.
pub fn reset() -> ! {
    // It does not return; if it does, the end of PID 1 is the end of the kernel too.
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    std::process::exit(0);
}
