//! The options of one mount, sorted by what takes them. Pure.

use nix::mount::MsFlags;
use oci_spec::runtime::Mount;

use crate::sys::mount::Attributes;

/// `MS_NOSYMFOLLOW`, which nix does not know.
const NO_SYMLINKS: MsFlags = MsFlags::from_bits_retain(0x100);

/// `MOUNT_ATTR_*` of the flags that are not the same bits of `mount(2)`; the access times are one field.
const ATTR_NOATIME: u64 = 0x10;
const ATTR_STRICTATIME: u64 = 0x20;
const ATTR_ATIME_FIELD: u64 = 0x70;
const ATTR_NODIRATIME: u64 = 0x80;
const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

/// What the options of a mount say.
#[derive(Debug, PartialEq)]
pub struct MountOptions {
    /// A bind mount; `true` with the mounts below its source.
    pub bind: Option<bool>,
    /// Flags as `mount(2)` has them.
    pub flags: MsFlags,
    /// For the mount and those below it: `rro` and its kind.
    pub recursive: Attributes,
    /// Its propagation (an `MS_*` flag), and whether that of the mounts below it.
    pub propagation: Option<(MsFlags, bool)>,
    /// For the file system: `mode=0755,size=1m`.
    pub data: String,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            bind: None,
            flags: MsFlags::empty(),
            recursive: Attributes::default(),
            propagation: None,
            data: String::new(),
        }
    }
}

const ON: bool = true;
const OFF: bool = false;

/// Options that set or clear a flag; a later one wins. Those without a flag say what is so anyway.
const FLAGS: [(&str, bool, MsFlags); 33] = [
    ("acl", ON, MsFlags::MS_POSIXACL),
    ("async", OFF, MsFlags::MS_SYNCHRONOUS),
    ("atime", OFF, MsFlags::MS_NOATIME),
    ("defaults", ON, MsFlags::empty()),
    ("dev", OFF, MsFlags::MS_NODEV),
    ("diratime", OFF, MsFlags::MS_NODIRATIME),
    ("dirsync", ON, MsFlags::MS_DIRSYNC),
    ("exec", OFF, MsFlags::MS_NOEXEC),
    ("iversion", ON, MsFlags::MS_I_VERSION),
    ("lazytime", ON, MsFlags::MS_LAZYTIME),
    ("loud", OFF, MsFlags::MS_SILENT),
    ("mand", ON, MsFlags::MS_MANDLOCK),
    ("noacl", OFF, MsFlags::MS_POSIXACL),
    ("noatime", ON, MsFlags::MS_NOATIME),
    ("nodev", ON, MsFlags::MS_NODEV),
    ("nodiratime", ON, MsFlags::MS_NODIRATIME),
    ("noexec", ON, MsFlags::MS_NOEXEC),
    ("noiversion", OFF, MsFlags::MS_I_VERSION),
    ("nolazytime", OFF, MsFlags::MS_LAZYTIME),
    ("nomand", OFF, MsFlags::MS_MANDLOCK),
    ("norelatime", OFF, MsFlags::MS_RELATIME),
    ("nostrictatime", OFF, MsFlags::MS_STRICTATIME),
    ("nosuid", ON, MsFlags::MS_NOSUID),
    ("nosymfollow", ON, NO_SYMLINKS),
    ("relatime", ON, MsFlags::MS_RELATIME),
    ("remount", ON, MsFlags::empty()),
    ("ro", ON, MsFlags::MS_RDONLY),
    ("rw", OFF, MsFlags::MS_RDONLY),
    ("silent", ON, MsFlags::MS_SILENT),
    ("strictatime", ON, MsFlags::MS_STRICTATIME),
    ("suid", OFF, MsFlags::MS_NOSUID),
    ("symfollow", OFF, NO_SYMLINKS),
    ("sync", ON, MsFlags::MS_SYNCHRONOUS),
];

