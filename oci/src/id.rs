//! Ids of containers, execs and namespaces, checked before any path is built from one.

use displaydoc::Display;
use thiserror::Error;

/// Longest id: containerd's own limit (`pkg/identifiers`).
pub const MAX_ID_LEN: usize = 76;

/// Why an id is refused.
#[derive(Debug, Display, Error, Clone, PartialEq, Eq)]
pub enum IdError {
    /// id is empty
    Empty,
    /// id has {0} bytes, more than the 76 that containerd allows
    TooLong(usize),
    /// id {0:?} does not match ^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$
    Malformed(String),
}

/// Accepts what containerd accepts: alphanumeric words joined by single `.`, `_` or `-`, at most
/// [`MAX_ID_LEN`] bytes. Such an id is always one harmless path component.
///
/// # Errors
/// Says which rule the id breaks.
pub fn validate_id(id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > MAX_ID_LEN {
        return Err(IdError::TooLong(id.len()));
    }
    let mut words = id.split(['.', '_', '-']);
    if words.all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric())) {
        Ok(())
    } else {
        Err(IdError::Malformed(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_joined_by_single_separators_are_ids() {
        for id in ["a", "0", "busybox-1", "k8s.io", "A_b-c.d9", &"x".repeat(76)] {
            assert_eq!(validate_id(id), Ok(()), "{id}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for id in [
            "..", ".", "/", "a/b", "a\0b", "a\nb", "-a", "a-", "a..b", "a._b", "é", "a b", "~",
        ] {
            assert_eq!(validate_id(id), Err(IdError::Malformed(id.into())), "{id:?}");
        }
        assert_eq!(validate_id(""), Err(IdError::Empty));
        assert_eq!(validate_id(&"x".repeat(77)), Err(IdError::TooLong(77)));
    }
}
