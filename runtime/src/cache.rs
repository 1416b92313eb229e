//! What was found out about the host and holds until it boots again.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::boot_id;

/// Others hold the directory's lock for as long as it takes to read and write a few bytes. Who cannot get it goes on
/// with a value of its own.
const LOCK_DEADLINE: Duration = Duration::from_secs(1);
/// Between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// One remembered value in one file. It can always be found out anew: no failure here is an error.
#[derive(Debug)]
pub(crate) struct BootCache {
    path: PathBuf,
    /// What the value was found out about, besides the host as it booted.
    subject: String,
}

#[derive(Serialize, Deserialize)]
struct Entry<T> {
    boot_id: String,
    /// Which program found it out: another version may look at other things.
    version: String,
    subject: String,
    value: T,
}

impl BootCache {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self::about(String::new(), path)
    }

    /// A value that holds as long as `subject` is the same.
    pub(crate) fn about(subject: String, path: PathBuf) -> Self {
        Self { path, subject }
    }

    /// The value, if it was written during this boot, by this version, about the same subject.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let text = fs::read(&self.path).ok()?;
        let entry: Entry<T> = serde_json::from_slice(&text).ok()?;
        let holds = entry.boot_id == boot_id().ok()?
            && entry.version == env!("CARGO_PKG_VERSION")
            && entry.subject == self.subject;
        holds.then_some(entry.value)
    }

    /// Remembers the value, unless another process was first: the answer is the one that is remembered, so that
    /// all who find out the same at once go on with the same. Where nothing can be remembered, it is `value`.
    pub(crate) fn settle<T: Serialize + DeserializeOwned>(&self, value: T) -> T {
        match self.try_settle(&value) {
            Ok(None) => value,
            Ok(Some(first)) => first,
            Err(error) => {
                self.not_remembered(&error);
                value
            }
        }
    }

    fn try_settle<T: Serialize + DeserializeOwned>(&self, value: &T) -> io::Result<Option<T>> {
        let directory = self.make_directory()?;
        let lock = fs::File::open(directory)?;
        let begin = Instant::now();
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if begin.elapsed() > LOCK_DEADLINE {
                return Err(error.into());
            }
            thread::sleep(LOCK_PAUSE);
        }
        let first = self.read();
        if first.is_none() {
            self.try_write(value)?;
        }
        Ok(first)
    }

    /// Remembers the value, if it can be.
    pub(crate) fn write<T: Serialize>(&self, value: &T) {
        if let Err(error) = self.try_write(value) {
            self.not_remembered(&error);
        }
    }

    fn not_remembered(&self, error: &io::Error) {
        tracing::debug!(path = %self.path.display(), %error, "not remembered");
    }

    /// The state directory, if it is this that makes it, is root's alone.
    fn make_directory(&self) -> io::Result<&Path> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        Ok(directory)
    }

    fn try_write<T: Serialize>(&self, value: &T) -> io::Result<()> {
        self.make_directory()?;
        let entry = Entry {
            boot_id: boot_id()?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            subject: self.subject.clone(),
            value,
        };
        // Several sandboxes may find out the same at the same time: each writes its own file, one stays.
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        fs::write(&name, serde_json::to_vec(&entry)?)?;
        fs::rename(&name, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_this_boot_is_remembered_and_another_boots_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let cache = BootCache::new(directory.path().join("made/for/it.json"));
        assert_eq!(cache.read::<u32>(), None);
        cache.write(&7);
        assert_eq!(cache.read(), Some(7));
        let other = BootCache::about("another".to_owned(), cache.path.clone());
        assert_eq!(other.read::<u32>(), None);
        let text = fs::read_to_string(&cache.path)
            .unwrap()
            .replace(&boot_id().unwrap(), "another");
        fs::write(&cache.path, text).unwrap();
        assert_eq!(cache.read::<u32>(), None);
        fs::write(&cache.path, "half a val").unwrap();
        assert_eq!(cache.read::<u32>(), None);
    }

    #[test]
    fn all_who_find_something_out_at_once_go_on_with_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it.json");
        // What an earlier version left is nobody's answer.
        fs::write(&path, "{}").unwrap();
        let answers: Vec<u32> = std::thread::scope(|scope| {
            let finders: Vec<_> = (0..16)
                .map(|own| {
                    let cache = BootCache::new(path.clone());
                    scope.spawn(move || cache.settle(own))
                })
                .collect();
            finders.into_iter().map(|finder| finder.join().unwrap()).collect()
        });
        let remembered = BootCache::new(path).read::<u32>().unwrap();
        assert_eq!(answers, [remembered; 16]);
    }

    #[test]
    fn a_value_that_cannot_be_remembered_is_still_an_answer() {
        let cache = BootCache::new(PathBuf::from("/proc/no/such/it.json"));
        assert_eq!(cache.settle(7), 7);
    }
}
