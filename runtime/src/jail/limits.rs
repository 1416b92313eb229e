//! How much a jailed process may use, beyond what its cgroups say.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The largest guest's memory is one file of 1 TiB, and no disk image is expected to be larger.
const LARGEST_FILE: u64 = 1 << 40;
/// Descriptors of a monitor: eventfds of a handful of virtqueues, and one or two per disk.
const MONITOR_DESCRIPTORS: u64 = 2048;
/// Threads of a monitor: one for each of 64 virtual CPUs, 64 for I/O, and a few.
const MONITOR_THREADS: u64 = 192;
/// One descriptor per inode the guest knows; the host's own default ceiling.
const SERVER_DESCRIPTORS: u64 = 1_000_000;

/// Sets the limits of QEMU and its parent.
pub fn of_a_monitor() -> io::Result<()> {
    limit(Resource::Core, 0)?;
    limit(Resource::Memlock, 0)?;
    limit(Resource::Fsize, LARGEST_FILE)?;
    limit(Resource::Nofile, MONITOR_DESCRIPTORS)?;
    limit(Resource::Nproc, MONITOR_THREADS)
}

/// Sets the limits of the file-sharing server, and returns how many descriptors it may have.
///
/// There is none on the size of files: they are the guest's, and the file system's own bounds hold. And none on
/// processes, which would not bind root: the server's filter lets it start threads only.
pub fn of_a_file_server() -> io::Result<u64> {
    limit(Resource::Core, 0)?;
    limit(Resource::Memlock, 0)?;
    if limit(Resource::Nofile, SERVER_DESCRIPTORS).is_ok() {
        return Ok(SERVER_DESCRIPTORS);
    }
    // A host that allows fewer to anyone.
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(SERVER_DESCRIPTORS);
    limit(Resource::Nofile, most)?;
    Ok(most)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, limit)?)
}
