//! Places in mount orders: paths of the host, and containerd's templates for places in earlier mounts.

use std::path::PathBuf;

use super::RootfsError;

/// Where something of a mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A path of the host.
    Host(PathBuf),
    /// In an earlier mount of the same root file system.
    Mount {
        /// Which.
        index: usize,
        /// Below its root, without a leading slash.
        path: String,
    },
}

impl Place {
    /// Reads `PATH` or `{{ mount N }}PATH`, in the order of mount `at`.
    ///
    /// # Errors
    /// A template of another form, or one that names no earlier mount.
    pub fn parse(text: &str, at: usize) -> Result<Self, RootfsError> {
        let mut places = Self::parse_list(text, at)?;
        match (places.pop(), places.is_empty()) {
            (Some(place), true) => Ok(place),
            _ => Err(invalid(at, format!("{text:?} is not one place"))),
        }
    }

    /// Reads places separated by colons; `{{ overlay FIRST LAST }}` stands for the roots of those mounts.
    ///
    /// # Errors
    /// As [`Place::parse`].
    pub fn parse_list(text: &str, at: usize) -> Result<Vec<Self>, RootfsError> {
        let mut places = Vec::new();
        for part in text.split(':') {
            let Some(rest) = part.strip_prefix("{{") else {
                places.push(Self::Host(part.into()));
                continue;
            };
            let unknown = || invalid(at, format!("template {part:?} is not known"));
            let (template, path) = rest.split_once("}}").ok_or_else(unknown)?;
            let words: Vec<_> = template.split_whitespace().collect();
            let earlier = |word: &str| {
                let index: usize = word.parse().map_err(|_| unknown())?;
                let is_earlier = index < at;
                is_earlier
                    .then_some(index)
                    .ok_or_else(|| invalid(at, format!("{part:?} names no earlier mount")))
            };
            let root = |index| Self::Mount {
                index,
                path: String::new(),
            };
            match words[..] {
                ["mount", index] => places.push(Self::Mount {
                    index: earlier(index)?,
                    path: below(path).ok_or_else(unknown)?,
                }),
                ["overlay", first, last] if path.is_empty() => {
                    let (first, last) = (earlier(first)?, earlier(last)?);
                    if first <= last {
                        places.extend((first..=last).map(root));
                    } else {
                        places.extend((last..=first).rev().map(root));
                    }
                }
                _ => return Err(unknown()),
            }
        }
        Ok(places)
    }
}

/// A path below a root, which it must not leave; `None` if it would.
fn below(path: &str) -> Option<String> {
    let path = path.strip_prefix('/').or(path.is_empty().then_some(""))?;
    let stays = path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    stays.then(|| path.to_owned())
}

pub(super) fn invalid(index: usize, reason: String) -> RootfsError {
    RootfsError::Invalid { index, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(index: usize, path: &str) -> Place {
        Place::Mount {
            index,
            path: path.into(),
        }
    }

    #[test]
    fn containerds_templates() {
        let list = |text| Place::parse_list(text, 4).unwrap();
        assert_eq!(
            list("{{ overlay 0 2 }}"),
            [mount(0, ""), mount(1, ""), mount(2, "")]
        );
        assert_eq!(list("{{ overlay 2 1 }}"), [mount(2, ""), mount(1, "")]);
        assert_eq!(list("{{ mount 3 }}:/a"), [mount(3, ""), Place::Host("/a".into())]);
        assert_eq!(Place::parse("{{ mount 0 }}/upper", 4).unwrap(), mount(0, "upper"));
    }

    #[test]
    fn what_is_not_an_earlier_mount_is_refused() {
        for text in [
            "{{ mount 4 }}",
            "{{ overlay 0 4 }}",
            "{{ mount x }}",
            "{{ source 0 }}",
            "{{ mount 0 }}/../x",
            "{{ mount 0 }}x",
            "{{ mount 0",
            "{{ overlay 0 1 }}/x",
        ] {
            assert!(Place::parse_list(text, 4).is_err(), "{text}");
        }
        assert!(Place::parse("{{ overlay 0 1 }}", 4).is_err());
    }
}