impl MountOptions {
    /// Sorts the options of `mount`.
    pub fn of(mount: &Mount) -> Self {
        let mut sorted = Self {
            bind: (mount.typ().as_deref() == Some("bind")).then_some(false),
            ..Self::default()
        };
        for option in mount.options().iter().flatten() {
            sorted.add(option);
        }
        sorted
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind == Some(true)),
            "rbind" => self.bind = Some(true),
            "private" => self.propagation = Some((MsFlags::MS_PRIVATE, false)),
            "rprivate" => self.propagation = Some((MsFlags::MS_PRIVATE, true)),
            "slave" => self.propagation = Some((MsFlags::MS_SLAVE, false)),
            "rslave" => self.propagation = Some((MsFlags::MS_SLAVE, true)),
            "unbindable" => self.propagation = Some((MsFlags::MS_UNBINDABLE, false)),
            "runbindable" => self.propagation = Some((MsFlags::MS_UNBINDABLE, true)),
            _ => {
                if let Some((on, flag)) = find(option) {
                    self.flags.set(flag, on);
                } else if let Some((on, flag)) = option.strip_prefix('r').and_then(find) {
                    self.add_recursive(on, flag);
                } else {
                    if !self.data.is_empty() {
                        self.data.push(',');
                    }
                    self.data.push_str(option);
                }
            }
        }
    }

    fn add_recursive(&mut self, on: bool, flag: MsFlags) {
        let bits = attribute_bits(flag);
        if flag.intersects(ACCESS_TIMES) {
            // One field: it is cleared as a whole, and then set to what is wanted.
            self.recursive.clear |= ATTR_ATIME_FIELD;
            self.recursive.set &= !ATTR_ATIME_FIELD;
        }
        if on {
            self.recursive.set |= bits;
        } else {
            self.recursive.set &= !bits;
            self.recursive.clear |= bits;
        }
    }

    /// The flags as attributes of a bind mount. Those of its source that are not named stay.
    pub fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::setting(attribute_bits(self.flags));
        if self.flags.intersects(ACCESS_TIMES) {
            attributes.clear = ATTR_ATIME_FIELD;
        }
        if let Some((kind, false)) = self.propagation {
            attributes.propagation = kind.bits();
        }
        attributes
    }

    /// What holds for the mounts below it, too.
    pub fn recursive_attributes(&self) -> Attributes {
        let mut attributes = self.recursive;
        if let Some((kind, true)) = self.propagation {
            attributes.propagation = kind.bits();
        }
        attributes
    }
}

const ACCESS_TIMES: MsFlags = MsFlags::MS_NOATIME
    .union(MsFlags::MS_RELATIME)
    .union(MsFlags::MS_STRICTATIME);

fn find(option: &str) -> Option<(bool, MsFlags)> {
    FLAGS
        .iter()
        .find(|(name, _, _)| *name == option)
        .map(|(_, on, flag)| (*on, *flag))
}

/// The `MOUNT_ATTR_*` bits of flags; those of a file system have none.
fn attribute_bits(flags: MsFlags) -> u64 {
    let same = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mut bits = (flags & same).bits();
    let access_time = if flags.contains(MsFlags::MS_STRICTATIME) {
        ATTR_STRICTATIME
    } else if flags.contains(MsFlags::MS_NOATIME) {
        ATTR_NOATIME
    } else {
        0
    };
    bits |= access_time;
    for (flag, bit) in [
        (MsFlags::MS_NODIRATIME, ATTR_NODIRATIME),
        (NO_SYMLINKS, ATTR_NOSYMFOLLOW),
    ] {
        if flags.contains(flag) {
            bits |= bit;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn of(typ: &str, options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let mount = MountBuilder::default()
            .typ(typ)
            .destination("/x")
            .options(options)
            .build()
            .unwrap();
        MountOptions::of(&mount)
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = of(
            "tmpfs",
            &[
                "nosuid",
                "strictatime",
                "mode=755",
                "size=65536k",
                "noexec",
                "exec",
            ],
        );
        assert_eq!(options.flags, MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME);
        assert_eq!(options.data, "mode=755,size=65536k");
        assert_eq!((options.bind, options.propagation), (None, None));
    }

    #[test]
    fn a_bind_is_one_by_type_or_by_option() {
        assert_eq!(of("bind", &[]).bind, Some(false));
        assert_eq!(of("none", &["bind"]).bind, Some(false));
        assert_eq!(of("bind", &["rbind", "bind"]).bind, Some(true));
        assert_eq!(of("tmpfs", &["ro"]).bind, None);
    }

    #[test]
    fn attributes_of_binds_name_one_access_time() {
        let options = of("bind", &["rbind", "ro", "nosuid", "noatime", "rprivate"]);
        let attributes = options.attributes();
        assert_eq!(attributes.set, 1 | 2 | ATTR_NOATIME);
        assert_eq!((attributes.clear, attributes.propagation), (ATTR_ATIME_FIELD, 0));
        assert_eq!(
            options.recursive_attributes().propagation,
            MsFlags::MS_PRIVATE.bits()
        );
        assert!(of("bind", &["rw", "rbind"]).attributes().is_empty());
    }

    #[test]
    fn recursive_options_set_and_clear_for_everything_below() {
        let options = of("bind", &["rbind", "rro", "rnoatime", "rdev", "rnosymfollow"]);
        assert_eq!(options.flags, MsFlags::empty());
        let attributes = options.recursive_attributes();
        assert_eq!(attributes.set, 1 | ATTR_NOATIME | ATTR_NOSYMFOLLOW);
        assert_eq!(attributes.clear, ATTR_ATIME_FIELD | MsFlags::MS_NODEV.bits());
        assert!(of("bind", &["rro", "rrw"]).recursive_attributes().set == 0);
    }
}
