//! Whether KVM can really run a guest here.
//!
//! A `/dev/kvm` that opens, makes VMs and runs small programs may still be useless: a KVM in software emulates
//! instruction by instruction. So a small program of our own (`bulkhead-vmm probe-kvm`) runs a loop that a
//! processor finishes in 0.1 ms and an emulator never does. The verdict is remembered until the host boots.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::cache::BootCache;
use crate::config::{AcceleratorChoice, Config};
use crate::process::{Exit, Launch, ProcessError};
use crate::vmm::Accelerator;
use crate::vmm::qemu::parent::PROGRAM;

pub mod probe;

/// Argument that makes `bulkhead-vmm` probe KVM.
pub const PROBE_ARGUMENT: &str = "probe-kvm";
/// File name of the remembered verdict.
const CACHE: &str = "kvm.json";
/// The whole probe takes 1 ms on hardware, 51 ms nested in an emulator, where a busy host adds its own.
const DEADLINE: Duration = Duration::from_secs(2);
/// A busy host may make a processor late, but hardly every time; an emulator is late every time.
const ATTEMPTS: usize = 3;
/// The probe prints one verdict.
const MAX_VERDICT: u64 = 4096;

/// What was found out about KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether guests can run on it.
    pub usable: bool,
    /// What was seen.
    pub evidence: String,
    /// What the operator can do about it, if it is not usable.
    pub remedy: Option<String>,
}

/// How one run of the probe ended.
enum Probe {
    Answered(Verdict),
    /// Its alarm killed it.
    TooSlow,
}

/// Why no accelerator could be chosen.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum KvmError {
    /// KVM is not usable here: {evidence}. {remedy}
    NotUsable {
        /// What was seen.
        evidence: String,
        /// What to do about it.
        remedy: String,
    },
}

impl Verdict {
    pub(crate) fn usable(evidence: impl Into<String>) -> Self {
        Self {
            usable: true,
            evidence: evidence.into(),
            remedy: None,
        }
    }

