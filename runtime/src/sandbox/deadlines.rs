//! How long each thing may take. All are for a host or guest under load; what is usual is said beside.

use std::time::Duration;

/// From a restored VM's wake to HELLO: 20 ms. One that takes longer is better booted.
pub(super) const WAKE: Duration = Duration::from_secs(10);
/// From the order to sleep to the sleeper's first word. It first clears its free memory, and the host has to give the
/// guest each page of that: 0.1 s, but 10 s and more where a hypervisor below emulates the nested page tables.
pub(super) const FALL_ASLEEP: Duration = Duration::from_secs(60);
/// Writing a VM to a file: what its guest uses of its memory, some 10 MiB a second on a disk that is busy.
pub(super) const SAVE: Duration = Duration::from_secs(60);
/// Taking the sandbox's configuration: a few milliseconds.
pub(super) const CONFIGURE: Duration = Duration::from_secs(10);
/// Creating a container: some 10 ms, most of it looking through its root file system.
pub(super) const CREATE: Duration = Duration::from_secs(60);
/// Releasing an init and starting an exec: milliseconds. More than 30 s is a guest that hangs.
pub(super) const START: Duration = Duration::from_secs(30);
/// Everything else the guest does at once. Also how long SIGKILL may take before the VM is killed instead.
pub(super) const ORDER: Duration = Duration::from_secs(10);
/// Asking the monitor what a guest that is about to be killed was at: milliseconds, and nothing that may hold that up.
pub(super) const EXAMINE: Duration = Duration::from_secs(1);
/// Listing processes: containerd's own limit for a state call.
pub(super) const PIDS: Duration = Duration::from_secs(2);
/// Between SIGKILL and a VMM's end; longer is a process stuck in the kernel.
pub(super) const VMM_END: Duration = Duration::from_secs(5);
/// The file-sharing server ends by itself when its VMM hangs up: milliseconds.
pub(super) const FS_SERVER_END: Duration = Duration::from_secs(1);
/// A create whose VM has ended: undoing it takes milliseconds; more is a hook of the host that does not end.
pub(super) const CREATIONS_END: Duration = Duration::from_secs(3);
/// A guest that powers off closes the link before its VMM has ended.
pub(super) const AFTER_LINK: Duration = Duration::from_secs(2);
/// What the guest said last is still to be read when its VMM has ended.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// A sandbox of the same name that is being shut down: its guest's time to power off and its VMM's to end.
pub(super) const PREDECESSOR: Duration = Duration::from_secs(8);
