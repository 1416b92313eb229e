//! Has a template made by a process of its own, which outlives the shim that started it and no VM of it.

use std::io::{self, Write};
use std::process::Stdio;

use bulkhead_oci::sizing::Size;
use rustix::fs::MemfdFlags;

use crate::config::Config;
use crate::vmm::VmmError;
use crate::vmm::qemu;

/// The program, beside the shim.
const PROGRAM: &str = "bulkhead";
/// Where it finds its configuration.
const STDIN: &str = "/dev/stdin";
/// By how much a template that nobody waits for gives way to sandboxes that somebody does.
pub const LOWERED_BY: i32 = 5;

/// Why no template is being made.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
enum BackgroundError {
    /// cannot write its configuration: {0}
    Config(#[from] toml::ser::Error),
    /// cannot start `bulkhead template build`: {0}
    Start(#[from] io::Error),
    /// {0}
    Vmm(#[from] VmmError),
}

/// Has the template of VMs of `size` made, soon and by somebody else. Nothing that goes wrong concerns the caller.
pub fn build_soon(config: &Config, size: Size) {
    match spawn(config, size) {
        Ok(pid) => tracing::info!(
            pid,
            "a template is being made of VMs with {} vCPUs and {} MiB",
            size.vcpus,
            size.memory_mib
        ),
        Err(error) => tracing::warn!("no template: {error}"),
    }
}

fn spawn(config: &Config, size: Size) -> Result<u32, BackgroundError> {
    let mut config = config.clone();
    // It has no PATH to find it in.
    config.qemu = qemu::find(&config.qemu)?;
    let text = toml::to_string(&config)?;
    let mut file = std::fs::File::from(
        rustix::fs::memfd_create(c"config", MemfdFlags::CLOEXEC).map_err(io::Error::from)?,
    );
    file.write_all(text.as_bytes())?;
    io::Seek::rewind(&mut file)?;
    let mut command = tokio::process::Command::new(config.helper(PROGRAM));
    command
        .args(["--config", STDIN, "template", "build", "--background"])
        .args(["--vcpus", &size.vcpus.to_string()])
        .args(["--memory-mib", &size.memory_mib.to_string()])
        .env_clear()
        .current_dir("/")
        // Signals to the shim's group are not for it.
        .process_group(0)
        .stdin(Stdio::from(file))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let pid = child.id().unwrap_or_default();
    tokio::spawn(async move {
        // It notes beside the templates why it has failed. Here it is only reaped.
        child.wait().await.ok();
    });
    Ok(pid)
}
