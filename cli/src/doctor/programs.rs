//! The programs and images a sandbox is made of.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_runtime::config::Config;
use bulkhead_runtime::vmm::Accelerator;

use super::{Check, checksums};

/// Programs that are installed beside this one.
const HELPERS: &[&str] = &[
    "containerd-shim-bulkhead-v2",
    "bulkhead-vmm",
    "bulkhead-fs",
    "bulkhead-anchor",
];
/// The oldest QEMU whose microvm machine has all that a sandbox uses.
const MIN_QEMU: u32 = 10;
/// An ELF file begins so.
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// A cpio archive in the format the kernel unpacks ("newc", with or without checksums) begins so.
const CPIO_MAGICS: [&[u8]; 2] = [b"070701", b"070702"];

pub(super) fn checks(config: &Config, accelerator: Accelerator) -> Vec<Check> {
    let kernel = config.kernel_for(accelerator);
    vec![
        image("kernel", &kernel, &[ELF_MAGIC], "an ELF kernel (vmlinux)"),
        image(
            "initramfs",
            &config.initramfs,
            &CPIO_MAGICS,
            "an uncompressed cpio archive",
        ),
        checksums::check(&[&kernel, &config.initramfs]),
        helpers(&config.helpers),
        qemu(&config.qemu),
    ]
}

fn image(id: &'static str, path: &Path, magics: &[&[u8]], what: &str) -> Check {
    let reinstall = format!("install it there, or set `{id}` in the configuration");
    let mut start = Vec::new();
    // The longest magic has six bytes.
    let read = File::open(path).and_then(|file| file.take(6).read_to_end(&mut start));
    match read {
        Err(error) => Check::fatal(id, format!("{}: {error}", path.display()), reinstall),
        Ok(_) if magics.iter().any(|magic| start.starts_with(magic)) => {
            Check::ok(id, path.display().to_string())
        }
        Ok(_) => Check::fatal(id, format!("{} is not {what}", path.display()), reinstall),
    }
}

fn helpers(directory: &Path) -> Check {
    let missing: Vec<&str> = HELPERS
        .iter()
        .copied()
        .filter(|name| !is_executable(&directory.join(name)))
        .collect();
    if missing.is_empty() {
        return Check::ok("programs", format!("all in {}", directory.display()));
    }
    let evidence = format!(
        "not in {}, or not executable: {}",
        directory.display(),
        missing.join(", ")
    );
    Check::fatal(
        "programs",
        evidence,
        "install all of Bulkhead's programs in one directory",
    )
}

fn qemu(name: &Path) -> Check {
    const ID: &str = "qemu";
    let remedy = format!("install QEMU {MIN_QEMU} or newer, or set `qemu` in the configuration");
    let Some(path) = find(name) else {
        let evidence = format!("{} is not in PATH, or not executable", name.display());
        return Check::fatal(ID, evidence, remedy);
    };
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
    let text = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return Check::fatal(ID, format!("{}: {error}", path.display()), remedy),
    };
    let line = text.lines().next().unwrap_or_default();
    match major_version(line) {
        Some(major) if major >= MIN_QEMU => Check::ok(ID, format!("{}: {line}", path.display())),
        _ => Check::fatal(ID, format!("{} says {line:?}", path.display()), remedy),
    }
}

/// `QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)`
fn major_version(line: &str) -> Option<u32> {
    let version = line.strip_prefix("QEMU emulator version ")?;
    version.split('.').next()?.parse().ok()
}

/// A path as it is, a bare name by PATH.
pub(super) fn find(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return is_executable(name).then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn qemus_version_is_read() {
        assert_eq!(
            major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)"),
            Some(10)
        );
        assert_eq!(major_version("QEMU emulator version 7.2.15"), Some(7));
        assert_eq!(major_version("bash: command not found"), None);
    }

    #[test]
    fn images_are_known_by_their_first_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinux");
        let status = || image("kernel", &path, &[ELF_MAGIC], "an ELF kernel").status;
        assert_eq!(status(), Status::Fatal);
        fs::write(&path, b"\x1f\x8b compressed").unwrap();
        assert_eq!(status(), Status::Fatal);
        fs::write(&path, b"\x7fELF...").unwrap();
        assert_eq!(status(), Status::Ok);
    }

    #[test]
    fn missing_helpers_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let check = helpers(directory.path());
        assert_eq!(check.status, Status::Fatal);
        assert!(check.evidence.contains("bulkhead-vmm"), "{}", check.evidence);
    }

    #[test]
    fn an_old_or_strange_qemu_is_no_qemu() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qemu");
        for (version, status) in [
            ("10.0.2", Status::Ok),
            ("7.2.0", Status::Fatal),
            ("x", Status::Fatal),
        ] {
            fs::write(
                &path,
                format!("#!/bin/sh\necho QEMU emulator version {version}\n"),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(qemu(&path).status, status, "{version}");
        }
        assert_eq!(qemu(Path::new("/nonexistent/qemu")).status, Status::Fatal);
    }
}
