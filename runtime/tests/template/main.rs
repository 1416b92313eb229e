//! Templates with real VMs and the real agent: saved, restored, and everything that can be wrong with one.
//!
//! Needs what `tests/sandbox` needs; without it each test says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used)] // What is unwrapped is what is tested.

mod ahead;
mod bare;
mod copies;
mod killed;
mod life;
mod measure;
#[path = "../sandbox/rig.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod rig;
mod wrong;

use std::path::PathBuf;
use std::time::Duration;

use bulkhead_oci::sizing::Size;
use bulkhead_runtime::kvm;
use bulkhead_runtime::template::{self, Found, Key, Store, TemplateError};
use bulkhead_runtime::vmm::VmShape;
use bulkhead_runtime::vmm::qemu::Qemu;
use rig::{Rig, within};

/// The class of all VMs here.
const SIZE: Size = Size {
    vcpus: 1,
    memory_mib: 256,
};
/// Between two looks for what will happen.
const LOOK: Duration = Duration::from_millis(50);

/// A rig whose sandboxes are restored where they can be.
fn rig() -> Option<Rig> {
    let mut rig = Rig::new()?;
    rig.config.templates = true;
    rig.config.template_dir = rig.base.path().join("var/templates");
    Some(rig)
}

/// The same, with a template.
async fn rig_with_template() -> Option<Rig> {
    let rig = rig()?;
    build(&rig).await.unwrap();
    Some(rig)
}

async fn build(rig: &Rig) -> Result<template::Built, TemplateError> {
    within(template::build(&rig.config, &Qemu::new(&rig.config), SIZE)).await
}

async fn shape(rig: &Rig) -> VmShape {
    let accelerator = kvm::choose(&rig.config).await.unwrap();
    VmShape {
        vcpus: SIZE.vcpus,
        memory_mib: SIZE.memory_mib,
        accelerator,
        kernel: rig.config.kernel_for(accelerator),
        initramfs: rig.config.initramfs.clone(),
    }
}

async fn key(rig: &Rig) -> Key {
    Key::of(&rig.config, &Qemu::new(&rig.config), &shape(rig).await)
        .await
        .unwrap()
}

/// The template's file.
async fn path(rig: &Rig) -> PathBuf {
    rig.config
        .template_dir
        .join(format!("{}.vm", key(rig).await.name()))
}

/// Waits until a builder in the background has made the template.
async fn wait_for_template(rig: &Rig) {
    let (store, key) = (Store::new(&rig.config), key(rig).await);
    let there = async {
        while !matches!(store.find(&key), Ok(Found::Usable(_))) {
            tokio::time::sleep(LOOK).await;
        }
        // And nothing of it runs any more.
        let builders = rig.config.state_dir.join(".templates");
        while std::fs::read_dir(&builders).is_ok_and(|mut entries| entries.next().is_some()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    within(there).await;
}
