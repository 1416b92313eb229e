//! Where the documentation says more of a check.

/// Pages and headings of this repository, by the ids of checks.
const PAGES: &[(&str, &str)] = &[
    ("config", "docs/configuration.md#etcbulkheadconfigtoml"),
    ("accelerator", "docs/vmm.md#kvm-or-not"),
    ("kernel", "docs/vmm.md#two-kernels"),
    ("checksums", "docs/doctor.md#images-and-their-checksums"),
    ("qemu", "docs/vmm.md#a-start-step-by-step"),
    ("kernel-release", "docs/sharing.md#read-only"),
    ("kernel-options", "docs/doctor.md#the-hosts-kernel"),
    ("cgroup", "docs/host-resources.md#cgroups"),
    (
        "state-dir",
        "docs/host-resources.md#what-a-sandbox-holds-on-the-host",
    ),
    ("sandboxes", "docs/host-resources.md#delete"),
    ("templates", "docs/templates.md#for-operators"),
    ("template-space", "docs/templates.md#for-operators"),
    ("swap", "docs/jail.md#limits"),
    ("page-merging", "docs/jail.md#limits"),
    ("processor", "docs/jail.md#limits"),
    ("landlock", "docs/jail.md#how-it-is-done"),
    ("ownership", "docs/jail.md#who-may-change-what-is-run"),
    ("shim", "docs/shim.md#two-processes-one-binary"),
    ("containerd", "docs/configuration.md#configuration"),
    ("containerd-version", "docs/shim.md#start"),
];
/// Of those that have no other page.
const OWN: &str = "docs/doctor.md#bulkhead-doctor";

pub(super) fn page(id: &str) -> &'static str {
    let found = PAGES.iter().find(|(of, _)| *of == id);
    found.map_or(OWN, |(_, page)| page)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A heading as links call it.
    fn anchor(heading: &str) -> String {
        let kept = heading
            .trim_start_matches(['#', ' '])
            .to_lowercase()
            .replace(' ', "-");
        let is_kept = |c: &char| c.is_alphanumeric() || *c == '-' || *c == '_';
        kept.chars().filter(is_kept).collect()
    }

    #[test]
    fn every_link_leads_somewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (id, page) in PAGES.iter().chain(&[("", OWN)]) {
            let (file, heading) = page.split_once('#').unwrap();
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            let headings = text.lines().filter(|line| line.starts_with('#'));
            assert!(headings.map(anchor).any(|of| of == heading), "{id}: {page}");
        }
    }
}
