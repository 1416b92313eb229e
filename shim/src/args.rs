//! The command line, in the syntax of Go's `flag` package, which containerd writes.
//!
//! `-k v`, `-k=v`, `--k v` and `--k=v` mean the same, flags end at the first word that is none, and a
//! boolean flag never takes the word behind it.

use std::path::PathBuf;

use displaydoc::Display;
use thiserror::Error;

/// What the binary is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `-v`, `-version`: print the version.
    Version,
    /// `-info`: describe the runtime on stdout.
    Info,
    /// `start`: start or find the server of a sandbox and print its address.
    Start,
    /// `delete`: clean up after a server that is gone.
    Delete,
    /// No action: be the server.
    Serve,
}

/// The command line, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub mode: Mode,
    /// `-debug`: log more.
    pub debug: bool,
    /// `-namespace`: containerd's namespace. Never empty in a mode that needs it.
    pub namespace: String,
    /// `-id`: the container.
    pub id: String,
    /// `-bundle`: its bundle; given to `delete`, else the working directory is the bundle.
    pub bundle: Option<PathBuf>,
    /// `-address`: containerd's gRPC socket.
    pub address: String,
    /// `-publish-binary`: containerd's binary; kept for the server's command line, never executed.
    pub publish_binary: String,
    /// Flags this version does not know, for a warning: a newer containerd may pass some.
    pub unknown: Vec<String>,
}

/// Why the command line was refused.
#[derive(Debug, Display, Error, PartialEq, Eq)]
pub enum ArgsError {
    /// flag needs an argument: -{0}
    MissingValue(String),
    /// invalid boolean value "{value}" for -{flag}
    BadBoolean {
        /// Its name.
        flag: String,
        /// What was given.
        value: String,
    },
    /// unknown action "{0}": expected start or delete
    UnknownAction(String),
    /// shim namespace cannot be empty
    EmptyNamespace,
}

/// Flags with a value that are accepted and not used: we have no second socket.
const IGNORED: [&str; 2] = ["socket", "debug-socket"];

impl Args {
    /// Parses the words behind the program's name.
    ///
    /// # Errors
    /// A flag without its value, an action that does not exist, or no namespace where one is needed.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let words: Vec<String> = words.into_iter().collect();
        let mut args = Self {
            mode: Mode::Serve,
            debug: false,
            namespace: String::new(),
            id: String::new(),
            bundle: None,
            address: String::new(),
            publish_binary: String::new(),
            unknown: Vec::new(),
        };
        let (mut version, mut info) = (false, false);

        let mut next = 0;
        while let Some(flag) = words.get(next).and_then(|word| Flag::split(word)) {
            next += 1;
            match flag.name {
                "debug" => args.debug = flag.boolean()?,
                "v" | "version" => version = flag.boolean()?,
                "info" => info = flag.boolean()?,
                "namespace" => args.namespace = flag.value(&words, &mut next)?,
                "id" => args.id = flag.value(&words, &mut next)?,
                "bundle" => args.bundle = Some(flag.value(&words, &mut next)?.into()),
                "address" => args.address = flag.value(&words, &mut next)?,
                "publish-binary" => args.publish_binary = flag.value(&words, &mut next)?,
                name if IGNORED.contains(&name) => {
                    flag.value(&words, &mut next)?;
                }
                name => {
                    args.unknown.push(name.to_owned());
                    if flag.inline.is_none() && has_unknown_value(&words, next) {
                        next += 1;
                    }
                }
            }
        }
        if words.get(next).is_some_and(|word| word == "--") {
            next += 1;
        }

        args.mode = match words.get(next).map(String::as_str) {
            _ if version => Mode::Version,
            _ if info => Mode::Info,
            None => Mode::Serve,
            Some("start") => Mode::Start,
            Some("delete") => Mode::Delete,
            Some(other) => return Err(ArgsError::UnknownAction(other.to_owned())),
        };
        if args.namespace.is_empty() && !matches!(args.mode, Mode::Version | Mode::Info) {
            return Err(ArgsError::EmptyNamespace);
        }
        Ok(args)
    }
}

