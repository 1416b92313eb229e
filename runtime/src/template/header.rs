//! The first page of a template's file: what it is a template of, and how long the file must be.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::Key;
use crate::vmm::SAVED_OFFSET;

/// Begins the file.
const MAGIC: [u8; 8] = *b"BULKHEAD";
/// Length of the header, padding included.
const LENGTH: usize = SAVED_OFFSET as usize;
/// The text is preceded by the magic and its length.
const TEXT: usize = MAGIC.len() + size_of::<u32>();

/// What a template's file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What it is a template of.
    pub key: Key,
    /// Length of the file, in bytes: one that is shorter has been torn.
    pub length: u64,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
}

impl Header {
    /// Reads it from the beginning of `file`. `None`: there is none.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let mut page = [0; LENGTH];
        match file.read_exact_at(&mut page, 0) {
            Ok(()) => Ok(Self::decode(&page)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it to the beginning of `file`.
    pub fn write(&self, file: &File) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut page = [0; LENGTH];
        let Some(place) = page.get_mut(TEXT..TEXT + text.len()) else {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the header is too long",
            ));
        };
        place.copy_from_slice(&text);
        page[..MAGIC.len()].copy_from_slice(&MAGIC);
        // Fits: it is part of a page.
        page[MAGIC.len()..TEXT].copy_from_slice(&(text.len() as u32).to_be_bytes());
        file.write_all_at(&page, 0)
    }

    fn decode(page: &[u8]) -> Option<Self> {
        let rest = page.strip_prefix(&MAGIC)?;
        let (length, rest) = rest.split_first_chunk()?;
        let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
        serde_json::from_slice(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::key;
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Header::read(&file).unwrap(), None);
        let header = Header {
            key: key(1),
            length: 1 << 30,
            created_at: 7,
        };
        header.write(&file).unwrap();
        assert_eq!(Header::read(&file).unwrap(), Some(header));
        for (position, byte) in [(0, b'b'), (8, 0xff), (11, 3), (14, b'x')] {
            let mut before = [0];
            file.read_exact_at(&mut before, position).unwrap();
            file.write_all_at(&[byte], position).unwrap();
            assert_eq!(Header::read(&file).unwrap(), None, "at {position}");
            file.write_all_at(&before, position).unwrap();
        }
        file.set_len(SAVED_OFFSET - 1).unwrap();
        assert_eq!(Header::read(&file).unwrap(), None);
    }

    #[test]
    fn a_header_that_does_not_fit_is_not_written() {
        let file = tempfile::tempfile().unwrap();
        let mut key = key(1);
        key.monitor = "m".repeat(LENGTH);
        let header = Header {
            key,
            length: 0,
            created_at: 0,
        };
        assert!(header.write(&file).is_err());
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
