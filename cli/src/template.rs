//! `bulkhead template`: the saved VMs that sandboxes are restored from.

use std::io::{self, Write};
use std::time::SystemTime;

use bulkhead_oci::sizing::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB, Size};
use bulkhead_runtime::config::Config;
use bulkhead_runtime::process::boot_id;
use bulkhead_runtime::template::{self, LOWERED_BY, Saved, Store, TemplateError};
use bulkhead_runtime::vmm::Accelerator;
use bulkhead_runtime::vmm::qemu::Qemu;
use clap::Subcommand;
use displaydoc::Display;
use serde::Serialize;
use thiserror::Error;

use crate::output;

/// How a size is printed.
const MIB: u64 = 1 << 20;

/// What to do with templates.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make the template of one class of VMs. Exit code: 0 it is there, 2 it is not.
    Build {
        /// Virtual CPUs of the class; the configured default if not given.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_VCPUS)))]
        vcpus: Option<u32>,
        /// Memory of the class in MiB; the configured default if not given.
        #[arg(long, value_parser = clap::value_parser!(u32).range(i64::from(MIN_MEMORY_MIB)..=i64::from(MAX_MEMORY_MIB)))]
        memory_mib: Option<u32>,
        /// Give way to whatever else runs.
        #[arg(long)]
        background: bool,
    },
    /// List the templates.
    Ls {
        /// One JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove templates. Sandboxes that were restored from them are not concerned.
    Rm {
        /// Their names, as `ls` prints them.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All of them.
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
}

/// Why nothing was done.
#[derive(Debug, Display, Error)]
pub enum ActionError {
    /// no template: {0}
    Template(#[from] TemplateError),
    /// there is no template {0}
    Absent(String),
    /// cannot start: {0}
    Runtime(io::Error),
    /// cannot write to standard output: {0}
    Output(#[from] io::Error),
}

/// One template, as JSON has it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `false` for one of another boot of the host, or whose file is not as it was written.
    usable: bool,
    vcpus: Option<u32>,
    memory_mib: Option<u32>,
    accelerator: Option<Accelerator>,
    version: Option<String>,
    bytes: u64,
    age_seconds: Option<u64>,
    unused_seconds: u64,
}

/// Does it.
pub fn run(action: &Action, config: &Config, out: &mut impl Write) -> Result<(), ActionError> {
    match action {
        Action::Build {
            vcpus,
            memory_mib,
            background,
        } => {
            if *background {
                // Where it cannot, it competes.
                rustix::process::nice(LOWERED_BY).ok();
            }
            let size = Size {
                vcpus: vcpus.unwrap_or(config.default_vcpus),
                memory_mib: memory_mib.unwrap_or(config.default_memory_mib),
            };
            build(config, size, out)
        }
        Action::Ls { json } => {
            let rows: Vec<_> = Store::new(config).list()?.into_iter().map(row).collect();
            Ok(write(out, &rows, *json)?)
        }
        Action::Rm { names, all } => {
            let store = Store::new(config);
            if *all {
                store.remove_all()?;
            }
            for name in names {
                if !store.remove(name)? {
                    return Err(ActionError::Absent(name.clone()));
                }
            }
            Ok(())
        }
    }
}

fn build(config: &Config, size: Size, out: &mut impl Write) -> Result<(), ActionError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ActionError::Runtime)?;
    let qemu = Qemu::new(config);
    let built = runtime.block_on(template::build(config, &qemu, size))?;
    writeln!(out, "{} in {:.1} s", built.key.name(), built.took.as_secs_f64())?;
    Ok(())
}

fn row(saved: Saved) -> Row {
    let seconds_since = |time: SystemTime| time.elapsed().map_or(0, |age| age.as_secs());
    let boot = boot_id().ok();
    let header = saved.header.as_ref();
    let key = header.map(|header| &header.key);
    Row {
        name: saved.name,
        usable: key.is_some_and(|key| Some(&key.boot_id) == boot.as_ref()),
        vcpus: key.map(|key| key.vcpus),
        memory_mib: key.map(|key| key.memory_mib),
        accelerator: key.map(|key| key.accelerator),
        version: key.map(|key| key.version.clone()),
        bytes: saved.bytes,
        age_seconds: header.map(|header| {
            seconds_since(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(header.created_at))
        }),
        unused_seconds: seconds_since(saved.used_at),
    }
}

fn write(out: &mut impl Write, rows: &[Row], json: bool) -> io::Result<()> {
    if json {
        return output::json(out, &rows);
    }
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.name.clone(),
                or_none(row.vcpus.map(|vcpus| vcpus.to_string())),
                or_none(row.memory_mib.map(|mib| format!("{mib} MiB"))),
                or_none(
                    row.accelerator
                        .map(|accelerator| format!("{accelerator:?}").to_lowercase()),
                ),
                format!("{} MiB", row.bytes.div_ceil(MIB)),
                or_none(row.age_seconds.map(output::age)),
                output::age(row.unused_seconds),
                if row.usable { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    let heading = [
        "TEMPLATE",
        "VCPUS",
        "MEMORY",
        "ACCELERATOR",
        "SIZE",
        "AGE",
        "UNUSED",
        "USABLE",
    ];
    output::table(out, heading, &cells)
}
