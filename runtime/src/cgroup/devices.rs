//! Which device nodes the processes of a cgroup may open and make, whatever nodes they come by.
//!
//! Version 1 has a controller that takes rules as text. Version 2 asks a program, which goes with the cgroup.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use bulkhead_device_filter::{Below, Kind, Rule, access, assemble, attach};

use super::{Cgroup, CgroupError};

/// What QEMU, its parent and the file-sharing server open themselves: tap and disks come to them open.
///
/// A guest's root may make nodes in its share, which its own kernel then gives a meaning to; and overlayfs makes
/// one of number 0 for each file that is removed.
pub const OF_A_VM: [Rule; 4] = [
    // /dev/null
    allow(Kind::Character, Some((1, 3)), access::ALL),
    // /dev/kvm
    allow(Kind::Character, Some((10, 232)), access::ALL),
    allow(Kind::Character, None, access::MAKE),
    allow(Kind::Block, None, access::MAKE),
];

const fn allow(kind: Kind, number: Option<(u32, u32)>, access: u32) -> Rule {
    let (major, minor) = match number {
        Some((major, minor)) => (Some(major), Some(minor)),
        None => (None, None),
    };
    Rule {
        allow: true,
        kind: Some(kind),
        access,
        major,
        minor,
    }
}

/// As `devices.allow` of version 1 takes a rule, and `devices.list` shows it.
fn text(rule: &Rule) -> String {
    let kind = match rule.kind {
        Some(Kind::Character) => 'c',
        Some(Kind::Block) => 'b',
        None => 'a',
    };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let letters = [(access::READ, 'r'), (access::WRITE, 'w'), (access::MAKE, 'm')];
    let access: String = letters
        .iter()
        .filter(|(bit, _)| rule.access & bit != 0)
        .map(|(_, letter)| letter)
        .collect();
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

impl Cgroup {
    /// Denies the processes that are or will be in the cgroup every device but those of `rules`. What they have
    /// open already stays open.
    ///
    /// # Errors
    /// There is no cgroup, or its host's kernel can limit devices in neither way.
    pub fn limit_devices(&self, rules: &[Rule]) -> Result<(), CgroupError> {
        let failed = |path: &Path, source| CgroupError::Devices {
            path: path.to_owned(),
            source,
        };
        let controller = self
            .places
            .iter()
            .find(|(hierarchy, _)| !hierarchy.unified && hierarchy.has("devices"));
        if let Some((_, directory)) = controller {
            return list(directory, rules).map_err(|source| failed(directory, source));
        }
        // With controllers of version 1 there may be a hierarchy of version 2 beside them, which serves as well.
        let unified = self.places.iter().find(|(hierarchy, _)| hierarchy.unified);
        let (_, directory) = unified.ok_or(CgroupError::NoDevices)?;
        File::open(directory)
            .and_then(|directory| attach(directory, &assemble(rules), Below::Beside))
            .map_err(|source| failed(directory, source))
    }
}

/// Version 1.
fn list(directory: &Path, rules: &[Rule]) -> io::Result<()> {
    fs::write(directory.join("devices.deny"), "a")?;
    rules.iter().try_for_each(
        |rule| match fs::write(directory.join("devices.allow"), text(rule)) {
            // The cgroup above does not allow it: then neither does this one.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            result => result,
        },
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use bulkhead_device_filter::access::{MAKE, READ, WRITE};

    use super::super::{Hierarchies, remove};
    use super::*;

    /// What a shell in the cgroup can do: prints a letter for each thing that it can.
    const PROBE: &str = "echo 0 > \"$1/cgroup.procs\"
        true < /dev/null && printf n
        true < /dev/zero && printf z
        true < /dev/full && printf f
        mknod \"$2/zero\" c 1 5 && printf m
        true < \"$2/zero\" && printf Z
        mknod \"$2/disk\" b 7 0 && printf b
        true < \"$2/disk\" && printf B
        exit 0";

    fn probe(cgroup: &Cgroup, directory: &Path, name: &str) -> String {
        let nodes = tempfile::tempdir().unwrap();
        cgroup.limit_devices(&OF_A_VM).unwrap();
        let output = Command::new("/bin/sh")
            .args(["-c", PROBE, name])
            .args([directory, nodes.path()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes the cgroup in one hierarchy only.
    fn only(unified: bool, name: &str) -> Option<(Cgroup, PathBuf)> {
        let hierarchies = Hierarchies::detect().ok()?;
        let ours = hierarchies
            .keep(|hierarchy| hierarchy.unified == unified && (unified || hierarchy.has("devices")));
        let cgroup = ours
            .create(Path::new(&format!(
                "bulkhead-devices-{name}-{}",
                std::process::id()
            )))
            .ok()?;
        let directory = cgroup.places.first()?.1.clone();
        Some((cgroup, directory))
    }

    fn null_alone_can_be_opened_and_nodes_can_be_made(unified: bool) {
        let Some((cgroup, directory)) = only(unified, if unified { "v2" } else { "v1" }) else {
            eprintln!("skipped: no cgroup of this version, or not root");
            return;
        };
        assert_eq!(probe(&cgroup, &directory, "probe"), "nmb");
        if !unified {
            let list = fs::read_to_string(directory.join("devices.list")).unwrap();
            assert_eq!(list, OF_A_VM.map(|rule| text(&rule) + "\n").concat());
        }
        remove(std::slice::from_ref(&directory)).unwrap();
        assert!(!directory.exists());
    }

    #[test]
    fn version_1_denies_what_is_not_listed() {
        null_alone_can_be_opened_and_nodes_can_be_made(false);
    }

    #[test]
    fn version_2_denies_what_is_not_listed() {
        null_alone_can_be_opened_and_nodes_can_be_made(true);
    }

    fn allowed(kind: Kind, access: u32, major: u32, minor: u32) -> bool {
        bulkhead_device_filter::allows(&assemble(&OF_A_VM), kind, access, major, minor)
    }

    #[test]
    fn null_and_kvm_may_be_opened_and_made() {
        for access in [MAKE, READ, WRITE, READ | WRITE, MAKE | READ | WRITE] {
            assert!(allowed(Kind::Character, access, 1, 3));
            assert!(allowed(Kind::Character, access, 10, 232));
        }
    }

    #[test]
    fn others_may_be_made_and_not_opened() {
        // /dev/mem, /dev/zero, /dev/net/tun, and disks: 8:0, and 1:3 and 10:232, which as disks are others.
        for (kind, major, minor) in [
            (Kind::Character, 1, 1),
            (Kind::Character, 1, 5),
            (Kind::Character, 10, 200),
            (Kind::Character, 3, 1),
            (Kind::Block, 8, 0),
            (Kind::Block, 1, 3),
            (Kind::Block, 10, 232),
        ] {
            assert!(allowed(kind, MAKE, major, minor));
            for access in [READ, WRITE, READ | WRITE, MAKE | READ] {
                assert!(!allowed(kind, access, major, minor), "{kind:?} {major}:{minor}");
            }
        }
    }

    #[test]
    fn no_cgroup_is_an_error() {
        let none = Cgroup { places: Vec::new() };
        assert!(matches!(
            none.limit_devices(&OF_A_VM),
            Err(CgroupError::NoDevices)
        ));
    }
}
