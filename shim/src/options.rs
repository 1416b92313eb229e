//! Runtime options: what the operator configured for this runtime in containerd.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bulkhead_runtime::config::{CONFIG_PATH, Config, ConfigError};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::messages::{Any, RuncOptions, RuntimeOptions};

/// Where `start` leaves them in the bundle for `delete`, which is given none.
const FILE: &str = "options.json";
/// What errors call a configuration that came without a file.
const BODY_NAME: &str = "the runtime options' config_body";

/// Where the configuration comes from and where the shim is to live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// A configuration file other than the default one.
    pub config_path: Option<PathBuf>,
    /// A configuration in TOML, in place of a file: containerd 1.7 and later re-encode the options table
    /// of a runtime so if it names no `ConfigPath`.
    pub config_body: Option<String>,
    /// cgroup to move the server into.
    pub shim_cgroup: Option<String>,
}

/// Options that were read, and what is to be said about those that were not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// What was understood.
    pub options: Options,
    /// One line for each message that was not understood.
    pub warnings: Vec<String>,
}

impl Options {
    /// Reads what containerd sends; nothing at all means defaults. A message of an unknown type, or a
    /// damaged one, is passed over with a warning: the container can run without it.
    pub fn decode<'a>(messages: impl IntoIterator<Item = &'a Any>) -> Decoded {
        let mut decoded = Decoded::default();
        for message in messages {
            let outcome = match message.name() {
                "" => Ok(()),
                "runtimeoptions.v1.Options" => decoded.options.take_runtime_options(&message.value),
                "containerd.runc.v1.Options" => decoded.options.take_runc_options(&message.value),
                _ => Err("unknown type".to_owned()),
            };
            if let Err(why) = outcome {
                decoded
                    .warnings
                    .push(format!("runtime options {:?} ignored: {why}", message.type_url));
            }
        }
        decoded
    }

    /// The file that the configuration is in, whether it is there or not; none if it came without one.
    pub fn file(&self) -> Option<&Path> {
        match (&self.config_path, &self.config_body) {
            (Some(path), _) => Some(path),
            (None, Some(_)) => None,
            (None, None) => Some(Path::new(CONFIG_PATH)),
        }
    }

    /// The operator's configuration.
    ///
    /// # Errors
    /// It cannot be read or is not valid.
    pub fn config(&self) -> Result<Config, ConfigError> {
        match (self.file(), &self.config_body) {
            (Some(path), _) => Config::load(path),
            (None, body) => Config::parse(body.as_deref().unwrap_or_default(), Path::new(BODY_NAME)),
        }
    }

    /// Leaves these options in a bundle, for `delete`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, bundle: &Path) -> io::Result<()> {
        fs::write(bundle.join(FILE), serde_json::to_vec(self)?)
    }

    /// Options that `start` has left in a bundle.
    pub fn load(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(bundle.join(FILE)).ok()?).ok()
    }

    fn take_runtime_options(&mut self, bytes: &[u8]) -> Result<(), String> {
        let options = RuntimeOptions::decode(bytes).map_err(|error| error.to_string())?;
        if !options.config_path.is_empty() {
            self.config_path = Some(options.config_path.into());
        } else if !options.config_body.is_empty() {
            let body = String::from_utf8(options.config_body).map_err(|error| error.to_string())?;
            self.config_body = Some(body);
        }
        Ok(())
    }

    fn take_runc_options(&mut self, bytes: &[u8]) -> Result<(), String> {
        let options = RuncOptions::decode(bytes).map_err(|error| error.to_string())?;
        if !options.shim_cgroup.is_empty() {
            self.shim_cgroup = Some(options.shim_cgroup);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_containerd_sends_for_a_config_path() {
        // Seen on stdin of `start` from containerd 2.1.
        let mut bytes = vec![0x0a, 25];
        bytes.extend_from_slice(b"runtimeoptions.v1.Options");
        bytes.extend_from_slice(&[0x12, 22, 0x12, 20]);
        bytes.extend_from_slice(b"/etc/bulkhead/x.toml");
        let any = Any::decode(bytes.as_slice()).unwrap();
        let decoded = Options::decode([&any]);
        assert_eq!(
            decoded.options.config_path.unwrap(),
            PathBuf::from("/etc/bulkhead/x.toml")
        );
        assert!(decoded.warnings.is_empty());
    }

    #[test]
    fn a_body_counts_only_without_a_path() {
        let any = |path: &str| Any {
            type_url: "types.containerd.io/runtimeoptions.v1.Options".into(),
            value: RuntimeOptions {
                config_path: path.into(),
                config_body: b"a = 1".to_vec(),
                ..Default::default()
            }
            .encode_to_vec(),
        };
        assert_eq!(
            Options::decode([&any("")]).options.config_body.as_deref(),
            Some("a = 1")
        );
        assert_eq!(Options::decode([&any("/x")]).options.config_body, None);
    }

    #[test]
    fn the_shims_cgroup_comes_with_runcs_options() {
        let any = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: RuncOptions {
                shim_cgroup: "/shims".into(),
            }
            .encode_to_vec(),
        };
        assert_eq!(
            Options::decode([&any]).options.shim_cgroup.as_deref(),
            Some("/shims")
        );
    }

    #[test]
    fn delete_finds_what_start_had() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Options::load(dir.path()), None);
        let options = Options {
            config_path: Some("/x.toml".into()),
            ..Options::default()
        };
        options.store(dir.path()).unwrap();
        assert_eq!(Options::load(dir.path()), Some(options));
    }

    #[test]
    fn unknown_and_damaged_options_are_warnings() {
        let unknown = Any {
            type_url: "example.Options".into(),
            value: vec![],
        };
        let damaged = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: vec![0xff],
        };
        let decoded = Options::decode([&unknown, &damaged]);
        assert_eq!(decoded.options, Options::default());
        assert_eq!(decoded.warnings.len(), 2);
    }
}
