//! QEMU's `microvm` machine, under a parent of our own.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::instance::Control;
use super::{Accelerator, DeathReason, Disk, DiskAddress, Start, VmInstance, VmShape, VmSpec, Vmm, VmmError};
use crate::config::Config;
use crate::console::Console;
use crate::jail::{Executable, Jail};
use crate::process::Launch;
use command_line::{Machine, command_line};
use parent::{AGENT_FD, LOCK_FD, ParentConfig, QMP_FD, SAVED_FD, SHARE_FD, TAP_FD};
use qmp::Qmp;

pub mod command_line;
mod disks;
mod examine;
mod joined;
pub mod parent;
mod qmp;
mod saved;
pub mod tsc;

/// The parent enters its cgroups and starts QEMU: milliseconds, on a host that is not at its end.
const READY_DEADLINE: Duration = Duration::from_secs(10);
/// Between SIGKILL and the end of a QEMU, or from its hanging up to its end; longer is stuck in the kernel.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Gives out user numbers, in the state directory.
const USERS: &str = "users";
/// Where programs are looked for if PATH does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts QEMU under its parent, `bulkhead-vmm`.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// `bulkhead-vmm`.
    pub parent: PathBuf,
    /// `qemu-system-x86_64`: a path, or a name to look up in PATH.
    pub program: PathBuf,
    /// Where findings about the host are remembered until it boots again.
    pub cache: PathBuf,
}

impl Qemu {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self {
            parent: config.helper(parent::PROGRAM),
            program: config.qemu.clone(),
            cache: config.state_dir.clone(),
        }
    }

    /// The command line, without what only a VM that is saved or restored has.
    async fn command(&self, shape: &VmShape, share: bool, tap: bool) -> Result<Vec<OsString>, VmmError> {
        let program = find(&self.program)?;
        let tsc_khz = match shape.accelerator {
            Accelerator::Kvm => None,
            Accelerator::Tcg => {
                let cache = self.cache.clone();
                // A measurement that fails is as good as a counter that is not steady.
                tokio::task::spawn_blocking(move || tsc::frequency_khz(&cache))
                    .await
                    .ok()
                    .flatten()
            }
        };
        let machine = Machine {
            program: &program,
            kernel: &shape.kernel,
            initramfs: &shape.initramfs,
            accelerator: shape.accelerator,
            vcpus: shape.vcpus,
            memory_mib: shape.memory_mib,
            tsc_khz,
            share,
            tap,
        };
        Ok(command_line(&machine))
    }

    /// What confines QEMU: it sees its own files, and the guest's kernel and initramfs.
    async fn jail(&self, shape: &VmShape) -> Result<Jail, VmmError> {
        let (program, state) = (find(&self.program)?, self.cache.clone());
        let executable = tokio::task::spawn_blocking(move || {
            Executable::of_qemu(&program, &state)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))
        });
        Ok(Jail {
            executable: executable
                .await
                .unwrap_or_else(|panic| Err(io::Error::other(panic)))
                .map_err(prepare("look at QEMU"))?,
            files: vec![shape.kernel.clone(), shape.initramfs.clone()],
            kvm: shape.accelerator == Accelerator::Kvm,
            users: self.cache.join(USERS),
        })
    }
}

#[async_trait]
impl Vmm for Qemu {
    async fn launch(&self, spec: VmSpec) -> Result<VmInstance, VmmError> {
        let (share, tap) = (spec.share.is_some(), spec.tap.is_some());
        let mut command = self.command(&spec.shape, share, tap).await?;
        command.extend(saved::options(&spec.start));
        let command = command.into_iter().map(utf8).collect::<Result<_, _>>()?;
        let restores = matches!(spec.start, Start::Restore(_));
        let jail = self.jail(&spec.shape).await?;
        let console = Console::create(&spec.console_log).map_err(prepare("create the console log"))?;
        let (output, said) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| prepare("make the console's pipe")(error.into()))?;
        console
            .collect(output)
            .map_err(prepare("read the console's pipe"))?;
        let (agent, agent_end) = socket().map_err(prepare("make the agent's socket"))?;
        let (control, control_end) = socket().map_err(prepare("make the control channel"))?;

