//! What containerd says on stdin of `start`.

use prost::Message;

use crate::messages::{Any, BootstrapParams};

/// stdin of `start`, told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Params {
    /// containerd 2.3 and later.
    Bootstrap(Box<BootstrapParams>),
    /// Before that: runtime options alone, or nothing.
    Legacy(Option<Any>),
}

impl Params {
    /// Tells the two formats apart. An options message parses as [`BootstrapParams`] too, with its type
    /// URL in place of the id; so id and namespace must be those of the command line.
    pub fn decode(stdin: &[u8], id: &str, namespace: &str) -> Self {
        if let Ok(params) = BootstrapParams::decode(stdin)
            && params.instance_id == id
            && params.namespace == namespace
        {
            return Self::Bootstrap(Box::new(params));
        }
        Self::Legacy(Any::decode(stdin).ok().filter(|any| !any.type_url.is_empty()))
    }

    /// The messages that may be runtime options.
    pub fn options(&self) -> Vec<&Any> {
        match self {
            Self::Bootstrap(params) => params
                .extensions
                .iter()
                .filter_map(|extension| extension.value.as_ref())
                .collect(),
            Self::Legacy(any) => any.iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Extension;

    fn any() -> Any {
        Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: vec![0x12, 1, b'x'],
        }
    }

    #[test]
    fn params_of_this_container() {
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "default".into(),
            log_level: -4,
            extensions: vec![Extension { value: Some(any()) }],
            socket_dir: Some("/run/x".into()),
            ..Default::default()
        };
        let decoded = Params::decode(&params.encode_to_vec(), "web", "default");
        assert_eq!(decoded.options(), [&any()]);
        assert_eq!(decoded, Params::Bootstrap(Box::new(params)));
    }

    #[test]
    fn options_alone_are_not_mistaken_for_params() {
        let decoded = Params::decode(&any().encode_to_vec(), "web", "default");
        assert_eq!(decoded, Params::Legacy(Some(any())));
    }

    #[test]
    fn nothing_and_garbage_are_no_options() {
        for stdin in [&b""[..], b"\xff\xff\xff", b"hello"] {
            assert_eq!(Params::decode(stdin, "web", "default"), Params::Legacy(None));
        }
    }
}
