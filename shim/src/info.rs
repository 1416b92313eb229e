//! `-info`: what this runtime is and can do, as a `containerd.types.RuntimeInfo`.

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::{Value, json};

use crate::mounts;

/// The runtime's name in containerd's configuration.
const NAME: &str = "io.containerd.bulkhead.v2";
/// What containerd registers for the OCI's features structure.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The bytes for stdout. stdin, which may carry options, changes nothing and is not read.
///
/// # Errors
/// The message cannot be encoded.
pub fn runtime_info() -> protobuf::Result<Vec<u8>> {
    RuntimeInfo {
        name: NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        annotations: [(mounts::ANNOTATION.to_owned(), mounts::annotation())].into(),
        features: MessageField::some(Any {
            type_url: FEATURES_TYPE.to_owned(),
            value: features().to_string().into_bytes(),
            ..Any::default()
        }),
        ..RuntimeInfo::default()
    }
    .write_to_bytes()
}

/// The OCI's features structure, only as far as true: CRI offers pods what is claimed here.
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime",
            "nodev", "nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private",
            "rbind", "relatime", "remount", "ro", "rprivate", "rro", "rslave", "rw", "slave", "strictatime", "suid",
            "sync",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": { "v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": { "enabled": true },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_can_read_it() {
        let info = RuntimeInfo::parse_from_bytes(&runtime_info().unwrap()).unwrap();
        assert_eq!(info.name, "io.containerd.bulkhead.v2");
        assert!(!info.version.version.is_empty());
        let mounts = &info.annotations["containerd.io/runtime-allow-mounts"];
        assert_eq!(mounts, "erofs,format/*,mkdir/*");
        let features: Value = serde_json::from_slice(&info.features.value).unwrap();
        assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string());
        // Claims that CRI turns into offers.
        let options = features["mountOptions"].as_array().unwrap();
        assert!(options.iter().any(|option| option == "rro"));
        assert!(
            !features["linux"]["namespaces"]
                .as_array()
                .unwrap()
                .contains(&json!("user"))
        );
    }
}
