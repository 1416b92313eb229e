//! The VM, its helper, and the host's resources they use: ended together, in that order.

use std::sync::{Arc, OnceLock};

use tokio::time::timeout;

use super::host::Host;
use super::{ErrorKind, SandboxError, deadlines};
use crate::process::ProcessHandle;
use crate::vmm::VmInstance;

/// Everything of one sandbox that has to be given back.
pub(super) struct Machine {
    /// What is on the host.
    pub host: Host,
    /// Of a VM that was restored, successfully or not.
    pub restored: Processes,
    /// Of a VM that was booted.
    pub booted: Processes,
}

/// The processes of one attempt to start the VM.
#[derive(Default)]
pub(super) struct Processes {
    /// The file-sharing server, once started.
    pub fs_server: OnceLock<ProcessHandle>,
    /// The VM, once started.
    pub vm: OnceLock<VmInstance>,
}

impl Machine {
    /// The VM, once started.
    pub fn vm(&self) -> Option<&VmInstance> {
        self.booted.vm.get().or_else(|| self.restored.vm.get())
    }

    /// The file-sharing server, once started.
    pub fn fs_server(&self) -> Option<&ProcessHandle> {
        self.booted
            .fs_server
            .get()
            .or_else(|| self.restored.fs_server.get())
    }

    /// Kills what still runs and waits for its end. May be called again.
    ///
    /// # Errors
    /// A process does not die.
    pub async fn stop(&self) -> Result<(), SandboxError> {
        self.restored.end().await?;
        self.booted.end().await
    }

    /// [`Machine::stop`], and gives everything back. May be called again.
    ///
    /// # Errors
    /// A process does not die, or something could not be given back.
    pub async fn end(self: &Arc<Self>) -> Result<(), SandboxError> {
        self.stop().await?;
        let machine = Arc::clone(self);
        // A panic in there is a bug that the panic hook has reported.
        tokio::task::spawn_blocking(move || machine.host.release())
            .await
            .unwrap_or_else(|_| Err(SandboxError::new(ErrorKind::Internal, "clean-up panicked")))
    }
}

impl Processes {
    /// Kills what still runs and waits for its end. May be called again.
    ///
    /// # Errors
    /// A process does not die.
    pub async fn end(&self) -> Result<(), SandboxError> {
        if let Some(vm) = self.vm.get() {
            vm.kill()?;
            if timeout(deadlines::VMM_END, vm.process().wait()).await.is_err() {
                let message = format!("the VMM, process {}, does not die", vm.process().pid());
                return Err(SandboxError::new(ErrorKind::DeadlineExceeded, message));
            }
        }
        if let Some(server) = self.fs_server.get()
            && timeout(deadlines::FS_SERVER_END, server.wait()).await.is_err()
        {
            server.kill()?;
            server.wait().await;
        }
        Ok(())
    }
}

/// Owns a machine: dropping it ends the machine, in the background.
pub(super) struct Owner(Arc<Machine>);

impl Owner {
    pub fn new(host: Host) -> Self {
        Self(Arc::new(Machine {
            host,
            restored: Processes::default(),
            booted: Processes::default(),
        }))
    }

    /// The machine, without owning it.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let machine = Arc::clone(&self.0);
        let end = async move {
            if let Err(error) = machine.end().await {
                tracing::warn!("clean-up: {error}");
            }
        };
        // Without a runtime this process is about to exit: the watchdogs end the VM, `delete` the rest.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end);
        }
    }
}
