//! What this node does that lets one guest learn of another, whatever Bulkhead does.

use std::fs;
use std::path::Path;

use bulkhead_runtime::jail::landlock::{Support, support};

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    vec![
        swap(&fs::read_to_string("/proc/swaps").unwrap_or_default()),
        page_merging(fs::read_to_string("/sys/kernel/mm/ksm/run").ok().as_deref()),
        processor(Path::new("/sys/devices/system/cpu/vulnerabilities")),
        landlock(support()),
    ]
}

/// `/proc/swaps` has a heading and a line for each area.
fn swap(areas: &str) -> Check {
    const ID: &str = "swap";
    let on_disk: Vec<&str> = areas
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter(|name| !name.starts_with("/dev/zram"))
        .collect();
    if on_disk.is_empty() {
        return Check::ok(ID, "no memory of a guest goes to a disk");
    }
    Check::warning(
        ID,
        format!("memory of guests may be written to {}", on_disk.join(", ")),
        "swapoff -a, or encrypt it",
    )
}

fn page_merging(run: Option<&str>) -> Check {
    const ID: &str = "page-merging";
    match run.map(str::trim) {
        Some("1") => Check::warning(
            ID,
            "KSM is on: how long a write takes tells one guest what another has in memory",
            "echo 2 >/sys/kernel/mm/ksm/run",
        ),
        Some(_) => Check::ok(ID, "KSM is off"),
        None => Check::ok(ID, "the kernel has no KSM"),
    }
}

/// What the kernel itself says of each flaw that it knows.
fn processor(flaws: &Path) -> Check {
    const ID: &str = "processor";
    let mut open: Vec<String> = fs::read_dir(flaws)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|flaw| fs::read_to_string(flaw.path()).is_ok_and(|text| text.contains("ulnerable")))
        .map(|flaw| flaw.file_name().to_string_lossy().into_owned())
        .collect();
    open.sort();
    if open.is_empty() {
        return Check::ok(ID, "no flaw that the kernel knows is open");
    }
    Check::warning(
        ID,
        format!("one guest may read another's memory through {}", open.join(", ")),
        "update the microcode, and start the kernel with mitigations=auto,nosmt",
    )
}

fn landlock(support: Support) -> Check {
    const ID: &str = "landlock";
    match support {
        Support::Full => Check::ok(ID, "the kernel has all of Landlock that the jail uses"),
        Support::Partial => Check::ok(
            ID,
            "the kernel's Landlock is an older one, and the jail's rules are those that it knows",
        ),
        Support::None => Check::warning(
            ID,
            "the kernel has no Landlock: the jail of QEMU and the file server has one wall less",
            "run Linux 5.19 or newer, with `landlock` in the list of lsm= on its command line",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn only_swap_on_a_disk_is_a_warning() {
        let heading = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(swap(heading).status, Status::Ok);
        assert_eq!(
            swap(&format!("{heading}/dev/zram0 partition 1 0 100\n")).status,
            Status::Ok
        );
        let check = swap(&format!("{heading}/dev/sda2 partition 1 0 -2\n"));
        assert_eq!(check.status, Status::Warning);
        assert!(check.evidence.ends_with("/dev/sda2"), "{}", check.evidence);
    }

    #[test]
    fn page_merging_that_runs_is_a_warning() {
        assert_eq!(page_merging(Some("1\n")).status, Status::Warning);
        assert_eq!(page_merging(Some("0\n")).status, Status::Ok);
        assert_eq!(page_merging(None).status, Status::Ok);
    }

    #[test]
    fn no_landlock_is_a_warning() {
        assert_eq!(landlock(Support::None).status, Status::Warning);
        for support in [Support::Full, Support::Partial] {
            assert_eq!(landlock(support).status, Status::Ok);
        }
    }

    #[test]
    fn open_flaws_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let flaw = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        flaw("l1tf", "Not affected\n");
        flaw("spectre_v1", "Mitigation: usercopy\n");
        assert_eq!(processor(directory.path()).status, Status::Ok);
        flaw("mds", "Mitigation: Clear CPU buffers; SMT vulnerable\n");
        flaw("retbleed", "Vulnerable\n");
        let check = processor(directory.path());
        assert_eq!(check.status, Status::Warning);
        assert!(check.evidence.ends_with("mds, retbleed"), "{}", check.evidence);
    }
}
