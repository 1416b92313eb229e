//! A restored VM without a sandbox around it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_agent_protocol::wake::{ENTROPY, Wake};
use bulkhead_runtime::fs_server::{self, FsServerSpec};
use bulkhead_runtime::network::Netns;
use bulkhead_runtime::process::{Placement, ProcessHandle};
use bulkhead_runtime::template::{Found, Store};
use bulkhead_runtime::vmm::qemu::Qemu;
use bulkhead_runtime::vmm::{Start, VmInstance, VmSpec, Vmm};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::rig::{Rig, within};
use crate::{key, shape};

pub struct Bare {
    pub instance: VmInstance,
    _server: ProcessHandle,
}

impl Bare {
    /// Restores a VM of the rig's template. Its agent still sleeps.
    pub async fn restore(rig: &Rig) -> Self {
        let store = Store::new(&rig.config);
        let Found::Usable(template) = store.find(&key(rig).await).unwrap() else {
            panic!("no template")
        };
        let share = rig.base.path().join("share");
        fs::create_dir_all(&share).unwrap();
        let lock = || OwnedFd::from(File::create(rig.base.path().join("lock")).unwrap());
        let server = FsServerSpec {
            program: rig.config.helper(fs_server::PROGRAM),
            directory: share,
            socket_directory: rig.base.path().to_owned(),
            placement: Placement::default(),
            lock: lock(),
            stderr: None,
        };
        let server = fs_server::start(server).await.unwrap();
        let tap = tokio::task::spawn_blocking(|| Netns::create().unwrap().make_tap().unwrap().into_fd());
        let spec = VmSpec {
            shape: shape(rig).await,
            start: Start::Restore(template),
            tap: Some(tap.await.unwrap()),
            share: Some(server.socket),
            placement: Placement::default(),
            console_log: rig.base.path().join("console.log"),
            lock: lock(),
        };
        let instance = within(Qemu::new(&rig.config).launch(spec)).await.unwrap();
        Self {
            instance,
            _server: server.process,
        }
    }

    /// Wakes the agent, and returns the stream to it.
    pub async fn wake(&self) -> UnixStream {
        let mut port = self.instance.take_agent().unwrap();
        let mut entropy = [0; ENTROPY];
        File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut entropy)
            .unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let wake = Wake {
            unix_time_ns: now.as_nanos() as u64,
            entropy,
        };
        port.write_all(&wake.encode()).await.unwrap();
        port
    }

    pub async fn end(self) {
        self.instance.kill().unwrap();
        within(self.instance.died()).await;
    }
}
