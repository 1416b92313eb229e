//! A file-sharing server in a thread of the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// How long the guest may see a change of the host's late.
const FRESH: Duration = Duration::from_secs(1);

/// Serves `shared` on a socket below `directory`, to one VM and until it hangs up.
pub fn serve(directory: &Path, shared: &Path) -> PathBuf {
    let socket = directory.join("fs");
    let config = Config {
        root_dir: shared.to_str().unwrap().to_owned(),
        entry_timeout: FRESH,
        attr_timeout: FRESH,
        // Otherwise every open drops the file's pages, and with them QEMU's translations of them.
        cache_policy: CachePolicy::Always,
        ..Config::default()
    };
    let mut listener = Listener::new(&socket, true).unwrap();
    std::thread::spawn(move || {
        let files = PassthroughFs::new(config).unwrap();
        let backend = Arc::new(VhostUserFsBackendBuilder::default().build(files).unwrap());
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("share".to_owned(), backend, memory).unwrap();
        daemon.start(&mut listener).unwrap();
        // The VM's end is an error to it.
        daemon.wait().ok();
    });
    socket
}
