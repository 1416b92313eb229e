//! Annotations of Bulkhead's own: only known ones, so that a misspelt one is not one that is silently without effect.

use std::collections::HashMap;

use crate::error::{PlanError, invalid};
use crate::sizing::ANNOTATIONS;

/// What all of ours begin with.
const PREFIX: &str = "io.bulkhead.";

pub(crate) fn check(annotations: Option<&HashMap<String, String>>) -> Result<(), PlanError> {
    let ours = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(PREFIX));
    // The first by name, whatever the map's order.
    match ours
        .map(|(key, _)| key.as_str())
        .filter(|key| !ANNOTATIONS.contains(key))
        .min()
    {
        Some(key) => Err(invalid(
            format!("annotations[{key:?}]"),
            format!("is not known; known are {}", ANNOTATIONS.join(", ")),
        )),
        None => Ok(()),
    }
}
