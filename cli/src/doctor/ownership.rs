//! Whether what the shim runs, as root, is root's alone.

use std::path::{Path, PathBuf};

use bulkhead_runtime::config::Config;
use bulkhead_runtime::ownership;

use super::Check;

pub(super) fn check(config: &Config, file: &Path) -> Check {
    judge(&ownership::paths(config, Some(file)))
}

fn judge(paths: &[PathBuf]) -> Check {
    const ID: &str = "ownership";
    match ownership::check(paths) {
        Ok(()) => Check::ok(
            ID,
            "nobody but root can change programs, images, directories or configuration",
        ),
        Err(error) => {
            let remedy = format!("{} {}", error.remedy, error.path.display());
            Check::fatal(ID, format!("{} {}", error.path.display(), error.why), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::doctor::Status;

    #[test]
    fn what_everybody_can_change_is_fatal_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bulkhead-vmm");
        fs::write(&path, "").unwrap();
        assert_eq!(judge(std::slice::from_ref(&path)).status, Status::Ok);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let check = judge(std::slice::from_ref(&path));
        assert_eq!(check.status, Status::Fatal);
        assert!(
            check.evidence.starts_with(path.to_str().unwrap()),
            "{}",
            check.evidence
        );
        assert_eq!(check.remedy, Some(format!("chmod o-w {}", path.display())));
    }
}
