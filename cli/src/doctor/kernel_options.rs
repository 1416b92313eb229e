//! What the host's kernel was built with.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use super::Check;

const ID: &str = "kernel-options";
/// Options without which no sandbox can run, and what of.
const NEEDED: &[(&str, &str)] = &[
    ("CGROUPS", "limits"),
    ("MEMFD_CREATE", "guests' memory"),
    ("NAMESPACES", "the jail"),
    ("NET_NS", "networks"),
    ("SECCOMP_FILTER", "the jail"),
    ("TUN", "guests' networks"),
];
/// Options that some uses need, and which.
const USED: &[(&str, &str)] = &[
    ("BLK_DEV_LOOP", "images that are mounted on the host"),
    ("EROFS_FS", "erofs layers that are mounted on the host"),
    ("OVERLAY_FS", "containerd's overlayfs snapshotter"),
    ("VETH", "bridged networks (CNI)"),
];

pub(super) fn check(release: &str) -> Check {
    match options(release.trim()) {
        Ok((place, options)) => judge(&place, &options),
        // What it does is looked at by the other checks; modules may load themselves.
        Err(error) => Check::ok(
            ID,
            format!("not known, as the kernel does not tell them: {error}"),
        ),
    }
}

/// The kernel's own words, or those of its package.
fn options(release: &str) -> io::Result<(String, String)> {
    for place in [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ] {
        if let Ok(options) = fs::read_to_string(&place) {
            return Ok((place, options));
        }
    }
    let place = "/proc/config.gz";
    fs::metadata(place)?;
    let unpacked = Command::new("gzip")
        .args(["-dc", place])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    Ok((
        place.to_owned(),
        String::from_utf8_lossy(&unpacked.stdout).into_owned(),
    ))
}

fn judge(place: &str, options: &str) -> Check {
    let missing = |wanted: &[(&str, &str)]| -> Vec<String> {
        let lacks = |(option, _): &&(&str, &str)| !has(options, option);
        let name = |(option, what): &(&str, &str)| format!("CONFIG_{option} ({what})");
        wanted.iter().filter(lacks).map(name).collect()
    };
    let remedy = "install a kernel that has them, as those of all common distributions do";
    let needed = missing(NEEDED);
    if !needed.is_empty() {
        return Check::fatal(ID, format!("{place}: without {}", needed.join(", ")), remedy);
    }
    let used = missing(USED);
    if !used.is_empty() {
        return Check::warning(ID, format!("{place}: without {}", used.join(", ")), remedy);
    }
    Check::ok(ID, format!("{place}: all that is used is there"))
}

/// Built in, or a module.
fn has(options: &str, option: &str) -> bool {
    options.lines().any(|line| {
        let rest = line
            .strip_prefix("CONFIG_")
            .and_then(|line| line.strip_prefix(option));
        matches!(rest, Some("=y" | "=m"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn without(left_out: &str) -> String {
        let names = NEEDED.iter().chain(USED).map(|(option, _)| *option);
        names
            .filter(|option| *option != left_out)
            .map(|option| format!("CONFIG_{option}=m\n"))
            .collect()
    }

    #[test]
    fn what_is_missing_decides() {
        assert_eq!(judge("c", &without("")).status, Status::Ok);
        let check = judge("c", &without("VETH"));
        assert_eq!(check.status, Status::Warning);
        assert!(check.evidence.contains("CONFIG_VETH"), "{}", check.evidence);
        let check = judge("c", &without("TUN"));
        assert_eq!(check.status, Status::Fatal);
        assert!(check.evidence.contains("CONFIG_TUN"), "{}", check.evidence);
    }

    #[test]
    fn an_option_is_on_by_its_whole_name() {
        let options = "CONFIG_TUN_VNET=y\n# CONFIG_TUN is not set\nCONFIG_VETH=n\nCONFIG_NET_NS=y\n";
        assert!(!has(options, "TUN") && !has(options, "VETH"));
        assert!(has(options, "NET_NS"));
    }

    #[test]
    fn a_kernel_that_tells_nothing_is_not_accused() {
        let check = check("no-such-release");
        assert_ne!(check.status, Status::Fatal, "{}", check.evidence);
    }
}
