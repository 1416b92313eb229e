//! Reads a bundle's config.json, bounded in size and depth.

use std::io;
use std::path::{Path, PathBuf};

use displaydoc::Display;
use oci_spec::runtime::{LinuxResources, Process, Spec};
use thiserror::Error;

/// Largest config.json. Real ones have 10 to 60 KiB (seccomp profile included); 4 MiB is also the
/// protocol's largest control frame, and the spec must fit into one.
pub const MAX_SPEC_BYTES: u64 = 4 << 20;

/// Why a spec could not be read. Every one of them is the caller's fault: InvalidArgument.
#[derive(Debug, Display, Error)]
pub enum SpecError {
    /// {path} does not exist
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// {path} is empty
    Empty {
        /// The file, or what was being parsed.
        path: PathBuf,
    },
    /// {path} has {size} bytes, more than the 4 MiB allowed
    TooLarge {
        /// The file, or what was being parsed.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// {path} is nested deeper than {limit} levels
    TooDeep {
        /// The file, or what was being parsed.
        path: PathBuf,
        /// The most levels allowed.
        limit: usize,
    },
    /// {path} is not UTF-8 from byte {offset} on
    NotUtf8 {
        /// The file, or what was being parsed.
        path: PathBuf,
        /// First byte that is not.
        offset: usize,
    },
    /// {path} is not valid: {field}: {reason}
    Malformed {
        /// The file, or what was being parsed.
        path: PathBuf,
        /// JSON path of the offending field, for example `process.rlimits[0].type`.
        field: String,
        /// What is wrong there.
        reason: String,
    },
    /// {path} has ociVersion {version:?}; only 1.x is supported
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: String,
    },
    /// cannot read {path}: {source}
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Reads and parses `path`, looking at its metadata first.
///
/// # Errors
/// The file is missing, empty, not a regular file, larger than [`MAX_SPEC_BYTES`], too deeply nested,
/// not UTF-8, not an OCI spec of major version 1, or cannot be read.
pub fn read_spec(path: &Path) -> Result<Spec, SpecError> {
    let bytes = std::fs::read(path).map_err(|source| SpecError::Io {
        path: path.to_owned(),
        source,
    })?;
    parse(&bytes, path)
}

/// Parses the `Process` of an Exec request.
///
/// # Errors
/// As [`read_spec`], apart from the file's.
pub fn parse_process(json: &[u8]) -> Result<Process, SpecError> {
    parse(json, Path::new("process"))
}

/// Parses the `LinuxResources` of an Update request.
///
/// # Errors
/// As [`read_spec`], apart from the file's.
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources, SpecError> {
    parse(json, Path::new("resources"))
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8], path: &Path) -> Result<T, SpecError> {
    serde_json::from_slice(json).map_err(|error| SpecError::Malformed {
        path: path.to_owned(),
        field: String::new(),
        reason: error.to_string(),
    })
}
