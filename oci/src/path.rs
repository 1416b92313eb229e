//! Rules that every path of a spec obeys.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{PlanError, invalid};

/// Longest path the kernel takes, without the terminating NUL.
const MAX_PATH_LEN: usize = 4095;

/// An absolute path without `..`; `.` and doubled slashes are removed.
pub(crate) fn absolute(field: &str, path: &Path) -> Result<PathBuf, PlanError> {
    if !path.is_absolute() {
        return Err(invalid(field, format!("{path:?} is not an absolute path")));
    }
    contained(field, path)
}

/// A path, absolute or relative, without `..`; `.` and doubled slashes are removed.
pub(crate) fn contained(field: &str, path: &Path) -> Result<PathBuf, PlanError> {
    let length = path.as_os_str().len();
    if length > MAX_PATH_LEN {
        return Err(invalid(
            field,
            format!("path has {length} bytes, more than {MAX_PATH_LEN}"),
        ));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid(field, format!("{path:?} contains a NUL byte")));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(invalid(field, format!("{path:?} contains \"..\"")));
    }
    Ok(path.components().filter(|c| *c != Component::CurDir).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_tidied() {
        let tidy = absolute("f", Path::new("//a/./b//c/"));
        assert_eq!(tidy, Ok(PathBuf::from("/a/b/c")));
        assert_eq!(contained("f", Path::new("./a/.")), Ok(PathBuf::from("a")));
    }

    #[test]
    fn escapes_are_refused() {
        for path in ["/a/../b", "..", "a/..", "/..", "/a\0b"] {
            assert!(contained("f", Path::new(path)).is_err(), "{path:?}");
        }
        assert!(absolute("f", Path::new("a")).is_err());
        assert!(absolute("f", Path::new("")).is_err());
        assert!(absolute("f", Path::new(&"/a".repeat(2048))).is_err());
    }
}