        let mut descriptors = vec![(spec.lock, LOCK_FD), (control_end, QMP_FD), (agent_end, AGENT_FD)];
        descriptors.extend(spec.share.map(|share| (share, SHARE_FD)));
        descriptors.extend(spec.tap.map(|tap| (tap, TAP_FD)));
        descriptors.extend(saved::file(spec.start).map(|file| (file, SAVED_FD)));
        let config = ParentConfig {
            command,
            descriptors: descriptors.iter().map(|(_, number)| *number).collect(),
            placement: spec.placement,
            jail,
        };
        let config =
            serde_json::to_vec(&config).map_err(|error| prepare("write the configuration")(error.into()))?;
        let complaints = said.try_clone().map_err(prepare("make the console's pipe"))?;
        let mut launch = Launch::new(&self.parent)
            .config(config)
            .watchdog()
            .reports()
            .stdout(said)
            .stderr(complaints);
        for (descriptor, number) in descriptors {
            launch = launch.descriptor(descriptor, number);
        }
        let mut process = launch.spawn()?;
        let monitor = process.ready(READY_DEADLINE).await?;
        let control = Arc::new(Qmp::start(control));
        let qmp = Arc::clone(&control);
        let instance = VmInstance {
            agent: Mutex::new(Some(agent)),
            process,
            monitor,
            console,
            control,
        };
        if restores && let Err(error) = saved::restore(&qmp).await {
            return Err(give_up(&instance, error).await);
        }
        Ok(instance)
    }

    async fn saved_identity(&self, shape: &VmShape) -> Result<Option<String>, VmmError> {
        let (share, tap) = (true, true);
        let command = self.command(shape, share, tap).await?;
        let program = PathBuf::from(&command[0]);
        let identity = tokio::task::spawn_blocking(move || saved::identity(&program, &command)).await;
        match identity {
            Ok(identity) => identity.map(Some).map_err(prepare("look at QEMU")),
            Err(_) => Err(VmmError::Unsupported("say what it is")),
        }
    }
}

#[async_trait]
impl Control for Qmp {
    async fn pause(&self) -> Result<(), VmmError> {
        self.execute("stop", Value::Null).await.map(drop)
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.execute("cont", Value::Null).await.map(drop)
    }

    async fn quit(&self) -> Result<(), VmmError> {
        self.execute("quit", Value::Null).await.map(drop)
    }

    async fn save(&self, deadline: Duration) -> Result<(), VmmError> {
        saved::save(self, deadline).await
    }

    async fn last_words(&self) -> Option<DeathReason> {
        Self::last_words(self).await
    }

    async fn examine(&self) -> Result<String, VmmError> {
        examine::examine(self).await
    }

    async fn plug(&self, disks: Vec<Disk>) -> Result<(), VmmError> {
        disks::plug(self, disks).await
    }

    async fn unplug(&self, disks: &[DiskAddress]) -> Result<(), VmmError> {
        disks::unplug(self, disks).await
    }
}

/// Ends a VM that could not be restored, so that nothing of it is in the way of what comes next.
async fn give_up(instance: &VmInstance, error: VmmError) -> VmmError {
    // A QEMU that cannot read its VM ends by itself, with better words.
    let has_ended = matches!(error, VmmError::Broken(_));
    if !has_ended && let Err(error) = instance.kill() {
        return error;
    }
    match timeout(END_DEADLINE, instance.died()).await {
        Ok(death) if has_ended => VmmError::Died(death),
        _ => error,
    }
}

/// A connected pair: ours for tokio, and theirs.
fn socket() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

fn prepare(action: &'static str) -> impl Fn(io::Error) -> VmmError {
    move |source| VmmError::Prepare { action, source }
}

/// The configuration that carries it is text.
fn utf8(argument: OsString) -> Result<String, VmmError> {
    argument.into_string().map_err(|argument| {
        let source = io::Error::new(io::ErrorKind::InvalidInput, format!("{argument:?} is not UTF-8"));
        VmmError::Prepare {
            action: "write the command line",
            source,
        }
    })
}

/// A program's path: a name without a slash is looked up as a shell would.
pub(crate) fn find(program: &Path) -> Result<PathBuf, VmmError> {
    if program.components().count() > 1 {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file());
    found.ok_or_else(|| VmmError::NotFound {
        program: program.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(find(Path::new("sh")).unwrap().ends_with("bin/sh"));
        assert_eq!(find(Path::new("/x/qemu")).unwrap(), Path::new("/x/qemu"));
        let error = find(Path::new("qemu-system-vax")).unwrap_err();
        assert_eq!(error.to_string(), "qemu-system-vax not found in PATH");
    }
}
