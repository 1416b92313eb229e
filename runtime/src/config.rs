//! The host's configuration, `/etc/bulkhead/config.toml`.
//!
//! Every key has a default, so that an absent file is an empty one. An unknown key is an error: a limit
//! that is misspelt must not be a limit that is silently not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_oci::sizing::{ANNOTATIONS, MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
use serde::{Deserialize, Serialize};

use crate::vmm::Accelerator;

/// Where the configuration is looked for.
pub const CONFIG_PATH: &str = "/etc/bulkhead/config.toml";
/// The program that runs VMs.
const QEMU: &str = "qemu-system-x86_64";
/// A configuration is a page of text; whatever is larger is something else.
const MAX_FILE: u64 = 64 << 10;
/// A boot is never worth waiting for longer.
const MAX_BOOT_SECONDS: u32 = 600;
/// What the name of the kernel of translated guests has besides that of the kernel.
const TRANSLATED_SUFFIX: &str = ".tcg";

/// A node has some dozen classes at most.
const MAX_TEMPLATES: u32 = 1024;
/// More than this is not a limit.
const MAX_TEMPLATES_MIB: u32 = 1 << 20;

/// What the operator may choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Guest kernel, an ELF vmlinux. Default: `vmlinux` beside the shim. Translated guests have a kernel of their
    /// own where there is one, see [`Config::kernel_for`].
    pub kernel: PathBuf,
    /// Guest initramfs. Default: `initramfs.cpio` beside the shim.
    pub initramfs: PathBuf,
    /// QEMU: a path, or a name to look up in PATH. Default: `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// Where Bulkhead's other programs are. Default: the directory of the shim.
    pub helpers: PathBuf,
    /// What executes the guest. Default: `auto`.
    pub accelerator: AcceleratorChoice,
    /// Whether `auto` may fall back to translation where KVM is not usable, at a tenth of the speed.
    /// Default: true.
    pub allow_tcg_fallback: bool,
    /// Virtual CPUs of a sandbox that does not say, 1 to 64. Default: 1.
    pub default_vcpus: u32,
    /// Memory of a sandbox that does not say, in MiB, 256 to 1048576. Default: 256.
    pub default_memory_mib: u32,
    /// How long a guest may take to boot, in seconds, 1 to 600. Default: 60.
    pub boot_timeout_seconds: u32,
    /// Where running sandboxes keep their state. Lost at reboot, as they are. Default: `/run/bulkhead`.
    pub state_dir: PathBuf,
    /// Whether VMs are restored from templates, and templates made, see [`crate::template`]. Default: true.
    pub templates: bool,
    /// Where templates are kept. Default: `/var/lib/bulkhead/templates`.
    pub template_dir: PathBuf,
    /// How many templates are kept, 1 to 1024. Default: 8.
    pub max_templates: u32,
    /// What templates may take on disk in all, in MiB, 1 to 1048576. Default: 1024.
    pub max_templates_mib: u32,
    /// Which annotations of ours a pod's author may set. Default: all, which choose a size within bounds.
    pub allowed_annotations: Vec<String>,
}

/// The configured choice of what executes the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM where the probe finds it usable, else translation if `allow_tcg_fallback`.
    Auto,
    /// KVM or an error.
    Kvm,
    /// Translation, always.
    Tcg,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum ConfigError {
    /// cannot read {path}: {source}
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// {path} is larger than 64 KiB
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// {path}: {source}
    Malformed {
        /// The file.
        path: PathBuf,
        /// The cause; names line and column.
        source: Box<toml::de::Error>,
    },
    /// {path}: {key} = {value} is out of range: {allowed}
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        let here = program_directory();
        Self {
            kernel: here.join("vmlinux"),
            initramfs: here.join("initramfs.cpio"),
            qemu: default_qemu(&here),
            helpers: here,
            accelerator: AcceleratorChoice::Auto,
            allow_tcg_fallback: true,
            default_vcpus: 1,
            default_memory_mib: 256,
            boot_timeout_seconds: 60,
            state_dir: PathBuf::from("/run/bulkhead"),
            templates: true,
            template_dir: PathBuf::from("/var/lib/bulkhead/templates"),
            max_templates: 8,
            max_templates_mib: 1024,
            allowed_annotations: ANNOTATIONS.map(str::to_owned).to_vec(),
        }
    }
}

impl Config {
    /// The kernel of guests that `accelerator` executes. Under translation it is `<kernel>.tcg` if there is one, which
    /// has no mitigations and boots faster, else `kernel`. Hardware never gets a kernel without mitigations.
    pub fn kernel_for(&self, accelerator: Accelerator) -> PathBuf {
        let mut translated = self.kernel.clone().into_os_string();
        translated.push(TRANSLATED_SUFFIX);
        let translated = PathBuf::from(translated);
        match accelerator {
            Accelerator::Tcg if translated.is_file() => translated,
            Accelerator::Tcg | Accelerator::Kvm => self.kernel.clone(),
        }
    }

