//! The least that can be PID 1 of a guest: says HELLO on the agent's port, and does what single bytes tell it.
//! For tests of the VMM alone. As a process of the host, under the fake VMM, it speaks over descriptor 6.
#![deny(unsafe_code)]
#![allow(
    clippy::expect_used,
    reason = "its panic ends the guest, and the test sees why"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::exit;

use bulkhead_runtime::process::inherited;
use bulkhead_runtime::vmm::{AGENT_PORT, SHARE_TAG, fake};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

fn main() {
    let in_guest = std::process::id() == 1;
    let mut port = if in_guest {
        boot();
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(find_port())
            .expect("the agent's port")
    } else {
        File::from(inherited::take(fake::AGENT_FD).expect("the agent's socket"))
    };
    port.write_all(b"HELLO\n").expect("a host that listens");
    let mut byte = [0];
    loop {
        // A host that has gone reads as the end of the file.
        if port.read(&mut byte).unwrap_or(0) == 0 {
            end(in_guest);
        }
        match byte[0] {
            b'l' => port.write_all(list().as_bytes()).expect("a host that listens"),
            b'w' => fs::write("/share/written", "by the guest").expect("a writable share"),
            b'c' => panic!("as told"),
            b'e' => end(in_guest),
            _ => port.write_all(b"?\n").expect("a host that listens"),
        }
    }
}

fn boot() {
    for (kind, target) in [("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        fs::create_dir_all(target).expect("a directory");
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>).expect("a file system");
    }
    // The kernel line says not to look for disks at boot; those that come later are to be seen.
    fs::write("/sys/module/scsi_mod/parameters/scan", "sync").expect("a SCSI layer");
    fs::create_dir_all("/share").expect("a directory");
    if let Err(error) = mount(
        Some(SHARE_TAG),
        "/share",
        Some("virtiofs"),
        MsFlags::empty(),
        None::<&str>,
    ) {
        eprintln!("no share: {error}");
    }
}

fn find_port() -> PathBuf {
    let ports = fs::read_dir("/sys/class/virtio-ports").expect("a virtio-serial device");
    let is_ours =
        |port: &PathBuf| fs::read_to_string(port.join("name")).is_ok_and(|name| name.trim() == AGENT_PORT);
    let port = ports
        .flatten()
        .map(|port| port.path())
        .find(is_ours)
        .expect("the agent's port");
    PathBuf::from("/dev").join(port.file_name().expect("a name"))
}

fn list() -> String {
    let mut names: Vec<_> = fs::read_dir("/share").expect("a share").flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = names
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.join(" ") + "\n"
}

fn end(in_guest: bool) -> ! {
    if in_guest {
        nix::unistd::sync();
        reboot(RebootMode::RB_AUTOBOOT).expect("a way out");
    }
    exit(0)
}
