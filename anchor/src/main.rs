//! The host-visible process that stands for one container, or one exec, of a microVM.
//!
//! containerd, CNI plugins, hooks and `nerdctl cp` look at `/proc/<pid>` of what they were told is the
//! container's init. That is this process: it is in the sandbox's network namespace, its root is the
//! container's root file system and never the host's, and it has no privilege left. It does nothing but
//! wait for its end.
//!
//! It owns a socket, descriptor 6, and is sent one byte with two descriptors: a detached mount tree
//! to make its root, and the network namespace to join. It answers with [`Report`], and ends when the
//! socket does: when its owner, the shim, is gone.
//!
//! No C runtime and no allocation: a shim has one of these per process of its containers.
#![no_main]
#![deny(unsafe_code)]

mod sys;

use sys::{Errno, Fd};

/// Which step of the set-up was last tried; the runtime has the words for each.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    Receive = 1,
    Network = 2,
    MountNamespace = 3,
    Root = 4,
    Privileges = 5,
}

/// What the runtime is told: the failed stage and its errno, or two zeros.
type Report = [u8; 2];

const READY: Report = [0, 0];

/// Runs as the process's whole life; what it returns is the exit status.
fn anchor() -> u8 {
    sys::set_name(c"bulkhead-anchor");
    if let Err((stage, errno)) = set_up() {
        sys::write(Fd::SOCKET, &[stage as u8, errno]);
        return 1;
    }
    sys::write(Fd::SOCKET, &READY);
    // Nothing more is ever sent: this returns at the end of the owner.
    while sys::read(Fd::SOCKET, &mut [0]) != 0 {}
    0
}

fn set_up() -> Result<(), (Stage, Errno)> {
    let [root, netns] = sys::receive_fds(Fd::SOCKET).map_err(at(Stage::Receive))?;
    sys::join_network_namespace(netns).map_err(at(Stage::Network))?;
    sys::new_mount_namespace().map_err(at(Stage::MountNamespace))?;
    sys::make_root(root).map_err(at(Stage::Root))?;
    sys::drop_privileges().map_err(at(Stage::Privileges))?;
    sys::close_all_but_socket();
    Ok(())
}

fn at(stage: Stage) -> impl Fn(Errno) -> (Stage, Errno) {
    move |errno| (stage, errno)
}
