use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::key::tests::key;
use super::*;
use crate::vmm::SAVED_OFFSET;

/// What a saved VM is in these tests.
const VM: &[u8] = &[7; 4096];

fn store(directory: &tempfile::TempDir) -> Store {
    Store::new(&Config {
        template_dir: directory.path().join("var/templates"),
        max_templates: 3,
        max_templates_mib: 1,
        ..Config::default()
    })
}

/// Publishes a template that takes `bytes` on disk.
fn publish(store: &Store, key: &Key, content: &[u8]) -> Result<(), TemplateError> {
    let draft = store.draft(key.clone())?;
    let file = File::from(draft.file().unwrap());
    std::os::unix::fs::FileExt::write_all_at(&file, content, SAVED_OFFSET).unwrap();
    draft.publish()
}

fn is_there(store: &Store, key: &Key) -> bool {
    matches!(store.find(key).unwrap(), Found::Usable(_))
}

fn names(store: &Store) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(&store.directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_template_is_there_once_it_is_published_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let (store, key) = (store(&directory), key(1));
    assert!(!is_there(&store, &key));
    let draft = store.draft(key.clone()).unwrap();
    assert!(!is_there(&store, &key));
    assert!(matches!(store.draft(key.clone()), Err(TemplateError::Busy)));
    drop(draft);
    assert_eq!(names(&store), Vec::<String>::new());
    publish(&store, &key, VM).unwrap();
    let Found::Usable(file) = store.find(&key).unwrap() else {
        panic!("no template")
    };
    assert_eq!(File::from(file).metadata().unwrap().mode() & 0o777, FILE_MODE);
    assert_eq!(
        fs::metadata(&store.directory).unwrap().mode() & 0o777,
        DIRECTORY_MODE
    );
    assert!(!is_there(&store, &super::super::key::tests::key(2)));
}

#[test]
fn one_that_is_replaced_or_removed_stays_for_those_who_have_it_open() {
    let directory = tempfile::tempdir().unwrap();
    let (store, key) = (store(&directory), key(1));
    publish(&store, &key, VM).unwrap();
    let Found::Usable(file) = store.find(&key).unwrap() else {
        panic!("no template")
    };
    publish(&store, &key, b"another").unwrap();
    assert!(store.remove(&key.name()).unwrap());
    assert!(!store.remove(&key.name()).unwrap());
    assert!(!is_there(&store, &key));
    let mut content = vec![0; VM.len()];
    std::os::unix::fs::FileExt::read_exact_at(&File::from(file), &mut content, SAVED_OFFSET).unwrap();
    assert_eq!(content, VM);
}

#[test]
fn what_a_killed_builder_left_is_used_up() {
    let directory = tempfile::tempdir().unwrap();
    let (store, key) = (store(&directory), key(1));
    publish(&store, &key, VM).unwrap();
    let draft = store.path(&key.name(), DRAFT);
    fs::write(&draft, [1; 1 << 17]).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(FILE_MODE)).unwrap();
    publish(&store, &key, VM).unwrap();
    assert!(is_there(&store, &key));
    // And of other classes too.
    fs::write(store.path("other", DRAFT), "").unwrap();
    fs::set_permissions(store.path("other", DRAFT), fs::Permissions::from_mode(FILE_MODE)).unwrap();
    publish(&store, &key, VM).unwrap();
    assert_eq!(names(&store), [format!("{}.vm", key.name())]);
}

