//! Overlays of many layers: mount(2) takes one page of options, and a hundred absolute paths are more.

use std::path::PathBuf;

/// Bytes of options that mount(2) takes: a page less its terminating zero.
pub(super) const MAX_DATA: usize = 4095;

const LOWERDIR: &str = "lowerdir=";

/// Options, and the directory the paths in them are relative to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compacted {
    /// Joined by commas.
    pub data: String,
    /// `None`: the paths are absolute.
    pub directory: Option<PathBuf>,
}

/// Joins the options; where they are too long for mount(2), the lower directories become relative to the
/// directory they have in common.
pub(super) fn compact(options: &[String]) -> Compacted {
    let data = options.join(",");
    if data.len() <= MAX_DATA {
        return Compacted {
            data,
            directory: None,
        };
    }
    let lower = options.iter().find_map(|option| option.strip_prefix(LOWERDIR));
    let Some(common) = lower.and_then(common_directory) else {
        return Compacted {
            data,
            directory: None,
        };
    };
    let relative: Vec<_> = options
        .iter()
        .map(|option| match option.strip_prefix(LOWERDIR) {
            Some(lower) => {
                let dirs: Vec<_> = lower.split(':').map(|dir| &dir[common.len()..]).collect();
                format!("{LOWERDIR}{}", dirs.join(":"))
            }
            None => option.clone(),
        })
        .collect();
    Compacted {
        data: relative.join(","),
        directory: Some(PathBuf::from(common)),
    }
}

/// The longest prefix of all paths that ends in `/`, if it is more than the root, and no path would be empty
/// without it.
fn common_directory(lower: &str) -> Option<&str> {
    let (first, mut common) = (lower.split(':').next()?, lower.split(':').next()?.len());
    for dir in lower.split(':') {
        common = first
            .bytes()
            .zip(dir.bytes())
            .take(common)
            .take_while(|(a, b)| a == b)
            .count();
    }
    let end = first[..floor_char_boundary(first, common)].rfind('/')? + 1;
    let usable = end > 1 && lower.split(':').all(|dir| dir.len() > end);
    usable.then(|| &first[..end])
}

fn floor_char_boundary(text: &str, mut index: usize) -> usize {
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(count: usize) -> Vec<String> {
        let dirs: Vec<_> = (0..count)
            .map(|n| format!("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/{n}/fs"))
            .collect();
        vec![
            "index=off".into(),
            format!("lowerdir={}", dirs.join(":")),
            "upperdir=/u".into(),
        ]
    }

    #[test]
    fn short_options_stay_absolute() {
        let compacted = compact(&layers(3));
        assert_eq!(compacted.directory, None);
        assert!(compacted.data.contains("lowerdir=/var/lib/"));
    }

    #[test]
    fn long_options_become_relative() {
        let compacted = compact(&layers(100));
        let snapshots = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/";
        assert_eq!(compacted.directory, Some(snapshots.into()));
        assert!(compacted.data.starts_with("index=off,lowerdir=0/fs:1/fs:"));
        assert!(compacted.data.ends_with(":99/fs,upperdir=/u"));
        assert!(compacted.data.len() <= MAX_DATA);
    }

    #[test]
    fn only_whole_components_are_common() {
        assert_eq!(common_directory("/a/b1:/a/b2"), Some("/a/"));
        assert_eq!(common_directory("/a/é1:/a/è2"), Some("/a/"));
        assert_eq!(common_directory("/a:/b"), None);
        assert_eq!(common_directory("/a/b/:/a/b/c"), None, "one would be left empty");
        assert_eq!(common_directory("a:b"), None);
    }
}
