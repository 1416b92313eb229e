//! A process of a task, driven over containerd's gRPC API: its init, or an exec.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, DeleteTaskRequest, GetRequest, KillRequest, ResizePtyRequest,
    StartRequest, WaitRequest,
};
use containerd_client::tonic::Status;
use containerd_client::types::v1::{Process as State, Status as RunState};
use prost_types::Timestamp;

use crate::client::runtime;
use crate::daemon::Daemon;
use crate::deadline;
use crate::stdio::Stdio;

/// One process that containerd knows. `exec_id` is empty for a task's init.
pub struct Process<'d> {
    /// Where it runs.
    pub daemon: &'d Daemon,
    /// Its container.
    pub container_id: String,
    /// Its exec id, or empty.
    pub exec_id: String,
    /// The client's end of its streams.
    pub stdio: Stdio,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 and the signal.
    pub status: u32,
    /// When, by the shim's clock.
    pub at: SystemTime,
}

/// All there is to know of a process that has ended and is deleted.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
}

/// A Wait that has been sent.
pub struct Waiter {
    answer: Receiver<Result<Exit, Status>>,
}

// === impl Process ===

impl Process<'_> {
    /// Starts the process.
    pub fn try_start(&self) -> Result<u32, Status> {
        let client = self.daemon.client();
        let request = StartRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        };
        client
            .call(client.tasks().start(client.request(request)))
            .map(|answer| answer.pid)
    }

    /// Starts the process and gives the pid that containerd was told.
    #[track_caller]
    pub fn start(&self) -> u32 {
        self.try_start()
            .unwrap_or_else(|status| panic!("start {self}: {status}"))
    }

    /// Sends a Wait now; the answer is taken later.
    pub fn waiter(&self) -> Waiter {
        let client = self.daemon.client();
        let request = client.request(WaitRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        });
        let (sender, answer) = channel();
        runtime().spawn(async move {
            let result = client.tasks().wait(request).await.map(|answer| {
                let answer = answer.into_inner();
                Exit {
                    status: answer.exit_status,
                    at: system_time(answer.exited_at.as_ref()),
                }
            });
            // Nobody may want the answer any more.
            drop(sender.send(result));
        });
        Waiter { answer }
    }

    /// Waits for the process to end.
    #[track_caller]
    pub fn wait(&self) -> Exit {
        self.waiter().exit(deadline::LONG)
    }

    /// What containerd says of the process.
    pub fn try_state(&self) -> Result<State, Status> {
        let client = self.daemon.client();
        let request = GetRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
        };
        let answer = client.call(client.tasks().get(client.request(request)))?;
        answer
            .process
            .ok_or_else(|| Status::internal("an answer without a process"))
    }

    /// What containerd says of the process.
    #[track_caller]
    pub fn state(&self) -> State {
        self.try_state()
            .unwrap_or_else(|status| panic!("state of {self}: {status}"))
    }

    /// Created, running, stopped, or paused.
    #[track_caller]
    pub fn run_state(&self) -> RunState {
        self.state().status()
    }

    /// Sends a signal.
    pub fn try_kill(&self, signal: i32) -> Result<(), Status> {
        self.send_signal(signal, false)
    }

    /// Sends a signal.
    #[track_caller]
    pub fn kill(&self, signal: i32) {
        self.try_kill(signal)
            .unwrap_or_else(|status| panic!("kill {self} with {signal}: {status}"));
    }

    pub(crate) fn send_signal(&self, signal: i32, all: bool) -> Result<(), Status> {
        let client = self.daemon.client();
        let request = KillRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal: u32::try_from(signal).expect("a signal's number"),
            all,
        };
        client.call(client.tasks().kill(client.request(request)))
    }

    /// Deletes the process (a task's other resources too, where it is the init).
    pub fn try_delete(&self) -> Result<Exit, Status> {
        let client = self.daemon.client();
        let answer = if self.exec_id.is_empty() {
            let request = DeleteTaskRequest {
                container_id: self.container_id.clone(),
            };
            client.call(client.tasks().delete(client.request(request)))?
        } else {
            let request = DeleteProcessRequest {
                container_id: self.container_id.clone(),
                exec_id: self.exec_id.clone(),
            };
            client.call(client.tasks().delete_process(client.request(request)))?
        };
        Ok(Exit {
            status: answer.exit_status,
            at: system_time(answer.exited_at.as_ref()),
        })
    }

    /// Deletes the process.
    #[track_caller]
    pub fn delete(&self) -> Exit {
        self.try_delete()
            .unwrap_or_else(|status| panic!("delete {self}: {status}"))
    }

    /// Sets the terminal's size.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        let client = self.daemon.client();
        let request = ResizePtyRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            width,
            height,
        };
        client
            .call(client.tasks().resize_pty(client.request(request)))
            .unwrap_or_else(|status| panic!("resize {self}: {status}"));
    }

    /// Closes the writer's end of stdin and says so, as a client does whose own input has ended.
    #[track_caller]
    pub fn close_stdin(&mut self) {
        self.stdio.close_writer();
        let client = self.daemon.client();
        let request = CloseIoRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            stdin: true,
        };
        client
            .call(client.tasks().close_io(client.request(request)))
            .unwrap_or_else(|status| panic!("close stdin of {self}: {status}"));
    }

    /// Waits for the end, deletes, and gives all the output.
    #[track_caller]
    pub fn finish(&self) -> Finished {
        let exit = self.wait();
        self.delete();
        Finished {
            exit,
            stdout: self.stdio.stdout().to_end(deadline::ORDINARY),
            stderr: self.stdio.stderr().to_end(deadline::ORDINARY),
        }
    }
}

impl std::fmt::Display for Process<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.container_id)?;
        if !self.exec_id.is_empty() {
            write!(f, "/{}", self.exec_id)?;
        }
        Ok(())
    }
}

// === impl Waiter ===

impl Waiter {
    /// The exit, which must come within `limit`.
    #[track_caller]
    pub fn exit(self, limit: Duration) -> Exit {
        self.answer(limit)
            .unwrap_or_else(|status| panic!("wait: {status}"))
    }

    /// The answer, an exit or an error, which must come within `limit`.
    #[track_caller]
    pub fn answer(self, limit: Duration) -> Result<Exit, Status> {
        match self.answer.recv_timeout(deadline::scaled(limit)) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => panic!("Wait did not answer within {limit:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the waiting task is gone"),
        }
    }
}

// === impl Finished ===

impl Finished {
    /// Asserts the exit status.
    #[track_caller]
    pub fn expect_exit(&self, status: u32) -> &Self {
        assert_eq!(
            self.exit.status,
            status,
            "exit status; stdout {:?} stderr {:?}",
            self.text(),
            self.error_text()
        );
        self
    }

    /// Asserts all of stdout.
    #[track_caller]
    pub fn expect_stdout(&self, text: &str) -> &Self {
        assert_eq!(self.text(), text, "stdout; stderr is {:?}", self.error_text());
        self
    }

    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stderr as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A protobuf time stamp; the epoch where there is none.
pub(crate) fn system_time(timestamp: Option<&Timestamp>) -> SystemTime {
    timestamp
        .and_then(|stamp| SystemTime::try_from(*stamp).ok())
        .unwrap_or(UNIX_EPOCH)
}
