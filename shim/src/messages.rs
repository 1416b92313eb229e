//! containerd's messages that `containerd-shim-protos` does not have, field for field.

use prost::Message;

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Any {
    /// Name of the message, with or without a host in front.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message, encoded.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl Any {
    /// The message's name alone: what stands behind the last slash of the type URL.
    pub fn name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }
}

/// `containerd.runtime.bootstrap.v1.Extension`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Extension {
    /// What is added.
    #[prost(message, optional, tag = "1")]
    pub value: Option<Any>,
}

/// `containerd.runtime.bootstrap.v1.BootstrapParams`: stdin of `start` from containerd 2.3 on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BootstrapParams {
    /// The container.
    #[prost(string, tag = "1")]
    pub instance_id: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// slog's levels: -4 debug, 0 info, 4 warning, 8 error. Open, so no enumeration.
    #[prost(int32, tag = "3")]
    pub log_level: i32,
    /// The daemon's version.
    #[prost(string, tag = "4")]
    pub containerd_version: String,
    /// Its event socket.
    #[prost(string, tag = "5")]
    pub containerd_ttrpc_address: String,
    /// Its gRPC socket.
    #[prost(string, tag = "6")]
    pub containerd_grpc_address: String,
    /// Its binary.
    #[prost(string, tag = "7")]
    pub containerd_binary: String,
    /// Runtime options, among others.
    #[prost(message, repeated, tag = "8")]
    pub extensions: Vec<Extension>,
    /// Where our socket is to be made.
    #[prost(string, optional, tag = "9")]
    pub socket_dir: Option<String>,
}

/// `containerd.runtime.bootstrap.v1.BootstrapResult`: stdout of `start` from containerd 2.3 on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BootstrapResult {
    /// Version of the Task service that is to be used.
    #[prost(int32, tag = "1")]
    pub version: i32,
    /// Our socket.
    #[prost(string, tag = "2")]
    pub address: String,
    /// `ttrpc`.
    #[prost(string, tag = "3")]
    pub protocol: String,
    /// What we can do besides; read by containerd 2.4.
    #[prost(message, repeated, tag = "6")]
    pub extensions: Vec<Extension>,
}

/// `containerd.types.MountCapabilities`: mounts that the shim performs itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MountCapabilities {
    /// Mount types, exact or `prefix/*`.
    #[prost(string, repeated, tag = "1")]
    pub types: Vec<String>,
    /// Transformations, as the tail of a chain.
    #[prost(string, repeated, tag = "2")]
    pub transforms: Vec<String>,
}

/// `runtimeoptions.v1.Options`: what CRI and `ctr --runtime-config-path` send.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RuntimeOptions {
    /// Type of `config_body`, as the operator named it.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Path of a configuration file.
    #[prost(string, tag = "2")]
    pub config_path: String,
    /// A configuration, in place of a file's.
    #[prost(bytes = "vec", tag = "3")]
    pub config_body: Vec<u8>,
}

/// `containerd.runc.v1.Options`, the fields that mean something without runc.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RuncOptions {
    /// cgroup that the shim is to live in.
    #[prost(string, tag = "3")]
    pub shim_cgroup: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_urls_host_is_no_part_of_the_name() {
        for url in [
            "runtimeoptions.v1.Options",
            "types.containerd.io/runtimeoptions.v1.Options",
        ] {
            assert_eq!(
                Any {
                    type_url: url.into(),
                    value: vec![]
                }
                .name(),
                "runtimeoptions.v1.Options"
            );
        }
    }
}