    pub(crate) fn unusable(evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            usable: false,
            evidence: evidence.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// What executes the guests of this configuration on this host.
pub async fn choose(config: &Config) -> Result<Accelerator, KvmError> {
    if config.accelerator == AcceleratorChoice::Tcg {
        return Ok(Accelerator::Tcg);
    }
    let verdict = verdict(config).await;
    let fallback = config.accelerator == AcceleratorChoice::Auto && config.allow_tcg_fallback;
    if verdict.usable {
        Ok(Accelerator::Kvm)
    } else if fallback {
        tracing::info!(
            evidence = verdict.evidence,
            "KVM is not usable: guests are translated"
        );
        Ok(Accelerator::Tcg)
    } else {
        let remedy = verdict.remedy.unwrap_or_default();
        Err(KvmError::NotUsable {
            evidence: verdict.evidence,
            remedy,
        })
    }
}

/// The verdict on this host's KVM, remembered or found out now.
pub async fn verdict(config: &Config) -> Verdict {
    let cache = cache(&config.state_dir);
    if let Some(verdict) = cache.read() {
        return verdict;
    }
    let verdict = find_out(config).await;
    cache.write(&verdict);
    verdict
}

/// A verdict holds for one device: who loads the module, or changes the device's mode, gets a new one.
fn cache(state: &Path) -> BootCache {
    let device = fs::metadata("/dev/kvm")
        .ok()
        .map(|meta| (meta.ino(), meta.mode(), meta.ctime(), meta.ctime_nsec()));
    BootCache::about(format!("{device:?}"), state.join(CACHE))
}

async fn find_out(config: &Config) -> Verdict {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !has_virtualization(&cpuinfo) {
        let device = if Path::new("/dev/kvm").exists() {
            "/dev/kvm is there, but"
        } else {
            "no /dev/kvm, and"
        };
        return Verdict::unusable(
            format!("{device} the processor offers this machine neither VMX nor SVM"),
            "Enable virtualization in the firmware or, in a virtual machine, nested virtualization",
        );
    }
    probe(&config.helper(PROGRAM)).await
}

async fn probe(program: &Path) -> Verdict {
    for _ in 0..ATTEMPTS {
        match run_probe(program).await {
            Ok(Probe::Answered(verdict)) => return verdict,
            Ok(Probe::TooSlow) => {}
            Err(error) => {
                return Verdict::unusable(
                    format!("the probe failed: {error}"),
                    "Run it by hand: bulkhead-vmm probe-kvm",
                );
            }
        }
    }
    Verdict::unusable(
        format!(
            "a loop of {} instructions did not end within {:?}, {ATTEMPTS} times",
            2 * probe::ITERATIONS,
            probe::PATIENCE
        ),
        "This KVM emulates every instruction (as kvm_pvm does): use a host with hardware virtualization",
    )
}

/// Nine microseconds that spare most hosts without KVM everything else.
fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    flags
        .split_ascii_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm")
}

async fn run_probe(program: &Path) -> Result<Probe, ProcessError> {
    let failed = |source| ProcessError::Spawn {
        program: program.to_owned(),
        source,
    };
    let (answer, output) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let probe = Launch::new(program).arg(PROBE_ARGUMENT).stdout(output).spawn()?;
    let Ok(exit) = timeout(DEADLINE, probe.wait()).await else {
        return Err(ProcessError::Slow {
            program: program.to_owned(),
            after: DEADLINE,
        });
    };
    match exit {
        Exit::Code(0) => {
            let mut text = Vec::new();
            fs::File::from(answer)
                .take(MAX_VERDICT)
                .read_to_end(&mut text)
                .map_err(&failed)?;
            let verdict = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
            Ok(Probe::Answered(verdict))
        }
        Exit::Signal(signal) if signal == nix::libc::SIGALRM => Ok(Probe::TooSlow),
        exit => Err(ProcessError::Ended {
            program: program.to_owned(),
            exit,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &std::path::Path, accelerator: AcceleratorChoice, fallback: bool) -> Config {
        Config {
            accelerator,
            allow_tcg_fallback: fallback,
            state_dir: directory.to_owned(),
            ..Config::default()
        }
    }

    fn remember(directory: &std::path::Path, verdict: &Verdict) {
        cache(directory).write(verdict);
    }

    #[tokio::test]
    async fn a_usable_kvm_is_used_unless_translation_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        remember(directory.path(), &Verdict::usable("seen"));
        let choose = |choice| {
            let config = config(directory.path(), choice, true);
            async move { choose(&config).await.unwrap() }
        };
        assert_eq!(choose(AcceleratorChoice::Auto).await, Accelerator::Kvm);
        assert_eq!(choose(AcceleratorChoice::Kvm).await, Accelerator::Kvm);
        assert_eq!(choose(AcceleratorChoice::Tcg).await, Accelerator::Tcg);
    }

    #[tokio::test]
    async fn an_unusable_kvm_is_an_error_unless_falling_back_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        remember(directory.path(), &Verdict::unusable("no svm", "Buy one"));
        let auto = config(directory.path(), AcceleratorChoice::Auto, true);
        assert_eq!(choose(&auto).await.unwrap(), Accelerator::Tcg);
        for (choice, fallback) in [(AcceleratorChoice::Auto, false), (AcceleratorChoice::Kvm, true)] {
            let error = choose(&config(directory.path(), choice, fallback))
                .await
                .unwrap_err();
            assert_eq!(error.to_string(), "KVM is not usable here: no svm. Buy one");
        }
    }

    #[test]
    fn flags_are_words() {
        assert!(has_virtualization("flags : fpu svm lm"));
        assert!(has_virtualization("flags : vmx"));
        assert!(!has_virtualization("flags : fpu svm_lock vmxnet"));
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_an_emulator() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("bulkhead-vmm");
        fs::write(&program, "#!/bin/sh\nkill -ALRM $$\n").unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let verdict = probe(&program).await;
        assert!(
            !verdict.usable && verdict.evidence.contains("200000 instructions"),
            "{verdict:?}"
        );
    }

    #[tokio::test]
    async fn a_probe_that_is_late_once_is_run_again() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("bulkhead-vmm");
        let script = format!(
            "#!/bin/sh\ncd {}\n[ -e late ] || {{ touch late; kill -ALRM $$; }}\n\
             echo '{{\"usable\":true,\"evidence\":\"seen\",\"remedy\":null}}'\n",
            directory.path().display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(probe(&program).await, Verdict::usable("seen"));
    }
}
