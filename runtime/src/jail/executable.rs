//! What a program consists of, file by file.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cache::BootCache;
use crate::template::FileIdentity;

/// The remembered answer, in the state directory.
const CACHE: &str = "qemu-files.json";
/// Where the loader finds libraries that are not in one of its own directories. It changes whenever a library is
/// installed.
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// What QEMU loads into a microvm: the firmware, and what starts an ELF kernel.
const FIRMWARE: [&str; 2] = ["qboot.rom", "pvh.bin"];
/// Where distributions have it.
const FIRMWARE_DIRECTORIES: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// A program and everything that has to be there for it to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    /// The program itself, its libraries, the list of where they are, and its firmware.
    pub files: Vec<PathBuf>,
    /// What the kernel maps and the process need not read: the dynamic loader, or a static program itself.
    pub interpreter: Option<PathBuf>,
}

impl Executable {
    /// Looks at QEMU, or remembers having looked at this very file in the same state of libraries. Takes some
    /// 20 ms the first time.
    ///
    /// # Errors
    /// The program is not there, or is none.
    pub fn of_qemu(program: &Path, state: &Path) -> io::Result<Self> {
        let subject = format!(
            "{} {} {:?}",
            program.display(),
            FileIdentity::of(program)?,
            FileIdentity::of(Path::new(LOADER_CACHE)).ok()
        );
        let cache = BootCache::about(subject, state.join(CACHE));
        if let Some(known) = cache.read() {
            return Ok(known);
        }
        let found = Self::examine(program)?;
        cache.write(&found);
        Ok(found)
    }

    fn examine(program: &Path) -> io::Result<Self> {
        // The loader then lists what it would load, and starts nothing. A static program has none, and tells its
        // version.
        let output = Command::new(program)
            .arg("--version")
            .env_clear()
            .env("LD_TRACE_LOADED_OBJECTS", "1")
            .output()?;
        let mut found = parse(&String::from_utf8_lossy(&output.stdout));
        if found.interpreter.is_some() {
            found
                .files
                .extend([program.to_owned(), PathBuf::from(LOADER_CACHE)]);
        } else {
            found.interpreter = Some(program.to_owned());
        }
        let here = program.parent();
        let beside = here.and_then(|directory| directory.join("../share/qemu").canonicalize().ok());
        let directories = here
            .map(Path::to_owned)
            .into_iter()
            .chain(beside)
            .chain(FIRMWARE_DIRECTORIES.map(PathBuf::from));
        for directory in directories {
            found.files.extend(FIRMWARE.map(|name| directory.join(name)));
        }
        found.files.retain(|file| file.is_file());
        found.files.sort();
        found.files.dedup();
        Ok(found)
    }
}

/// Reads the loader's list: `name => path (address)`, and the loader itself without an arrow.
fn parse(list: &str) -> Executable {
    let mut found = Executable {
        files: Vec::new(),
        interpreter: None,
    };
    for line in list.lines() {
        let Some((entry, _)) = line.trim().split_once(" (0x") else {
            continue;
        };
        match entry.split_once(" => ") {
            Some((_, path)) => found.files.push(PathBuf::from(path)),
            None if entry.starts_with('/') => found.interpreter = Some(PathBuf::from(entry)),
            // Code that the kernel itself provides.
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_loaders_list_is_read() {
        let list = "\tlinux-vdso.so.1 (0x00007ffd0a5e6000)\n\
                    \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007fb7f4a00000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fb7f51b5000)\n\
                    \tlibgone.so => not found\n";
        let found = parse(list);
        assert_eq!(found.files, [Path::new("/lib/x86_64-linux-gnu/libz.so.1")]);
        assert_eq!(
            found.interpreter.unwrap(),
            Path::new("/lib64/ld-linux-x86-64.so.2")
        );
    }

    #[test]
    fn a_program_of_this_host_has_libraries_and_a_loader() {
        let state = tempfile::tempdir().unwrap();
        let program = fs::canonicalize("/bin/sh").unwrap();
        let found = Executable::of_qemu(&program, state.path()).unwrap();
        assert!(found.files.contains(&program) && found.interpreter.is_some());
        assert!(found.files.iter().all(|file| file.is_file()));
        assert!(state.path().join(CACHE).exists());
        assert_eq!(Executable::of_qemu(&program, state.path()).unwrap(), found);
        assert!(Executable::of_qemu(Path::new("/nonexistent/qemu"), state.path()).is_err());
    }

    #[test]
    fn a_static_program_is_its_own_loader_and_has_firmware_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("qemu");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::write(directory.path().join("qboot.rom"), "").unwrap();
        let found = Executable::of_qemu(&program, directory.path()).unwrap();
        assert_eq!(found.interpreter, Some(program));
        assert!(found.files.contains(&directory.path().join("qboot.rom")));
    }
}
