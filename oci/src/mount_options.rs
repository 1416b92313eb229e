//! The options of a bind mount, sorted by who acts on them.

/// What the options of one bind mount say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BindOptions {
    /// `ro`, unless a later `rw` takes it back.
    pub read_only: bool,
    /// `rbind`.
    pub recursive: bool,
    /// `rro`, unless a later `rrw` takes it back.
    pub recursive_read_only: bool,
    /// `shared` or `rshared`: mounts made by the container would have to appear on the host.
    pub propagates_to_host: bool,
    /// `slave` or `rslave`, unless a later option says otherwise: mounts made on the host later appear.
    pub follows_host: bool,
    /// `idmap` or `ridmap`.
    pub id_mapped: bool,
    /// What the guest applies when it binds the share's part into the container.
    pub guest: Vec<String>,
    /// File system data, which a bind mount has no use for.
    pub ignored: Vec<String>,
}

impl BindOptions {
    /// The guest's flags for a mount that is no bind after all.
    pub fn without_bind(self) -> Vec<String> {
        let flags = self.guest.into_iter();
        flags
            .filter(|flag| !matches!(flag.as_str(), "bind" | "rbind"))
            .collect()
    }
}

/// Flags that the guest applies to its own bind of the share: all that are not file system data.
/// The list is the specification's (config.md, "Linux mount options").
const GUEST_FLAGS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "unbindable",
];

pub(crate) fn parse(options: &[String]) -> BindOptions {
    let mut parsed = BindOptions::default();
    for option in options {
        match option.as_str() {
            "ro" => parsed.read_only = true,
            "rw" => parsed.read_only = false,
            "rbind" => parsed.recursive = true,
            "rro" => parsed.recursive_read_only = true,
            "rrw" => parsed.recursive_read_only = false,
            "shared" | "rshared" => parsed.propagates_to_host = true,
            "slave" | "rslave" => parsed.follows_host = true,
            "private" | "rprivate" | "unbindable" | "runbindable" => parsed.follows_host = false,
            "idmap" | "ridmap" => parsed.id_mapped = true,
            _ => {}
        }
        if GUEST_FLAGS.binary_search(&option.as_str()).is_ok() {
            parsed.guest.push(option.clone());
        } else {
            parsed.ignored.push(option.clone());
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> BindOptions {
        parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_list_is_sorted_for_the_search() {
        assert!(GUEST_FLAGS.is_sorted());
    }

    #[test]
    fn the_last_of_ro_and_rw_counts() {
        assert!(parsed(&["rw", "ro"]).read_only);
        assert!(!parsed(&["ro", "rw"]).read_only);
    }

    #[test]
    fn the_last_propagation_counts() {
        assert!(parsed(&["rprivate", "rslave"]).follows_host);
        assert!(!parsed(&["slave", "private"]).follows_host);
    }

    #[test]
    fn data_is_told_from_flags() {
        let options = parsed(&["rbind", "nosuid", "size=1m", "rro"]);
        assert!(options.recursive && options.recursive_read_only && !options.read_only);
        assert_eq!(options.guest, ["rbind", "nosuid", "rro"]);
        assert_eq!(options.ignored, ["size=1m"]);
    }
}
