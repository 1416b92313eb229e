//! `root`: where the container's file system is on the host.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{PlanError, invalid, unsupported};
use crate::path::contained;

const FIELD: &str = "root.path";

/// The rootfs as an absolute path of the host, and whether it is read-only.
///
/// A relative path starts at the bundle and cannot leave it; an absolute one (`ctr run --rootfs`) is as good
/// as what the caller, who is root, says.
pub(crate) fn translate(spec: &Spec, bundle: &Path) -> Result<(PathBuf, bool), PlanError> {
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| invalid("root", "is missing"))?;
    if root.path().as_os_str().is_empty() {
        return Err(invalid(FIELD, "is empty"));
    }
    // Joining an absolute path gives that path.
    let path = bundle.join(contained(FIELD, root.path())?);
    if path == Path::new("/") {
        let reason = "the host's own root cannot be a container's rootfs: it contains Bulkhead's state";
        return Err(unsupported(FIELD, reason));
    }
    if path == bundle {
        return Err(invalid(FIELD, "is the bundle itself"));
    }
    Ok((path, root.readonly().unwrap_or(false)))
}
