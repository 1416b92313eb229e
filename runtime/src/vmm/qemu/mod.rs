//! QEMU's `microvm` machine.

use std::path::PathBuf;

use async_trait::async_trait;

pub mod parent;

use super::{VmInstance, VmSpec, Vmm, VmmError};

/// Starts QEMU under its parent, `bulkhead-vmm`.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// `bulkhead-vmm`.
    pub parent: PathBuf,
    /// `qemu-system-x86_64`: a path, or a name to look up in PATH.
    pub program: PathBuf,
}

#[async_trait]
impl Vmm for Qemu {
    async fn launch(&self, _spec: VmSpec) -> Result<VmInstance, VmmError> {
        Err(VmmError::Unsupported("start yet"))
    }
}
