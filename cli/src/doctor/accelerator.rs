//! What will execute guests: KVM, or translation at a fraction of the speed.

use std::fs::OpenOptions;

use bulkhead_runtime::config::Config;

use super::Check;

const DEVICE: &str = "/dev/kvm";

pub(super) fn checks(_config: &Config) -> Vec<Check> {
    vec![match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Check::ok("kvm", format!("{DEVICE} opens")),
        Err(error) => Check::warning(
            "kvm",
            format!("{DEVICE}: {error}"),
            "enable virtualisation in the firmware",
        ),
    }]
}
