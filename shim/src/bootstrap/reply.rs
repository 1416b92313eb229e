//! What `start` answers, in the words each containerd understands.

use prost::Message;

use crate::messages::{Any, BootstrapResult, Extension, MountCapabilities};
use crate::mounts;

/// The version of the Task service that daemons are told to use where they can be told.
const TASK_VERSION: i32 = 3;
/// The only transport we speak.
const PROTOCOL: &str = "ttrpc";

/// How to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The address alone, which means version 2: understood by every containerd.
    Bare,
    /// A JSON object with version 3: 2.0 to 2.2. (1.7 reads the object and refuses the version.)
    Json,
    /// A protobuf: 2.3 and later.
    Protobuf,
}

/// What is known of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Daemon {
    /// It sent `BootstrapParams`.
    pub sends_params: bool,
    /// It set `MAX_SHIM_VERSION`: 1.7 or later.
    pub sets_max_version: bool,
    /// The working directory is a bundle of its sandbox controller: 2.0 or later.
    pub sandbox_controller: bool,
    /// Major version of its binary, where that had to be asked for and could be found out.
    pub major: Option<u32>,
}

impl Daemon {
    /// Whether [`Reply::choose`] needs the daemon's version; asking costs running its binary once.
    pub fn is_ambiguous(self) -> bool {
        !self.sends_params && self.sets_max_version && !self.sandbox_controller
    }
}

impl Reply {
    /// The best answer the daemon surely understands.
    pub fn choose(daemon: Daemon) -> Self {
        if daemon.sends_params {
            Self::Protobuf
        } else if !daemon.sets_max_version {
            Self::Bare
        } else if daemon.sandbox_controller || daemon.major.is_some_and(|major| major >= 2) {
            Self::Json
        } else {
            Self::Bare
        }
    }

    /// The bytes for stdout.
    pub fn encode(self, address: &str) -> Vec<u8> {
        match self {
            Self::Bare => address.as_bytes().to_vec(),
            // An address is a URL of a hexadecimal path: nothing in it needs escaping beyond what
            // Debug's quotes do.
            Self::Json => {
                format!(r#"{{"version":{TASK_VERSION},"address":{address:?},"protocol":"{PROTOCOL}"}}"#)
                    .into_bytes()
            }
            Self::Protobuf => BootstrapResult {
                version: TASK_VERSION,
                address: address.to_owned(),
                protocol: PROTOCOL.to_owned(),
                extensions: vec![mount_capabilities()],
            }
            .encode_to_vec(),
        }
    }
}

/// Mounts that containerd leaves to us instead of making them on the host: erofs layers become disks of the VM,
/// and so the mount that puts them together is ours too. 2.4 reads it here; 2.2 and 2.3 in `-info`.
fn mount_capabilities() -> Extension {
    Extension {
        value: Some(Any {
            type_url: "containerd.types.MountCapabilities".to_owned(),
            value: MountCapabilities {
                types: mounts::TYPES.map(str::to_owned).to_vec(),
                transforms: mounts::TRANSFORMS.map(str::to_owned).to_vec(),
            }
            .encode_to_vec(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "unix:///run/containerd/s/0a1b";

    #[test]
    fn each_containerd_gets_what_it_understands() {
        let v1_6 = Daemon::default();
        let v1_7 = Daemon {
            sets_max_version: true,
            major: Some(1),
            ..v1_6
        };
        let v2_0 = Daemon {
            sets_max_version: true,
            major: Some(2),
            ..v1_6
        };
        let v2_3 = Daemon {
            sends_params: true,
            sets_max_version: true,
            ..v1_6
        };
        let unknown = Daemon {
            sets_max_version: true,
            ..v1_6
        };
        let controller = Daemon {
            sandbox_controller: true,
            ..unknown
        };
        assert_eq!(Reply::choose(v1_6), Reply::Bare);
        assert_eq!(Reply::choose(v1_7), Reply::Bare);
        assert_eq!(Reply::choose(v2_0), Reply::Json);
        assert_eq!(Reply::choose(v2_3), Reply::Protobuf);
        assert_eq!(Reply::choose(unknown), Reply::Bare);
        assert_eq!(Reply::choose(controller), Reply::Json);
        assert!(unknown.is_ambiguous());
        assert!(!v1_6.is_ambiguous() && !v2_3.is_ambiguous() && !controller.is_ambiguous());
    }

    #[test]
    fn bare_and_json_byte_for_byte() {
        assert_eq!(Reply::Bare.encode(ADDRESS), ADDRESS.as_bytes());
        assert_eq!(
            String::from_utf8(Reply::Json.encode(ADDRESS)).unwrap(),
            r#"{"version":3,"address":"unix:///run/containerd/s/0a1b","protocol":"ttrpc"}"#
        );
    }

    #[test]
    fn protobuf_byte_for_byte() {
        let mut expected = vec![0x08, 3, 0x12, 29];
        expected.extend_from_slice(ADDRESS.as_bytes());
        expected.extend_from_slice(&[0x1a, 5]);
        expected.extend_from_slice(b"ttrpc");
        expected.extend_from_slice(&[0x32, 62, 0x0a, 60, 0x0a, 34]);
        expected.extend_from_slice(b"containerd.types.MountCapabilities");
        expected.extend_from_slice(b"\x12\x16\x0a\x05erofs\x12\x06format\x12\x05mkdir");
        assert_eq!(Reply::Protobuf.encode(ADDRESS), expected);
    }
}
