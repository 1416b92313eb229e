//! What a stdio field of a request names.

use std::path::PathBuf;

use super::StdioError;

/// Where a stream of a process goes to or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: /dev/null in the guest.
    Null,
    /// A fifo that the client made.
    Fifo(PathBuf),
    /// A file to append to.
    File(PathBuf),
    /// A program that is given the output.
    Binary(Binary),
}

/// A logging program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The program.
    pub path: PathBuf,
    /// Each key of the URI's query and its first value.
    pub args: Vec<String>,
    /// `binary-v2`: it must say that it is ready. With `binary`, closing its end will do.
    pub must_confirm: bool,
}

impl Target {
    /// Reads a stdio field.
    ///
    /// # Errors
    /// The scheme is unknown, or the path is not absolute.
    pub fn parse(field: &str) -> Result<Self, StdioError> {
        if field.is_empty() {
            return Ok(Self::Null);
        }
        let Some((scheme, rest)) = field.split_once("://") else {
            return Ok(Self::Fifo(absolute(field, field.to_owned())?));
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = absolute(field, decode(path, false))?;
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" | "binary-v2" => Ok(Self::Binary(Binary {
                path,
                args: first_values(query),
                must_confirm: scheme == "binary-v2",
            })),
            _ => Err(StdioError::Scheme(field.to_owned())),
        }
    }
}

fn absolute(field: &str, path: String) -> Result<PathBuf, StdioError> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(StdioError::Relative(field.to_owned()))
    }
}

/// `key value` pairs, flat; of a key that occurs again only the first value counts.
fn first_values(query: &str) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key, true);
        if !args.iter().step_by(2).any(|known| *known == key) {
            args.extend([key, decode(value, true)]);
        }
    }
    args
}

/// Undoes percent-encoding. What is no valid escape stands for itself.
fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => match hex_byte(bytes.get(at..at + 2)) {
                Some(value) => {
                    decoded.push(value);
                    at += 2;
                }
                None => decoded.push(byte),
            },
            b'+' if plus_is_space => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex_byte(digits: Option<&[u8]>) -> Option<u8> {
    let digits = std::str::from_utf8(digits?).ok()?;
    // from_str_radix would take a sign.
    digits
        .bytes()
        .all(|b| b.is_ascii_hexdigit())
        .then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifos_files_and_nothing() {
        assert_eq!(Target::parse("").unwrap(), Target::Null);
        let fifo = "/run/containerd/fifo/1/web-stdout";
        assert_eq!(Target::parse(fifo).unwrap(), Target::Fifo(fifo.into()));
        assert_eq!(
            Target::parse(&format!("fifo://{fifo}")).unwrap(),
            Target::Fifo(fifo.into())
        );
        assert_eq!(
            Target::parse("file:///var/log/a%20b.log").unwrap(),
            Target::File("/var/log/a b.log".into())
        );
    }

    #[test]
    fn nerdctls_logger() {
        let field = "binary:///usr/local/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fnerdctl%2F1935";
        let Target::Binary(binary) = Target::parse(field).unwrap() else {
            panic!("not a binary")
        };
        assert_eq!(binary.path, PathBuf::from("/usr/local/bin/nerdctl"));
        assert_eq!(
            binary.args,
            ["_NERDCTL_INTERNAL_LOGGING", "/var/lib/nerdctl/1935"]
        );
        assert!(!binary.must_confirm);
    }

    #[test]
    fn a_query_gives_each_key_once() {
        let Target::Binary(binary) = Target::parse("binary-v2:///l?a=1&b&a=2&c=x+y%zz").unwrap() else {
            panic!("not a binary")
        };
        assert_eq!(binary.args, ["a", "1", "b", "", "c", "x y%zz"]);
        assert!(binary.must_confirm);
    }

    #[test]
    fn what_is_refused() {
        for field in [
            "relative",
            "file://host/x",
            "binary://x",
            "npipe:////./pipe/x",
            "ttrpc+unix:///x?y=z",
        ] {
            let error = Target::parse(field).unwrap_err();
            assert!(error.is_callers_fault(), "{field}: {error}");
        }
    }
}
