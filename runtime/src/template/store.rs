//! Where templates are kept: `<name>.vm` in one directory of root's, and beside them drafts and notes of failures.
//!
//! A draft is locked by its builder for as long as that lives, and becomes a template by being renamed. A template
//! may be removed at any time: who restores from it has it open.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};

use super::own::{self, at};
use super::{Header, Key, TemplateError};
use crate::config::Config;
use crate::process::boot_id;

/// Nobody but root has business in here: a template holds what a guest's memory holds.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Extensions.
const TEMPLATE: &str = "vm";
const DRAFT: &str = "draft";
const FAILED: &str = "failed";
/// After a failure, how long no other attempt is made without being asked for: what is wrong (a full disk, an
/// old QEMU) lasts, and each attempt costs a boot.
const RETRY: Duration = Duration::from_secs(600);
/// Blocks of `stat(2)`, whatever the file system's are.
const BLOCK: u64 = 512;
const MIB: u64 = 1 << 20;

/// The templates of this host.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    max_number: usize,
    max_mib: u32,
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// A template, open for reading.
    Usable(OwnedFd),
    /// Nothing.
    Absent,
}

/// A template that is being made. Dropped, it is removed.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    key: Key,
    /// Locked.
    file: File,
    published: bool,
}

/// A template in the directory.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// What it says of itself; `None` where it cannot be trusted.
    pub header: Option<Header>,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
    /// When a sandbox was last restored from it.
    pub used_at: SystemTime,
}

