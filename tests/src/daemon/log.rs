//! What containerd and the shims have said.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::Daemon;

/// What makes a log line of no use to whoever reads why a test failed.
const NOISE: [&str; 3] = ["snapshot", "loading plugin", "registering ttrpc service"];

impl Daemon {
    /// How long the daemon's log is now.
    pub fn log_length(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |metadata| metadata.len())
    }

    /// The daemon's log from that length on, its last part.
    pub fn log_since(&self, start: u64) -> String {
        // Enough for a shim's last words; a failure message is read by people.
        const TAIL: usize = 8 * 1024;
        let mut bytes = Vec::new();
        let read = File::open(self.log_path()).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_to_end(&mut bytes)
        });
        if let Err(error) = read {
            return format!("{}: {error}", self.log_path().display());
        }
        let text = String::from_utf8_lossy(&bytes);
        let telling: Vec<&str> = text
            .lines()
            .filter(|line| !NOISE.iter().any(|noise| line.contains(noise)))
            .collect();
        let telling = telling.join("\n");
        telling[telling.ceil_char_boundary(telling.len().saturating_sub(TAIL))..].to_owned()
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.path("containerd.log")
    }
}
