//! What the host mounts into a share and takes away again.

use bulkhead_runtime::jail::landlock::{Support, support};

use super::*;

/// The guest has learnt of a file while its volume was there. Its container ends, the volume goes: and so does
/// the file, though the server still has a descriptor that leads to it.
#[tokio::test]
async fn what_was_unmounted_cannot_be_opened_by_who_remembers_it() {
    let Some(mut host) = Host::new().await else { return };
    if support() == Support::None {
        return skip("no Landlock in this kernel").unwrap_or(());
    }
    let directory = host.directory.path().to_owned();
    let volume = tempfile::tempdir().unwrap();
    fs::write(volume.path().join("secret"), "another's").unwrap();
    let place = directory.join("share/inside");
    let none = None::<&str>;
    mount(Some(volume.path()), &place, none, MsFlags::MS_BIND, none).unwrap();
    let mounted = Mounted(place);

    let inside = host.node("inside");
    let entry = host.say(opcode::LOOKUP, inside, &text(&["secret"])).unwrap();
    let secret = u64::from_le_bytes(entry[..8].try_into().unwrap());
    let opened = |host: &mut Host| host.say(opcode::OPEN, secret, &words(&[OPEN_READ_WRITE, 0]));
    opened(&mut host).unwrap();
    drop(mounted);
    assert_eq!(opened(&mut host), Err(libc::EACCES));
    let body = [words(&[0o777, 0]), text(&["planted"])].concat();
    assert_eq!(host.say(opcode::MKDIR, inside, &body), Err(libc::EACCES));
    host.assert_untouched();
}
