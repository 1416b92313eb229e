//! Saving a VM to a file and restoring it, by QEMU's migration to and from a file.
//!
//! The file is one that QEMU inherits, as an fdset: it opens no path. With `mapped-ram` each page has its place
//! in the file, pages of zeros take none, and a restored VM has only those pages in memory that are not zero.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::parent::SAVED_FD;
use super::qmp::{Migration, Qmp};
use crate::template::FileIdentity;
use crate::vmm::{SAVED_OFFSET, Start, VmmError};

/// Number of the fdset that the file is in.
const FD_SET: u32 = 1;
/// Restoring takes 20 ms, and a little for each MiB that the guest uses; the rest is for a busy host. One that
/// takes longer is better booted.
const RESTORE_DEADLINE: Duration = Duration::from_secs(15);

/// The entry of one processor in /proc/cpuinfo is shorter than this.
const CPUINFO_LENGTH: usize = 4096;

/// What the command line has beside that of a VM which boots and is never saved.
pub(super) fn options(start: &Start) -> Vec<OsString> {
    let set = format!("fd={SAVED_FD},set={FD_SET}");
    let words = match start {
        Start::Boot => vec![],
        Start::BootToSave(_) => vec!["-add-fd", &set],
        Start::Restore(_) => vec!["-add-fd", &set, "-incoming", "defer"],
    };
    words.into_iter().map(OsString::from).collect()
}

/// The file, if there is one.
pub(super) fn file(start: Start) -> Option<OwnedFd> {
    match start {
        Start::Boot => None,
        Start::BootToSave(file) | Start::Restore(file) => Some(file),
    }
}

/// Names what a saved VM depends on beside its file: the program, what it is told, and the host's processor,
/// which a guest that has booted goes on to use as it found it.
pub(super) fn identity(program: &Path, command: &[OsString]) -> io::Result<String> {
    let program = FileIdentity::of(program)?;
    let processor = processor()?;
    Ok(format!("{program} {command:?} {processor}"))
}

/// The first processor's model and flags. Not the rest of the file, which a host with many takes long to write.
fn processor() -> io::Result<String> {
    let mut text = vec![0; CPUINFO_LENGTH];
    let length = File::open("/proc/cpuinfo")?.read(&mut text)?;
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    let lasting = |line: &&str| {
        ["vendor", "cpu family", "model", "stepping", "microcode", "flags"]
            .iter()
            .any(|name| line.starts_with(name))
    };
    let first = text.split("\n\n").next().unwrap_or_default();
    Ok(first.lines().filter(lasting).collect::<Vec<_>>().join(";"))
}

/// Stops the VM and writes it.
pub(super) async fn save(qmp: &Qmp, deadline: Duration) -> Result<(), VmmError> {
    qmp.execute("stop", Value::Null).await?;
    migrate(qmp, "migrate", "saved", deadline).await
}

/// Reads a VM, which has been started to do so, and lets it run.
pub(super) async fn restore(qmp: &Qmp) -> Result<(), VmmError> {
    migrate(qmp, "migrate-incoming", "restored", RESTORE_DEADLINE).await?;
    qmp.execute("cont", Value::Null).await.map(drop)
}

async fn migrate(
    qmp: &Qmp,
    command: &'static str,
    action: &'static str,
    deadline: Duration,
) -> Result<(), VmmError> {
    let on = |capability| json!({ "capability": capability, "state": true });
    // QEMU tells of progress only if it is asked to.
    let capabilities = json!({ "capabilities": [on("mapped-ram"), on("events")] });
    qmp.execute("migrate-set-capabilities", capabilities).await?;
    let progress = qmp.migration();
    let uri = format!("file:/dev/fdset/{FD_SET},offset={SAVED_OFFSET}");
    qmp.execute(command, json!({ "uri": uri })).await?;
    match timeout(deadline, progress).await {
        Ok(Some(Migration::Completed)) => Ok(()),
        Ok(Some(Migration::Failed)) => {
            let status = qmp.execute("query-migrate", Value::Null).await?;
            let message = status["error-desc"].as_str().unwrap_or("it does not say why");
            Err(VmmError::Migration {
                action,
                message: message.to_owned(),
            })
        }
        Ok(None) => Err(VmmError::Broken("QEMU has closed it".to_owned())),
        Err(_) => Err(VmmError::Slow {
            command,
            after: deadline,
        }),
    }
}
