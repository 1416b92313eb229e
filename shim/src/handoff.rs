//! What `start` tells the server it forks: a JSON object on the server's standard input, which is a file
//! without a name, so that nothing of it shows on a command line or stays on a disk.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::options::Options;

/// Everything the server knows besides its command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// Bundle of the first container, absolute.
    pub bundle: PathBuf,
    /// The sandbox that all containers of this server belong to.
    pub sandbox: String,
    /// Our socket's path, to be removed at the end.
    pub socket: PathBuf,
    /// containerd's event socket; empty if `start` was run by hand.
    pub ttrpc_address: String,
    /// What the operator configured.
    pub options: Options,
    /// Log more.
    pub debug: bool,
    /// Things to be logged that `start` had no place to say.
    pub warnings: Vec<String>,
}

impl Handoff {
    /// A file with this, to be read from its beginning.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn into_file(self) -> io::Result<File> {
        let mut file = File::from(memfd_create("bulkhead-handoff", MFdFlags::MFD_CLOEXEC)?);
        serde_json::to_writer(&mut file, &self)?;
        file.flush()?;
        file.rewind()?;
        Ok(file)
    }

    /// Reads it again.
    ///
    /// # Errors
    /// It cannot be read, or was not written by this version of `start`.
    pub fn read(from: impl Read) -> io::Result<Self> {
        Ok(serde_json::from_reader(from)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_arrives() {
        let handoff = Handoff {
            bundle: "/b".into(),
            sandbox: "s".into(),
            socket: "/run/s".into(),
            ttrpc_address: "/run/c.ttrpc".into(),
            options: Options {
                config_body: Some("a = 1".into()),
                ..Options::default()
            },
            debug: true,
            warnings: vec!["w".into()],
        };
        let file = handoff.clone().into_file().unwrap();
        assert_eq!(Handoff::read(file).unwrap(), handoff);
    }
}