#[test]
fn whatever_is_not_wholly_ours_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (store, key) = (store(&directory), key(1));
    publish(&store, &key, VM).unwrap();
    let path = store.path(&key.name(), TEMPLATE);
    let whole = fs::read(&path).unwrap();
    let refused = |reason: &str| {
        let error = store.find(&key).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        // A new one takes its place, whatever it is.
        fs::set_permissions(&store.directory, fs::Permissions::from_mode(DIRECTORY_MODE)).unwrap();
        publish(&store, &key, VM).unwrap();
        assert!(is_there(&store, &key));
    };
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    refused("is not whole: it has another length than its header says");
    fs::write(&path, &whole[..100]).unwrap();
    refused("is not whole: it has no header");
    fs::write(&path, b"").unwrap();
    refused("is not whole: it has no header");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    refused("others may use it");
    fs::set_permissions(&store.directory, fs::Permissions::from_mode(0o755)).unwrap();
    refused("others may use it");
    fs::hard_link(&path, directory.path().join("other-name")).unwrap();
    refused("it has other names");
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    refused("Too many levels of symbolic links");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(FILE_MODE)).unwrap();
    refused("it is not a plain file");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        refused("it belongs to somebody else");
    }
    // One of another VM under this name.
    publish(&store, &super::super::key::tests::key(2), VM).unwrap();
    fs::copy(
        store.path(&super::super::key::tests::key(2).name(), TEMPLATE),
        &path,
    )
    .unwrap();
    refused("is of another VM than its name says");
}

#[test]
fn the_least_lately_used_goes_first() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let keys = [1, 2, 3, 4].map(key);
    for key in &keys[..3] {
        publish(&store, key, VM).unwrap();
    }
    let age = |key: &Key, seconds| {
        let file = File::open(store.path(&key.name(), TEMPLATE)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds))
            .unwrap();
    };
    age(&keys[0], 30);
    age(&keys[1], 20);
    age(&keys[2], 10);
    assert!(is_there(&store, &keys[0]));
    publish(&store, &keys[3], VM).unwrap();
    let left: Vec<_> = keys.iter().map(|key| is_there(&store, key)).collect();
    assert_eq!(left, [true, false, true, true]);
}

#[test]
fn what_all_take_on_disk_is_limited() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let [one, two] = [1, 2].map(key);
    publish(&store, &one, &[7; 600 << 10]).unwrap();
    publish(&store, &two, &[7; 600 << 10]).unwrap();
    assert!(!is_there(&store, &one) && is_there(&store, &two));
    let error = publish(&store, &one, &[7; 1 << 20]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "it takes 2 MiB, and templates may take 1 MiB in all"
    );
    assert_eq!(names(&store), [format!("{}.vm", two.name())]);
}

#[test]
fn those_of_another_boot_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let old = Key {
        boot_id: "another".into(),
        ..key(1)
    };
    publish(&store, &key(2), VM).unwrap();
    // It is one of another boot itself, and so goes at once.
    publish(&store, &old, VM).unwrap();
    assert_eq!(names(&store), [format!("{}.vm", key(2).name())]);
}

#[test]
fn a_failure_is_remembered_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let (store, key) = (store(&directory), key(1));
    publish(&store, &key, VM).unwrap();
    assert!(!store.has_failed_lately(&key));
    store.discard(&key, "it did not wake");
    assert!(store.has_failed_lately(&key) && !is_there(&store, &key));
    let note = store.path(&key.name(), FAILED);
    assert_eq!(fs::read_to_string(&note).unwrap(), "it did not wake");
    File::options()
        .write(true)
        .open(&note)
        .unwrap()
        .set_modified(SystemTime::now() - RETRY)
        .unwrap();
    assert!(!store.has_failed_lately(&key));
    store.note_failure(&key, "again");
    publish(&store, &key, VM).unwrap();
    assert!(!store.has_failed_lately(&key));
    assert_eq!(store.remove_all().unwrap(), 1);
    assert_eq!(names(&store), Vec::<String>::new());
}

#[test]
fn the_list_tells_what_is_usable() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    assert!(store.list().unwrap().is_empty());
    publish(&store, &key(1), VM).unwrap();
    fs::write(store.path("foreign", TEMPLATE), "x").unwrap();
    let list = store.list().unwrap();
    let usable: Vec<_> = list
        .iter()
        .map(|one| (one.name.clone(), one.header.is_some()))
        .collect();
    assert!(usable.contains(&(key(1).name(), true)) && usable.contains(&("foreign".into(), false)));
    assert!(list.iter().any(|one| one.bytes >= SAVED_OFFSET));
}