impl Store {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self {
            directory: config.template_dir.clone(),
            max_number: config.max_templates as usize,
            max_mib: config.max_templates_mib,
        }
    }

    /// The template of `key`, and notes that it is used.
    ///
    /// # Errors
    /// There is one, and it is torn, somebody else's, or cannot be read.
    pub fn find(&self, key: &Key) -> Result<Found, TemplateError> {
        let path = self.path(&key.name(), TEMPLATE);
        let Some(file) = absent(self.open_own(&path))? else {
            return Ok(Found::Absent);
        };
        let torn = |reason| TemplateError::Torn {
            path: path.clone(),
            reason,
        };
        let header = Header::read(&file)
            .map_err(at(&path))?
            .ok_or_else(|| torn("it has no header"))?;
        if header.key != *key {
            return Err(TemplateError::Stale(path));
        }
        let length = file.metadata().map_err(at(&path))?.len();
        if length != header.length {
            return Err(torn("it has another length than its header says"));
        }
        // The order of removal depends on it, and nothing else.
        file.set_modified(SystemTime::now()).ok();
        Ok(Found::Usable(file.into()))
    }

    /// Begins a template of `key`.
    ///
    /// # Errors
    /// `Busy` where another process is at it, and what is wrong with the directory.
    pub fn draft(&self, key: Key) -> Result<Draft, TemplateError> {
        let directory = &self.directory;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        builder.create(directory).map_err(at(directory))?;
        own::check_directory(directory)?;
        let path = self.path(&key.name(), DRAFT);
        let file = self.lock_draft(&path)?;
        // What another builder that was killed has left.
        file.set_len(0).map_err(at(&path))?;
        Ok(Draft {
            store: self.clone(),
            key,
            file,
            published: false,
        })
    }

    fn lock_draft(&self, path: &Path) -> Result<File, TemplateError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = options
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(at(path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(TemplateError::Busy),
            Err(errno) => return Err(at(path)(errno.into())),
        }
        own::check(path, &file.metadata().map_err(at(path))?)?;
        // It may have been published or removed between the two steps: then this is nobody's lock.
        let is_there = fs::symlink_metadata(path).is_ok_and(|there| {
            file.metadata()
                .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        });
        if is_there {
            Ok(file)
        } else {
            Err(TemplateError::Busy)
        }
    }

    /// What is there, the most lately used first.
    ///
    /// # Errors
    /// The directory cannot be read. If it is not there, nothing is.
    pub fn list(&self) -> Result<Vec<Saved>, TemplateError> {
        let mut saved: Vec<_> = self
            .names(TEMPLATE)?
            .into_iter()
            .filter_map(|name| {
                let path = self.path(&name, TEMPLATE);
                let meta = fs::symlink_metadata(&path).ok()?;
                let header = self
                    .open_own(&path)
                    .ok()
                    .and_then(|file| Header::read(&file).ok()?);
                Some(Saved {
                    name,
                    header: header.filter(|header| header.length == meta.len()),
                    bytes: meta.blocks() * BLOCK,
                    used_at: meta.modified().unwrap_or(UNIX_EPOCH),
                })
            })
            .collect();
        saved.sort_by_key(|one| std::cmp::Reverse(one.used_at));
        Ok(saved)
    }

    /// Removes a template, and what has been noted of it. Says whether there was one.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, name: &str) -> Result<bool, TemplateError> {
        self.remove_file(name, FAILED)?;
        self.remove_file(name, TEMPLATE)
    }

    /// Removes every template, note, and draft that nobody works on. Says how many templates there were.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn remove_all(&self) -> Result<usize, TemplateError> {
        let names = self.names(TEMPLATE)?;
        for name in &names {
            self.remove_file(name, TEMPLATE)?;
        }
        for name in self.names(FAILED)? {
            self.remove_file(&name, FAILED)?;
        }
        self.remove_dead_drafts()?;
        Ok(names.len())
    }

    /// Removes a template that could not be restored, and notes why.
    pub fn discard(&self, key: &Key, reason: &str) {
        if let Err(error) = self.remove_file(&key.name(), TEMPLATE) {
            tracing::warn!("{error}");
        }
        self.note_failure(key, reason);
    }

    /// Notes why there is no template.
    pub fn note_failure(&self, key: &Key, reason: &str) {
        let path = self.path(&key.name(), FAILED);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        let written = options
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, reason.as_bytes()));
        if let Err(error) = written {
            tracing::warn!("{}: {error}", path.display());
        }
    }

    /// Whether making a template of `key` has failed so lately that it is not worth trying again.
    pub fn has_failed_lately(&self, key: &Key) -> bool {
        let noted = fs::symlink_metadata(self.path(&key.name(), FAILED)).and_then(|meta| meta.modified());
        // A time that is to come is of another clock.
        noted.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < RETRY))
    }

    /// Removes templates of other boots, and the least lately used ones until the rest keep the limits.
    fn prune(&self, keep: &str) -> Result<(), TemplateError> {
        let boot = boot_id().unwrap_or_default();
        let (mut number, mut bytes) = (0, 0);
        let mut saved = self.list()?;
        saved.sort_by_key(|one| one.name != keep);
        for one in saved {
            let is_of_this_boot = one.header.is_some_and(|header| header.key.boot_id == boot);
            let fits = number < self.max_number && bytes + one.bytes <= u64::from(self.max_mib) * MIB;
            if is_of_this_boot && fits {
                number += 1;
                bytes += one.bytes;
            } else {
                self.remove_file(&one.name, TEMPLATE)?;
            }
        }
        for name in self.names(FAILED)? {
            let meta = fs::symlink_metadata(self.path(&name, FAILED)).and_then(|meta| meta.modified());
            if meta.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > RETRY)) {
                self.remove_file(&name, FAILED)?;
            }
        }
        self.remove_dead_drafts()
    }

    fn remove_dead_drafts(&self) -> Result<(), TemplateError> {
        for name in self.names(DRAFT)? {
            let path = self.path(&name, DRAFT);
            if let Ok(_locked) = self.lock_draft(&path) {
                self.remove_file(&name, DRAFT)?;
            }
        }
        Ok(())
    }

    fn names(&self, extension: &str) -> Result<Vec<String>, TemplateError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at(&self.directory))?,
        };
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(extension)?.strip_suffix('.')?.to_owned())
        });
        Ok(names.collect())
    }

    fn remove_file(&self, name: &str, extension: &str) -> Result<bool, TemplateError> {
        let path = self.path(name, extension);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Opens a file that nobody but us can have written or can write.
    fn open_own(&self, path: &Path) -> Result<File, TemplateError> {
        own::check_directory(&self.directory)?;
        own::open(path)
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }
}

impl Draft {
    /// Where the VM is to be saved: open for writing.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn file(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Makes it a template, in one step, in the place of any there is; then others go, as far as the limits say.
    ///
    /// # Errors
    /// It is too large, or cannot be written.
    pub fn publish(mut self) -> Result<(), TemplateError> {
        let (store, name) = (&self.store, self.key.name());
        let path = store.path(&name, DRAFT);
        let header = Header {
            key: self.key.clone(),
            length: self.file.metadata().map_err(at(&path))?.len(),
            created_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        };
        header.write(&self.file).map_err(at(&path))?;
        self.file.sync_all().map_err(at(&path))?;
        // Only now it has its blocks.
        let bytes = self.file.metadata().map_err(at(&path))?.blocks() * BLOCK;
        if bytes > u64::from(store.max_mib) * MIB {
            return Err(TemplateError::TooLarge {
                needs_mib: bytes.div_ceil(MIB),
                max_mib: store.max_mib,
            });
        }
        let place = store.path(&name, TEMPLATE);
        fs::rename(&path, &place).map_err(at(&place))?;
        self.published = true;
        store.remove_file(&name, FAILED)?;
        store.prune(&name)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = self.store.remove_file(&self.key.name(), DRAFT)
        {
            tracing::warn!("{error}");
        }
    }
}

/// `None` for a file that is not there.
fn absent<T>(result: Result<T, TemplateError>) -> Result<Option<T>, TemplateError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(TemplateError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
