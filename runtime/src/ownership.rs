//! Whether nobody but root can change what Bulkhead runs and believes.
//!
//! The shim is root, and starts what it finds beside it. Whoever can replace one of those files, or the
//! configuration, or a directory on the way to them, is root already; the jail then guards nothing. So a file is
//! good if it and every directory above it belong to root and can be written to by nobody else.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::vmm::Accelerator;
use crate::vmm::qemu::{find, parent::PROGRAM as PARENT};
use crate::{anchor, fs_server};

/// Bits of a mode.
const WRITTEN_BY_GROUP: u32 = 0o020;
const WRITTEN_BY_OTHERS: u32 = 0o002;
/// In a directory that has it, only a file's owner renames or removes it.
const STICKY: u32 = 0o1000;
/// Its group, too, is root's own.
const ROOT: u32 = 0;

/// A path that is not root's alone.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
#[displaydoc(
    "{path} {why}, and so whoever that is could become root through Bulkhead; make it root's own: {remedy} {path}"
)]
pub struct OwnershipError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// The command, without the path.
    pub remedy: &'static str,
}

/// What a configuration, and the file it was read from, if any, have a sandbox use.
pub fn paths(config: &Config, file: Option<&Path>) -> Vec<PathBuf> {
    let programs = [PARENT, fs_server::PROGRAM, anchor::PROGRAM];
    let mut paths: Vec<_> = programs.iter().map(|name| config.helper(name)).collect();
    // The one that is translated for is looked at as well where there is one; else it is the same.
    paths.push(config.kernel_for(Accelerator::Kvm));
    paths.push(config.kernel_for(Accelerator::Tcg));
    paths.push(config.initramfs.clone());
    paths.extend(find(&config.qemu));
    paths.push(config.state_dir.clone());
    paths.push(config.template_dir.clone());
    paths.extend(file.map(Path::to_owned));
    paths
}

/// Looks at each path, at what it is a link to, and at all directories above both. What is not there cannot be
/// changed; but the directory that it would be in is looked at. Some fifty system calls.
///
/// # Errors
/// Names the first path that is not root's.
pub fn check<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), OwnershipError> {
    let mut seen = BTreeSet::new();
    for path in paths {
        check_all_above(path, &mut seen)?;
        if let Ok(target) = fs::canonicalize(path) {
            check_all_above(&target, &mut seen)?;
        }
    }
    Ok(())
}

fn check_all_above(path: &Path, seen: &mut BTreeSet<PathBuf>) -> Result<(), OwnershipError> {
    for place in path.ancestors() {
        if !seen.insert(place.to_owned()) {
            break;
        }
        let failed = |why: String, remedy| OwnershipError {
            path: place.to_owned(),
            why,
            remedy,
        };
        match fs::metadata(place) {
            Ok(status) => judge(&status).map_err(|(why, remedy)| failed(why, remedy))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(format!("cannot be looked at ({error})"), "ls -ld")),
        }
    }
    Ok(())
}

fn judge(status: &Metadata) -> Result<(), (String, &'static str)> {
    // Whoever runs a shim without being root harms nobody else.
    let own = rustix::process::geteuid().as_raw();
    if ![ROOT, own].contains(&status.uid()) {
        return Err((format!("belongs to user {}", status.uid()), "chown root"));
    }
    let mode = status.mode();
    if status.is_dir() && mode & STICKY != 0 {
        return Ok(());
    }
    if mode & WRITTEN_BY_OTHERS != 0 {
        return Err(("can be written to by everybody".to_owned(), "chmod o-w"));
    }
    if mode & WRITTEN_BY_GROUP != 0 && status.gid() != ROOT {
        return Err((
            format!("can be written to by group {}", status.gid()),
            "chmod g-w",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// A program in two directories of its own.
    fn installed() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("lib/bulkhead/program");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "").unwrap();
        (directory, program)
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn verdict(path: &Path) -> String {
        match check([&path.to_owned()]) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_roots_alone_is_good() {
        let (_directory, program) = installed();
        // The temporary directory above is everybody's, and sticky.
        assert_eq!(verdict(&program), "");
        assert_eq!(verdict(&program.with_file_name("not-there")), "");
    }

    #[test]
    fn a_file_or_directory_that_others_write_to_is_named() {
        let (_directory, program) = installed();
        let above = program.parent().unwrap().parent().unwrap();
        for (path, well) in [(program.as_path(), 0o755), (above, 0o755)] {
            mode(path, 0o777);
            let verdict = verdict(&program);
            assert!(
                verdict.starts_with(&format!("{} can be written to by everybody", path.display())),
                "{verdict}"
            );
            assert!(
                verdict.ends_with(&format!("chmod o-w {}", path.display())),
                "{verdict}"
            );
            mode(path, well);
        }
        assert_eq!(verdict(&program), "");
    }

    #[test]
    fn what_is_not_there_could_be_put_there() {
        let (_directory, program) = installed();
        let directory = program.parent().unwrap();
        mode(directory, 0o777);
        assert!(verdict(&directory.join("not-there")).contains("everybody"));
    }

    #[test]
    fn a_link_is_followed_and_looked_at_from_both_sides() {
        let (_directory, program) = installed();
        let (_other, link) = installed();
        fs::remove_file(&link).unwrap();
        symlink(&program, &link).unwrap();
        assert_eq!(verdict(&link), "");
        mode(program.parent().unwrap(), 0o777);
        assert!(verdict(&link).starts_with(&program.parent().unwrap().display().to_string()));
        mode(program.parent().unwrap(), 0o755);
        mode(link.parent().unwrap(), 0o777);
        assert!(verdict(&link).starts_with(&link.parent().unwrap().display().to_string()));
    }

    #[test]
    fn another_user_or_group_is_named() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let (_directory, program) = installed();
        chown(&program, None, Some(4321)).unwrap();
        assert_eq!(verdict(&program), "");
        mode(&program, 0o775);
        assert!(
            verdict(&program).contains("by group 4321"),
            "{}",
            verdict(&program)
        );
        chown(&program, Some(1234), Some(0)).unwrap();
        assert!(verdict(&program).contains("belongs to user 1234"));
    }

    #[test]
    fn everything_that_a_sandbox_runs_is_looked_at() {
        let paths = paths(&Config::default(), Some(Path::new("/etc/bulkhead/config.toml")));
        for name in [
            "bulkhead-vmm",
            "bulkhead-fs",
            "bulkhead-anchor",
            "vmlinux",
            "initramfs.cpio",
            "config.toml",
        ] {
            assert!(paths.iter().any(|path| path.ends_with(name)), "{name}");
        }
        assert!(paths.contains(&"/run/bulkhead".into()));
    }
}