/// Whether the word behind an unknown flag is its value: it is, unless it looks like the next flag or
/// is the last word and an action.
fn has_unknown_value(words: &[String], next: usize) -> bool {
    words.get(next).is_some_and(|word| {
        let is_action = next + 1 == words.len() && (word == "start" || word == "delete");
        !word.starts_with('-') && !is_action
    })
}

/// One flag, split at its `=`.
struct Flag<'a> {
    name: &'a str,
    inline: Option<&'a str>,
}

impl<'a> Flag<'a> {
    /// `None` where the flags end.
    fn split(word: &'a str) -> Option<Self> {
        let body = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        if body.is_empty() {
            return None;
        }
        Some(match body.split_once('=') {
            Some((name, value)) => Self {
                name,
                inline: Some(value),
            },
            None => Self {
                name: body,
                inline: None,
            },
        })
    }

    fn value(&self, words: &[String], next: &mut usize) -> Result<String, ArgsError> {
        if let Some(value) = self.inline {
            return Ok(value.to_owned());
        }
        let value = words
            .get(*next)
            .ok_or_else(|| ArgsError::MissingValue(self.name.to_owned()))?;
        *next += 1;
        Ok(value.clone())
    }

    fn boolean(&self) -> Result<bool, ArgsError> {
        match self.inline {
            None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some(value) => Err(ArgsError::BadBoolean {
                flag: self.name.to_owned(),
                value: value.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn start_as_containerd_writes_it() {
        let args = parse(
            "-namespace default -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd \
             -id web -debug start",
        )
        .unwrap();
        assert_eq!(args.mode, Mode::Start);
        assert_eq!((args.namespace.as_str(), args.id.as_str()), ("default", "web"));
        assert_eq!(args.address, "/run/containerd/containerd.sock");
        assert!(args.debug && args.unknown.is_empty() && args.bundle.is_none());
    }

    #[test]
    fn delete_in_both_orders() {
        for line in [
            "-namespace n -bundle /b -id x delete",
            "-namespace n -id x -bundle /b delete",
        ] {
            let args = parse(line).unwrap();
            assert_eq!(args.mode, Mode::Delete);
            assert_eq!(args.bundle.unwrap(), PathBuf::from("/b"));
        }
    }

    #[test]
    fn all_four_spellings_of_a_flag() {
        for line in ["-namespace n", "--namespace n", "-namespace=n", "--namespace=n"] {
            assert_eq!(parse(line).unwrap().namespace, "n", "{line}");
        }
    }

    #[test]
    fn info_and_version_need_no_namespace() {
        assert_eq!(parse("-info").unwrap().mode, Mode::Info);
        assert_eq!(parse("-v").unwrap().mode, Mode::Version);
        assert_eq!(parse("--version").unwrap().mode, Mode::Version);
        assert_eq!(parse("-version=false -namespace n").unwrap().mode, Mode::Serve);
    }

    #[test]
    fn unknown_flags_are_passed_over_with_their_values() {
        let args = parse("-future -namespace n -newer value -id x -last start").unwrap();
        assert_eq!(args.mode, Mode::Start);
        assert_eq!(args.unknown, ["future", "newer", "last"]);
        assert_eq!(args.id, "x");
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(parse("start"), Err(ArgsError::EmptyNamespace));
        assert_eq!(
            parse("-namespace n restart"),
            Err(ArgsError::UnknownAction("restart".into()))
        );
        assert_eq!(
            parse("-namespace"),
            Err(ArgsError::MissingValue("namespace".into()))
        );
        assert!(matches!(
            parse("-debug=maybe -namespace n"),
            Err(ArgsError::BadBoolean { .. })
        ));
    }

    #[test]
    fn flags_end_at_the_first_word_that_is_none() {
        let args = parse("-namespace n start -debug").unwrap();
        assert!(!args.debug);
        assert_eq!(parse("-namespace n -- start").unwrap().mode, Mode::Start);
    }
}
