//! Reads a bundle's config.json, bounded in size and depth.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use displaydoc::Display;
use oci_spec::runtime::{Capability, LinuxResources, Process, Spec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

#[cfg(test)]
mod tests;

/// Largest config.json. Real ones have 10 to 60 KiB (seccomp profile included); 4 MiB is also the
/// protocol's largest control frame, and the spec must fit into one.
pub const MAX_SPEC_BYTES: u64 = 4 << 20;

/// Longest reason in a [`SpecError::Malformed`]; it ends in an error that `kubectl describe` shows.
const MAX_REASON_BYTES: usize = 512;

/// Most unknown capabilities that one line of the log names.
const MAX_NAMED: usize = 8;
/// Longest version in a [`SpecError::Version`].
const MAX_VERSION_CHARS: usize = 32;

/// Why a spec could not be read. Every one of them is the caller's fault: InvalidArgument.
#[derive(Debug, Display, Error)]
pub enum SpecError {
    /// {path} does not exist
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// {path} is not a regular file
    NotAFile {
        /// What is no file.
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

/// Deepest nesting of objects and arrays. The specification's own types need 7 (a seccomp rule's arguments).
const MAX_DEPTH: usize = 32;

/// Reads and parses `path`, looking at its metadata first.
///
/// Capabilities that this version does not know are left out with a warning in the log, as runc does: a
/// container that may use all of a newer kernel's capabilities still runs.
///
/// # Errors
/// The file is missing, empty, not a regular file, larger than [`MAX_SPEC_BYTES`], too deeply nested,
/// not UTF-8, not an OCI spec of major version 1, or cannot be read.
pub fn read_spec(path: &Path) -> Result<Spec, SpecError> {
    let json = read_bounded(path)?;
    let spec: Spec = parse(&json, path).map_err(|error| match version_alone(&json) {
        // What else a spec of another version says cannot be judged.
        Some(version) => check_version(&version, path).err().unwrap_or(error),
        None => error,
    })?;
    check_version(spec.version(), path)?;
    Ok(spec)
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

fn read_bounded(path: &Path) -> Result<Vec<u8>, SpecError> {
    let io_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SpecError::Missing {
            path: path.to_owned(),
        },
        _ => SpecError::Io {
            path: path.to_owned(),
            source,
        },
    };
    // Before opening it: opening a fifo would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(io_error)?;
    if !metadata.is_file() {
        return Err(SpecError::NotAFile {
            path: path.to_owned(),
        });
    }
    if metadata.len() > MAX_SPEC_BYTES {
        return Err(SpecError::TooLarge {
            path: path.to_owned(),
            size: metadata.len(),
        });
    }
    let mut json = Vec::new();
    let file = File::open(path).map_err(io_error)?;
    // It may have grown since; one byte more is enough for `parse` to notice.
    file.take(MAX_SPEC_BYTES + 1)
        .read_to_end(&mut json)
        .map_err(io_error)?;
    Ok(json)
}

fn check_version(version: &str, path: &Path) -> Result<(), SpecError> {
    let mut numbers = version.split('.');
    let has_minor = |minor: &str| minor.parse::<u16>().is_ok();
    if numbers.next() == Some("1") && numbers.next().is_some_and(has_minor) {
        return Ok(());
    }
    Err(SpecError::Version {
        path: path.to_owned(),
        version: version.chars().take(MAX_VERSION_CHARS).collect(),
    })
}

/// What the file says of its version, if it says so at all.
fn version_alone(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        oci_version: String,
    }
    let head: Head = serde_json::from_slice(json).ok()?;
    Some(head.oci_version)
}

/// Parses at full speed what is well-formed, and again, watching its steps, what is not.
fn parse<T: DeserializeOwned>(json: &[u8], path: &Path) -> Result<T, SpecError> {
    check_text(json, path)?;
    if let Ok(value) = serde_json::from_slice(json) {
        return Ok(value);
    }
    match watched(json, path) {
        Err(SpecError::Malformed { field, .. }) if field.contains("capabilities.") => {
            without_unknown_capabilities(json, path)
        }
        result => result,
    }
}

fn without_unknown_capabilities<T: DeserializeOwned>(json: &[u8], path: &Path) -> Result<T, SpecError> {
    let mut value: Value = watched(json, path)?;
    let unknown = drop_unknown_capabilities(&mut value);
    if !unknown.is_empty() {
        let names = unknown[..unknown.len().min(MAX_NAMED)].join(", ");
        tracing::warn!("{}: unknown capabilities are ignored: {names}", path.display());
    }
    serde_path_to_error::deserialize(value).map_err(|error| malformed(&error, path))
}

fn check_text(json: &[u8], path: &Path) -> Result<(), SpecError> {
    let path = || path.to_owned();
    if json.is_empty() {
        return Err(SpecError::Empty { path: path() });
    }
    let size = json.len() as u64;
    if size > MAX_SPEC_BYTES {
        return Err(SpecError::TooLarge { path: path(), size });
    }
    if let Err(error) = std::str::from_utf8(json) {
        return Err(SpecError::NotUtf8 {
            path: path(),
            offset: error.valid_up_to(),
        });
    }
    if depth(json) > MAX_DEPTH {
        return Err(SpecError::TooDeep {
            path: path(),
            limit: MAX_DEPTH,
        });
    }
    Ok(())
}

/// The deepest nesting, of JSON or of anything else, without recursion.
fn depth(json: &[u8]) -> usize {
    let (mut now, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn watched<T: DeserializeOwned>(json: &[u8], path: &Path) -> Result<T, SpecError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| malformed(&error, path))?;
    deserializer.end().map_err(|error| SpecError::Malformed {
        path: path.to_owned(),
        field: "end".into(),
        reason: error.to_string(),
    })?;
    Ok(value)
}

fn malformed(error: &serde_path_to_error::Error<serde_json::Error>, path: &Path) -> SpecError {
    let mut reason = error.inner().to_string();
    // The text of a bad value is quoted in the reason, and may be as long as the file.
    if reason.len() > MAX_REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        reason.push('…');
    }
    SpecError::Malformed {
        path: path.to_owned(),
        field: error.path().to_string(),
        reason,
    }
}

/// Removes what is no capability from the five sets of the process, and returns it.
fn drop_unknown_capabilities(value: &mut Value) -> Vec<String> {
    let mut unknown = BTreeSet::new();
    for pointer in ["/process/capabilities", "/capabilities"] {
        let sets = value.pointer_mut(pointer).and_then(Value::as_object_mut);
        for set in sets
            .into_iter()
            .flat_map(|sets| sets.values_mut())
            .filter_map(Value::as_array_mut)
        {
            set.retain(|name| match name.as_str() {
                Some(text) if Capability::deserialize(name).is_err() => {
                    unknown.insert(text.to_owned());
                    false
                }
                _ => true,
            });
        }
    }
    unknown.into_iter().collect()
}
