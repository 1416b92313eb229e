//! Names that only one sandbox of the host may use, held by files.
//!
//! A lease is taken in two steps: [reserved], it is given back when dropped or when its process dies; committed,
//! it stays until it is released, by whoever holds its [`LeaseToken`] or by the clean-up of a sandbox that is
//! gone. Each reservation has a generation, and only the token of that very generation releases it: a late
//! release of an old lease cannot take a new one away.
//!
//! [reserved]: LeaseTable::reserve

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A record is two numbers and two names.
const MAX_RECORD: u64 = 4096;

/// The leases of one kind of resource: one file a name, in one directory.
#[derive(Debug, Clone)]
pub struct LeaseTable {
    directory: PathBuf,
}

/// A name that is taken while this lives. Dropped, it is free again.
#[derive(Debug)]
pub struct Reservation {
    /// Holds the lock that makes the reservation.
    file: File,
    path: PathBuf,
    record: Record,
}

/// Proof of a committed lease, for the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseToken {
    /// The lease's file.
    pub path: PathBuf,
    /// Which lease of that name.
    pub generation: u64,
}

/// What a lease's file says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Record {
    generation: u64,
    /// The sandbox that has committed it. `None`: free, unless the file is locked.
    holder: Option<String>,
}

/// Why a lease could not be taken or given back.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum LeaseError {
    /// {name} is not a lease's name
    Name {
        /// The name.
        name: String,
    },
    /// {name} is taken by {holder}
    Taken {
        /// The name.
        name: String,
        /// Its holder, or that it is only reserved.
        holder: String,
    },
    /// lease {path}: {source}
    File {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl LeaseTable {
    /// The leases kept in `directory`, which is made when the first one is.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Takes a name for as long as the reservation lives.
    pub fn reserve(&self, name: &str) -> Result<Reservation, LeaseError> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(LeaseError::Name {
                name: name.to_owned(),
            });
        }
        let path = self.directory.join(name);
        let taken = |holder: &str| LeaseError::Taken {
            name: name.to_owned(),
            holder: holder.to_owned(),
        };
        let Some((mut file, record)) = self.lock(&path).map_err(at(&path))? else {
            return Err(taken("a sandbox that is starting"));
        };
        if let Some(holder) = &record.holder {
            return Err(taken(holder));
        }
        let record = Record {
            generation: record.generation + 1,
            holder: None,
        };
        write(&mut file, &record).map_err(at(&path))?;
        Ok(Reservation { file, path, record })
    }

    /// `None` if somebody holds the lock.
    fn lock(&self, path: &Path) -> io::Result<Option<(File, Record)>> {
        fs::create_dir_all(&self.directory)?;
        lock(path)
    }
}

impl Reservation {
    /// Keeps the name for `holder`, beyond this process's life, until it is released.
    pub fn commit(mut self, holder: &str) -> Result<LeaseToken, LeaseError> {
        self.record.holder = Some(holder.to_owned());
        write(&mut self.file, &self.record).map_err(at(&self.path))?;
        Ok(LeaseToken {
            path: self.path.clone(),
            generation: self.record.generation,
        })
    }
}

impl LeaseToken {
    /// Gives the name back. A lease that is not there any more, or is another one by now, is left alone.
    pub fn release(&self) -> Result<(), LeaseError> {
        self.try_release().map_err(at(&self.path))
    }

    fn try_release(&self) -> io::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        // Locked: somebody is about to find out that it is taken, or it is no longer this one.
        let mut file = open(&self.path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        let record = read(&mut file)?;
        if record.generation == self.generation && record.holder.is_some() {
            write(
                &mut file,
                &Record {
                    holder: None,
                    ..record
                },
            )?;
        }
        Ok(())
    }
}

fn lock(path: &Path) -> io::Result<Option<(File, Record)>> {
    let mut file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let record = read(&mut file)?;
    Ok(Some((file, record)))
}

/// Lease files stay: one that is removed while another process opens it would give two locks for one name.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// An empty or half-written file is that of a lease nobody has had.
fn read(file: &mut File) -> io::Result<Record> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(MAX_RECORD).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).unwrap_or_default())
}

fn write(file: &mut File, record: &Record) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&serde_json::to_vec(record)?)
}

fn at(path: &Path) -> impl Fn(io::Error) -> LeaseError {
    move |source| LeaseError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (tempfile::TempDir, LeaseTable) {
        let directory = tempfile::tempdir().unwrap();
        let table = LeaseTable::new(directory.path().join("tap"));
        (directory, table)
    }

    #[test]
    fn a_reservation_excludes_others_until_it_is_dropped() {
        let (_directory, table) = table();
        let first = table.reserve("bh0").unwrap();
        assert!(matches!(table.reserve("bh0"), Err(LeaseError::Taken { .. })));
        table.reserve("bh1").unwrap();
        drop(first);
        table.reserve("bh0").unwrap();
    }

    #[test]
    fn a_committed_lease_outlives_its_process_and_names_its_holder() {
        let (_directory, table) = table();
        let token = table.reserve("bh0").unwrap().commit("default/box").unwrap();
        let error = table.reserve("bh0").unwrap_err();
        assert_eq!(error.to_string(), "bh0 is taken by default/box");
        token.release().unwrap();
        token.release().unwrap();
        table.reserve("bh0").unwrap();
    }

    #[test]
    fn an_old_token_cannot_release_a_new_lease() {
        let (_directory, table) = table();
        let old = table.reserve("bh0").unwrap().commit("old").unwrap();
        old.release().unwrap();
        let new = table.reserve("bh0").unwrap().commit("new").unwrap();
        old.release().unwrap();
        assert!(matches!(table.reserve("bh0"), Err(LeaseError::Taken { .. })));
        assert_eq!(new.generation, old.generation + 1);
        new.release().unwrap();
    }

    #[test]
    fn a_token_survives_the_state_file_and_a_lost_table() {
        let (directory, table) = table();
        let token = table.reserve("bh0").unwrap().commit("box").unwrap();
        let text = serde_json::to_string(&token).unwrap();
        drop(directory);
        serde_json::from_str::<LeaseToken>(&text)
            .unwrap()
            .release()
            .unwrap();
    }

    #[test]
    fn names_stay_in_the_table() {
        let (_directory, table) = table();
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a\0"] {
            assert!(matches!(table.reserve(name), Err(LeaseError::Name { .. })));
        }
    }
}
