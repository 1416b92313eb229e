//! Which device nodes the processes of a cgroup may open and make, whatever nodes they come by.
//!
//! Version 1 has a controller that takes rules as text. Version 2 asks a program: [`program`] assembles it, and
//! [`bpf`] hands it to the kernel, which drops it with the cgroup.

mod bpf;
mod program;

use std::fs;
use std::io;
use std::path::Path;

use super::{Cgroup, CgroupError};

/// What sort of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `S_IFCHR`.
    Character,
    /// `S_IFBLK`.
    Block,
}

/// What may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A node may be made, and that is all.
    Make,
    /// It may be made, and opened in any way.
    All,
}

/// One line of a list; what no line allows is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Which sort of node.
    pub kind: Kind,
    /// Major and minor number; `None`: any.
    pub number: Option<(u32, u32)>,
    /// To do what.
    pub access: Access,
}

/// What QEMU, its parent and the file-sharing server open themselves: tap and disks come to them open.
///
/// A guest's root may make nodes in its share, which its own kernel then gives a meaning to; and overlayfs makes
/// one of number 0 for each file that is removed.
pub const OF_A_VM: [Rule; 4] = [
    // /dev/null
    Rule {
        kind: Kind::Character,
        number: Some((1, 3)),
        access: Access::All,
    },
    // /dev/kvm
    Rule {
        kind: Kind::Character,
        number: Some((10, 232)),
        access: Access::All,
    },
    Rule {
        kind: Kind::Character,
        number: None,
        access: Access::Make,
    },
    Rule {
        kind: Kind::Block,
        number: None,
        access: Access::Make,
    },
];

impl Rule {
    /// As `devices.allow` of version 1 takes it, and `devices.list` shows it.
    fn text(self) -> String {
        let kind = match self.kind {
            Kind::Character => 'c',
            Kind::Block => 'b',
        };
        let access = match self.access {
            Access::Make => "m",
            Access::All => "rwm",
        };
        match self.number {
            Some((major, minor)) => format!("{kind} {major}:{minor} {access}"),
            None => format!("{kind} *:* {access}"),
        }
    }
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
            return allow(directory, rules).map_err(|source| failed(directory, source));
        }
        // With controllers of version 1 there may be a hierarchy of version 2 beside them, which serves as well.
        let unified = self.places.iter().find(|(hierarchy, _)| hierarchy.unified);
        let (_, directory) = unified.ok_or(CgroupError::NoDevices)?;
        bpf::attach(directory, &program::assemble(rules)).map_err(|source| failed(directory, source))
    }
}

/// Version 1.
fn allow(directory: &Path, rules: &[Rule]) -> io::Result<()> {
    fs::write(directory.join("devices.deny"), "a")?;
    rules.iter().try_for_each(
        |rule| match fs::write(directory.join("devices.allow"), rule.text()) {
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
            assert_eq!(list, OF_A_VM.map(|rule| rule.text() + "\n").concat());
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

    #[test]
    fn no_cgroup_is_an_error() {
        let none = Cgroup { places: Vec::new() };
        assert!(matches!(
            none.limit_devices(&OF_A_VM),
            Err(CgroupError::NoDevices)
        ));
    }
}
