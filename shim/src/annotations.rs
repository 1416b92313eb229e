//! Bulkhead's own annotations: whoever may write a pod's spec chooses with them what the node's operator allows.
//!
//! Which ones there are, and of which type and range, is `bulkhead_oci`'s to say; one that it does not know is
//! refused there.

use std::collections::HashMap;

use bulkhead_oci::sizing::ANNOTATIONS;
use displaydoc::Display;
use thiserror::Error;

/// annotation {0} is not one that this node allows, see `allowed_annotations` in its configuration
#[derive(Debug, Display, Error, PartialEq, Eq)]
pub struct NotAllowed(&'static str);

/// Those of a spec that will be followed.
///
/// # Errors
/// One is not among `allowed`.
pub fn followed<'a>(
    annotations: Option<&'a HashMap<String, String>>,
    allowed: &[String],
) -> Result<Vec<(&'static str, &'a str)>, NotAllowed> {
    let mut followed = Vec::new();
    for name in ANNOTATIONS {
        let Some(value) = annotations.and_then(|annotations| annotations.get(name)) else {
            continue;
        };
        if !allowed.iter().any(|allowed| allowed == name) {
            return Err(NotAllowed(name));
        }
        followed.push((name, value.as_str()));
    }
    Ok(followed)
}

#[cfg(test)]
mod tests {
    use bulkhead_oci::sizing::{MEMORY_MIB, VCPUS};

    use super::*;

    #[test]
    fn what_the_node_allows_is_followed_and_no_more() {
        let annotations = HashMap::from([
            (VCPUS.to_owned(), "2".to_owned()),
            ("com.example.x".to_owned(), "y".to_owned()),
        ]);
        let allowed = [VCPUS.to_owned()];
        assert_eq!(followed(Some(&annotations), &allowed), Ok(vec![(VCPUS, "2")]));
        assert_eq!(followed(None, &[]), Ok(vec![]));
        assert_eq!(followed(Some(&annotations), &[]), Err(NotAllowed(VCPUS)));
        let more = HashMap::from([(MEMORY_MIB.to_owned(), "512".to_owned())]);
        let error = followed(Some(&more), &allowed).unwrap_err().to_string();
        assert!(
            error.contains(MEMORY_MIB) && error.contains("allowed_annotations"),
            "{error}"
        );
    }
}
