//! To which sandbox, and so to which VM, a container belongs.

use std::collections::HashMap;

use displaydoc::Display;
use thiserror::Error;

use crate::id::{IdError, validate_id};

/// containerd's own grouping annotation; looked at first, as runc's shim does.
pub const GROUP: &str = "io.containerd.runc.v2.group";
/// CRI's sandbox id.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// CRI's kind of container: `sandbox` or `container`.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// A container's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Id of the sandbox, which names the VM, its state directory and the shim's socket.
    pub sandbox: String,
    /// What the container is in it.
    pub role: Role,
}

/// What a container is in its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The only container of its own sandbox.
    Alone,
    /// CRI's pause container: a placeholder, nothing runs in the guest.
    Pause,
    /// One of the sandbox's containers.
    Member,
}

/// Why the annotations name no usable sandbox.
#[derive(Debug, Display, Error, Clone, PartialEq, Eq)]
pub enum GroupError {
    /// annotation {annotation}: {source}
    Id {
        /// The annotation.
        annotation: &'static str,
        /// Why not.
        source: IdError,
    },
    /// annotation io.kubernetes.cri.container-type is {0:?}, neither "sandbox" nor "container"
    ContainerType(String),
}

/// Reads a container's place from the annotations of its spec.
///
/// # Errors
/// An annotation is not a valid id or not a known container type.
pub fn group(annotations: Option<&HashMap<String, String>>, container_id: &str) -> Result<Group, GroupError> {
    let get = |key: &str| annotations.and_then(|map| map.get(key)).filter(|v| !v.is_empty());
    let named = [GROUP, SANDBOX_ID]
        .into_iter()
        .find_map(|key| Some((key, get(key)?)));
    let sandbox = match named {
        Some((annotation, id)) => {
            validate_id(id).map_err(|source| GroupError::Id { annotation, source })?;
            id.clone()
        }
        None => container_id.to_owned(),
    };
    let role = match get(CONTAINER_TYPE).map(String::as_str) {
        Some("sandbox") => Role::Pause,
        Some("container") => Role::Member,
        Some(other) => return Err(GroupError::ContainerType(other.to_owned())),
        None if sandbox == container_id => Role::Alone,
        None => Role::Member,
    };
    Ok(Group { sandbox, role })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(annotations: &[(&str, &str)]) -> Result<Group, GroupError> {
        let map = annotations
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        group(Some(&map), "c1")
    }

    #[test]
    fn without_annotations_a_container_is_alone() {
        let alone = Group {
            sandbox: "c1".into(),
            role: Role::Alone,
        };
        assert_eq!(group(None, "c1"), Ok(alone.clone()));
        assert_eq!(place(&[(GROUP, "")]), Ok(alone));
    }

    #[test]
    fn cri_names_sandbox_and_role() {
        assert_eq!(
            place(&[(SANDBOX_ID, "s1"), (CONTAINER_TYPE, "container")]),
            Ok(Group {
                sandbox: "s1".into(),
                role: Role::Member
            })
        );
        assert_eq!(
            place(&[(SANDBOX_ID, "c1"), (CONTAINER_TYPE, "sandbox")]),
            Ok(Group {
                sandbox: "c1".into(),
                role: Role::Pause
            })
        );
    }

    #[test]
    fn containerds_group_goes_before_cris() {
        assert_eq!(
            place(&[(SANDBOX_ID, "s1"), (GROUP, "g1")]),
            Ok(Group {
                sandbox: "g1".into(),
                role: Role::Member
            })
        );
    }

    #[test]
    fn a_bad_sandbox_id_or_type_is_refused() {
        let bad_id = GroupError::Id {
            annotation: SANDBOX_ID,
            source: IdError::Malformed("../x".into()),
        };
        assert_eq!(place(&[(SANDBOX_ID, "../x")]), Err(bad_id));
        assert_eq!(
            place(&[(CONTAINER_TYPE, "pod")]),
            Err(GroupError::ContainerType("pod".into()))
        );
    }
}
