//! `linux.cgroupsPath`: cgroupfs paths as they are, systemd's `slice:prefix:name` expanded.

use std::path::{Path, PathBuf};

use crate::error::{PlanError, invalid};
use crate::path::contained;

const FIELD: &str = "linux.cgroupsPath";

/// The slice of a `slice:prefix:name` that names none; runc's choice.
const DEFAULT_SLICE: &str = "system.slice";

/// The path below the cgroup mount, relative so that it can be joined to any hierarchy's mount point.
/// Empty if the spec has none.
pub(crate) fn translate(path: Option<&PathBuf>) -> Result<PathBuf, PlanError> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(PathBuf::new());
    };
    let Some(text) = path.to_str() else {
        return Err(invalid(FIELD, format!("{path:?} is not UTF-8")));
    };
    let parts: Vec<&str> = text.split(':').collect();
    let path = match parts[..] {
        [slice, prefix, name] if !text.contains('/') => systemd(slice, prefix, name)?,
        _ => contained(FIELD, path)?,
    };
    let relative = path.strip_prefix("/").unwrap_or(&path);
    if relative.as_os_str().is_empty() {
        return Err(invalid(FIELD, format!("{text:?} is the root cgroup")));
    }
    Ok(relative.to_owned())
}

/// systemd's unit names to cgroupfs: `a-b.slice` lies in `a.slice`, and a scope in its slice.
fn systemd(slice: &str, prefix: &str, name: &str) -> Result<PathBuf, PlanError> {
    let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
    if name.is_empty() {
        return Err(invalid(FIELD, "slice:prefix:name has no name"));
    }
    let unit = match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_owned(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    };
    if matches!(unit.as_str(), "." | "..") {
        return Err(invalid(FIELD, format!("{unit:?} is not a unit name")));
    }
    Ok(expand_slice(slice)?.join(unit))
}

fn expand_slice(slice: &str) -> Result<PathBuf, PlanError> {
    let not_a_slice = || invalid(FIELD, format!("{slice:?} is not the name of a systemd slice"));
    let stem = slice.strip_suffix(".slice").ok_or_else(not_a_slice)?;
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    let words: Vec<&str> = stem.split('-').collect();
    if words.iter().any(|word| word.is_empty()) {
        return Err(not_a_slice());
    }
    let levels = (1..=words.len()).map(|n| format!("{}.slice", words[..n].join("-")));
    Ok(levels.fold(PathBuf::new(), |path, level| path.join(Path::new(&level))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(path: &str) -> Result<String, PlanError> {
        let path = translate(Some(&PathBuf::from(path)))?;
        Ok(path.to_str().unwrap_or("not UTF-8").to_owned())
    }

    #[test]
    fn cgroupfs_paths_become_relative() {
        assert_eq!(translated("/k8s.io/c1").as_deref(), Ok("k8s.io/c1"));
        assert_eq!(translated("a/./b").as_deref(), Ok("a/b"));
        assert_eq!(translated("").as_deref(), Ok(""));
        assert_eq!(translate(None), Ok(PathBuf::new()));
    }

    #[test]
    fn systemd_names_are_expanded_along_the_slices_dashes() {
        for (name, path) in [
            (
                "kubepods-besteffort-pod12.slice:cri-containerd:abc",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod12.slice/cri-containerd-abc.scope",
            ),
            ("system.slice:nerdctl:c", "system.slice/nerdctl-c.scope"),
            (":nerdctl:c", "system.slice/nerdctl-c.scope"),
            ("-.slice:p:c", "p-c.scope"),
            ("a.slice::c", "a.slice/c.scope"),
            ("a.slice:p:b.slice", "a.slice/b.slice"),
        ] {
            assert_eq!(translated(name).as_deref(), Ok(path), "{name}");
        }
    }

    #[test]
    fn a_colon_in_a_path_is_just_a_colon() {
        assert_eq!(translated("/a:b:c/d").as_deref(), Ok("a:b:c/d"));
        assert_eq!(translated("/a:b").as_deref(), Ok("a:b"));
    }

    #[test]
    fn escapes_and_bad_slices_are_refused() {
        for path in [
            "/a/../..",
            "..",
            "/",
            "user:p:c",
            "a--b.slice:p:c",
            "-a.slice:p:c",
            ".slice:p:c",
            "a.slice:p:",
        ] {
            assert!(translated(path).is_err(), "{path}");
        }
    }
}
