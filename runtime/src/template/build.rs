//! Making a template: a VM is booted, put to sleep and saved.

use std::time::{Duration, Instant};

use bulkhead_oci::NetworkNamespace;
use bulkhead_oci::sizing::Size;
use tokio::time::timeout;

use super::{Key, Store, TemplateError};
use crate::cleanup;
use crate::config::Config;
use crate::kvm;
use crate::sandbox::{self, ErrorKind, SandboxError, SandboxRequest};
use crate::vmm::{VmShape, Vmm};

/// Below the state directory, where the VM of a template that is being made has its things. No namespace of
/// containerd's starts with a dot.
const NAMESPACE: &str = ".templates";
/// A second or two where nothing else goes on; it gives way to everything else. Longer is not worth it.
const DEADLINE: Duration = Duration::from_secs(180);

/// A template that has been made.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its key.
    pub key: Key,
    /// How long it took.
    pub took: Duration,
}

/// Makes the template of VMs of `size`, in the place of any there is. Dropping the future leaves nothing behind.
///
/// # Errors
/// `Busy` where another process makes it already; otherwise what failed, which is noted, so that no sandbox has
/// it tried again for a while.
pub async fn build(config: &Config, vmm: &dyn Vmm, size: Size) -> Result<Built, TemplateError> {
    let begun = Instant::now();
    let accelerator = kvm::choose(config)
        .await
        .map_err(|error| SandboxError::doing(ErrorKind::FailedPrecondition, "KVM", &error))?;
    let shape = VmShape {
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        accelerator,
        kernel: config.kernel_for(accelerator),
        initramfs: config.initramfs.clone(),
    };
    let key = Key::of(config, vmm, &shape).await?;
    let store = Store::new(config);
    let made = match timeout(DEADLINE, make(config, vmm, size, &store, &key)).await {
        Ok(made) => made,
        Err(_) => Err(TemplateError::Slow(DEADLINE.as_secs())),
    };
    match made {
        Ok(()) => Ok(Built {
            key,
            took: begun.elapsed(),
        }),
        Err(TemplateError::Busy) => Err(TemplateError::Busy),
        Err(error) => {
            store.note_failure(&key, &error.to_string());
            Err(error)
        }
    }
}

async fn make(
    config: &Config,
    vmm: &dyn Vmm,
    size: Size,
    store: &Store,
    key: &Key,
) -> Result<(), TemplateError> {
    let draft = store.draft(key.clone())?;
    // Builders that were killed have left some.
    let ours = config.state_dir.join(NAMESPACE);
    tokio::task::spawn_blocking(move || cleanup::abandoned(&ours))
        .await
        .map_err(|_| TemplateError::Panicked("cleaning up"))?;
    let file = draft.file().map_err(|source| TemplateError::File {
        path: config.template_dir.clone(),
        source,
    })?;
    let request = SandboxRequest {
        namespace: NAMESPACE.to_owned(),
        id: key.name(),
        config: config.clone(),
        sizing: size,
        network: NetworkNamespace::New,
        hostname: None,
        cgroups_path: "".into(),
    };
    sandbox::save(&request, vmm, file).await?;
    // It writes everything to the disk.
    tokio::task::spawn_blocking(move || draft.publish())
        .await
        .unwrap_or(Err(TemplateError::Panicked("writing it")))
}
