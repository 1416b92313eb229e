//! Exits: from the guest's news to TaskExit and Wait.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use protobuf::MessageField;
use tokio::time::sleep;

use super::{Container, Process, Processes};
use crate::convert;
use crate::process_state::{Exit, ExitEffect};

/// How long init's exit waits for those of its execs, which the guest kills with it; then theirs are told
/// as [`KILLED`].
const EXECS_GRACE: Duration = Duration::from_secs(2);
/// 128 + SIGKILL.
pub const KILLED: u32 = 137;
/// SIGKILL's number.
const SIGKILL: u32 = 9;

impl Container {
    /// The guest has reaped a process. Its exit is told at once, unless its start has not been told yet
    /// or, for init, execs are still to come.
    pub fn exited(self: &Arc<Self>, exec_id: &str, status: u32, at: SystemTime) {
        let exit = Exit { status, at: Some(at) };
        let mut processes = self.lock();
        let Ok(process) = processes.get_mut(exec_id) else {
            tracing::debug!(container = %self.id, exec = exec_id, "exit of an unknown process");
            return;
        };
        if process.state.exited(exit) == ExitEffect::Ended {
            self.ended(&mut processes, exec_id, exit);
        }
    }

    /// A process was killed for want of memory.
    pub fn oom(&self) {
        let container_id = self.id.clone();
        self.publisher.publish(&TaskOOM {
            container_id,
            ..TaskOOM::default()
        });
    }

    /// The VM is gone: so are all processes, execs first.
    pub fn vm_gone(self: &Arc<Self>, at: SystemTime) {
        let exit = Exit {
            status: KILLED,
            at: Some(at),
        };
        let mut processes = self.lock();
        self.end_execs(&mut processes, exit);
        if processes.init.state.exited(exit) == ExitEffect::Ended {
            self.ended(&mut processes, "", exit);
        }
    }

    /// A process has just become stopped: tells it, now or in its turn.
    pub(super) fn ended(self: &Arc<Self>, processes: &mut Processes, exec_id: &str, exit: Exit) {
        let live_execs = processes.live_execs();
        if !exec_id.is_empty() {
            if let Some(exec) = processes.execs.get_mut(exec_id) {
                self.tell(exec_id, exec, exit, false);
            }
            self.exec_settled(processes);
        } else if let Some(exit) = processes.order.init_ended(exit, live_execs) {
            self.tell("", &mut processes.init, exit, true);
        } else {
            self.end_execs_later();
        }
    }

    /// An exec has ended or failed to start: init's exit may have waited for it.
    pub(super) fn exec_settled(&self, processes: &mut Processes) {
        let live_execs = processes.live_execs();
        if let Some(exit) = processes.order.exec_settled(live_execs) {
            self.tell("", &mut processes.init, exit, true);
        }
    }

    /// Asks the guest to kill what is left beside an init that ended (without a PID namespace of the
    /// container's own nobody else does), and stops waiting for it after a while.
    fn end_execs_later(self: &Arc<Self>) {
        let container = self.clone();
        tokio::spawn(async move {
            // It may have killed them already, or be gone: either way the wait below is what counts.
            drop(container.guest.kill("", SIGKILL, true).await);
            sleep(EXECS_GRACE).await;
            let mut processes = container.lock();
            if processes.order.is_holding() {
                tracing::warn!(container = %container.id, "execs not heard of after init's exit");
                container.end_execs(
                    &mut processes,
                    Exit {
                        status: KILLED,
                        at: Some(SystemTime::now()),
                    },
                );
            }
        });
    }

    fn end_execs(self: &Arc<Self>, processes: &mut Processes, exit: Exit) {
        let live = |(id, exec): (&String, &Process)| exec.state.is_live().then(|| id.clone());
        let ids: Vec<String> = processes.execs.iter().filter_map(live).collect();
        for id in ids {
            if processes
                .execs
                .get_mut(&id)
                .is_some_and(|e| e.state.exited(exit) == ExitEffect::Ended)
            {
                self.ended(processes, &id, exit);
            }
        }
    }

    /// Publishes an exit and releases whoever waits for it. The anchor goes first: its pid must be gone
    /// when the exit is known.
    fn tell(&self, exec_id: &str, process: &mut Process, exit: Exit, is_init: bool) {
        self.guest.process_exited(exec_id);
        if let Some(copies) = &mut process.copies {
            copies.process_exited(is_init);
        }
        self.publisher.publish(&TaskExit {
            container_id: self.id.clone(),
            id: if is_init {
                self.id.clone()
            } else {
                exec_id.to_owned()
            },
            pid: process.pid,
            exit_status: exit.status,
            exited_at: MessageField(exit.at.map(convert::timestamp).map(Box::new)),
            ..TaskExit::default()
        });
        process.ended.send_replace(Some(exit));
    }
}
