//! What will execute guests: KVM, or translation at a fraction of the speed.

use std::io;

use bulkhead_runtime::config::{AcceleratorChoice, Config};
use bulkhead_runtime::kvm::{self, Verdict};
use bulkhead_runtime::vmm::Accelerator;

use super::Check;

const ID: &str = "accelerator";

pub(super) fn check(config: &Config) -> Check {
    if config.accelerator == AcceleratorChoice::Tcg {
        return Check::ok(ID, "tcg, as configured");
    }
    match verdict(config) {
        Ok(verdict) => judge(config, verdict),
        Err(error) => Check::warning(ID, format!("KVM could not be probed: {error}"), "try again"),
    }
}

/// What will execute guests. Where nothing may, which [`check`] says, it is what was asked for.
pub(super) fn chosen(config: &Config) -> Accelerator {
    match wait_for(kvm::choose(config)) {
        Ok(Ok(accelerator)) => accelerator,
        Ok(Err(_)) | Err(_) => Accelerator::Kvm,
    }
}

/// Of this boot: remembered, or found out now.
fn verdict(config: &Config) -> io::Result<Verdict> {
    wait_for(kvm::verdict(config))
}

fn wait_for<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

fn judge(config: &Config, verdict: Verdict) -> Check {
    if verdict.usable {
        return Check::ok(ID, format!("kvm: {}", verdict.evidence));
    }
    let remedy = verdict
        .remedy
        .unwrap_or_else(|| "set `accelerator` to \"tcg\"".into());
    let falls_back = config.accelerator == AcceleratorChoice::Auto && config.allow_tcg_fallback;
    if falls_back {
        let evidence = format!(
            "tcg, for KVM is not usable: {}; guests are translated, and slow",
            verdict.evidence
        );
        Check::warning(ID, evidence, remedy)
    } else {
        let evidence = format!(
            "KVM is not usable: {}; the configuration allows nothing else",
            verdict.evidence
        );
        Check::fatal(ID, evidence, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn verdict(usable: bool) -> Verdict {
        Verdict {
            usable,
            evidence: "seen".into(),
            remedy: (!usable).then(|| "do this".into()),
        }
    }

    #[test]
    fn what_the_configuration_allows_decides_how_bad_it_is() {
        let auto = Config::default();
        let strict = Config {
            allow_tcg_fallback: false,
            ..Config::default()
        };
        let kvm = Config {
            accelerator: AcceleratorChoice::Kvm,
            ..Config::default()
        };
        assert_eq!(judge(&auto, verdict(true)).status, Status::Ok);
        assert_eq!(judge(&auto, verdict(false)).status, Status::Warning);
        assert_eq!(judge(&strict, verdict(false)).status, Status::Fatal);
        assert_eq!(judge(&kvm, verdict(false)).status, Status::Fatal);
        assert_eq!(judge(&kvm, verdict(false)).remedy.as_deref(), Some("do this"));
    }

    #[test]
    fn translation_by_choice_needs_no_probe() {
        let tcg = Config {
            accelerator: AcceleratorChoice::Tcg,
            ..Config::default()
        };
        assert_eq!(check(&tcg).status, Status::Ok);
    }
}