    /// The configuration in `path`; the defaults, if there is no such file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = match read_bounded(path) {
            Ok(Some(text)) => text,
            Ok(None) => {
                return Err(ConfigError::TooLarge {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Self::parse(&text, path)
    }

    /// The configuration in `text`; errors call it `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Malformed {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config.check(path)?;
        Ok(config)
    }

    /// How long a guest may take to boot.
    pub fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout_seconds.into())
    }

    /// A helper program of ours.
    pub fn helper(&self, name: &str) -> PathBuf {
        self.helpers.join(name)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let number = |key, value: u32, least: u32, most: u32| {
            let fits = (least..=most).contains(&value);
            (!fits).then(|| (key, value.to_string(), format!("{least} to {most}")))
        };
        let absolute = |key, value: &Path| {
            let fits = value.is_absolute();
            (!fits).then(|| (key, value.display().to_string(), "an absolute path".to_owned()))
        };
        let unknown = self
            .allowed_annotations
            .iter()
            .find(|name| !ANNOTATIONS.contains(&name.as_str()));
        let wrong = number("default_vcpus", self.default_vcpus, 1, MAX_VCPUS)
            .or_else(|| {
                number(
                    "default_memory_mib",
                    self.default_memory_mib,
                    MIN_MEMORY_MIB,
                    MAX_MEMORY_MIB,
                )
            })
            .or_else(|| {
                number(
                    "boot_timeout_seconds",
                    self.boot_timeout_seconds,
                    1,
                    MAX_BOOT_SECONDS,
                )
            })
            .or_else(|| number("max_templates", self.max_templates, 1, MAX_TEMPLATES))
            .or_else(|| number("max_templates_mib", self.max_templates_mib, 1, MAX_TEMPLATES_MIB))
            .or_else(|| absolute("template_dir", &self.template_dir))
            .or_else(|| absolute("kernel", &self.kernel))
            .or_else(|| absolute("initramfs", &self.initramfs))
            .or_else(|| absolute("helpers", &self.helpers))
            .or_else(|| absolute("state_dir", &self.state_dir))
            .or_else(|| {
                let name = unknown?.clone();
                Some((
                    "allowed_annotations",
                    name,
                    format!("some of {}", ANNOTATIONS.join(", ")),
                ))
            });
        match wrong {
            None => Ok(()),
            Some((key, value, allowed)) => Err(ConfigError::OutOfRange {
                path: path.to_owned(),
                key,
                value,
                allowed,
            }),
        }
    }
}

/// The directory of the running program: everything that belongs together is installed side by side.
pub fn program_directory() -> PathBuf {
    let program = std::env::current_exe().ok();
    // Without /proc there is no sandbox either; the first file that is looked for will say so.
    program
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// The QEMU that was built for Bulkhead, if it is installed beside it, else the system's.
fn default_qemu(here: &Path) -> PathBuf {
    let beside = here.join(QEMU);
    if beside.is_file() { beside } else { QEMU.into() }
}

fn read_bounded(path: &Path) -> io::Result<Option<String>> {
    use io::Read;
    let mut text = String::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    Ok((text.len() as u64 <= MAX_FILE).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn an_absent_file_is_an_empty_one() {
        let config = Config::load(Path::new("/nonexistent/config.toml")).unwrap();
        assert_eq!(config, load("").unwrap());
        assert_eq!(config.kernel.file_name().unwrap(), "vmlinux");
        assert_eq!(config.boot_timeout(), Duration::from_secs(60));
    }

    #[test]
    fn keys_are_read() {
        let config = load("accelerator = \"tcg\"\ndefault_memory_mib = 512\nkernel = \"/k\"\n").unwrap();
        assert_eq!(config.accelerator, AcceleratorChoice::Tcg);
        assert_eq!(config.default_memory_mib, 512);
        assert_eq!(config.kernel, Path::new("/k"));
    }

    #[test]
    fn translated_guests_have_a_kernel_of_their_own_if_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config {
            kernel: directory.path().join("vmlinux"),
            ..Config::default()
        };
        assert_eq!(config.kernel_for(Accelerator::Tcg), config.kernel);
        let translated = directory.path().join("vmlinux.tcg");
        fs::write(&translated, "").unwrap();
        assert_eq!(config.kernel_for(Accelerator::Tcg), translated);
        assert_eq!(config.kernel_for(Accelerator::Kvm), config.kernel);
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_errors_that_name_the_place() {
        let error = load("defualt_vcpus = 1").unwrap_err().to_string();
        assert!(
            error.contains("config.toml") && error.contains("defualt_vcpus"),
            "{error}"
        );
        assert!(load("default_vcpus = \"two\"").is_err());
        assert!(load("accelerator = \"xen\"").is_err());
    }

    #[test]
    fn numbers_have_ranges_and_paths_are_absolute() {
        for (text, key) in [
            ("default_vcpus = 0", "default_vcpus"),
            ("default_vcpus = 65", "default_vcpus"),
            ("default_memory_mib = 255", "default_memory_mib"),
            ("boot_timeout_seconds = 601", "boot_timeout_seconds"),
            ("kernel = \"vmlinux\"", "kernel"),
            ("state_dir = \"run\"", "state_dir"),
            ("template_dir = \"templates\"", "template_dir"),
            ("max_templates = 0", "max_templates"),
            ("max_templates_mib = 1048577", "max_templates_mib"),
            (
                "allowed_annotations = [\"io.bulkhead.qemu\"]",
                "allowed_annotations",
            ),
        ] {
            match load(text).unwrap_err() {
                ConfigError::OutOfRange { key: named, .. } => assert_eq!(named, key),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_huge_file_is_refused() {
        let text = "#".repeat(MAX_FILE as usize + 1);
        assert!(matches!(load(&text).unwrap_err(), ConfigError::TooLarge { .. }));
    }
}
