//! A guest with nothing but a virtio-fs driver that says whatever it is told to: the file server's side of a
//! VM's border, without the VM.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Generous: only a server that has died reaches it.
const SOON: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};
/// `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;
/// Queue 0 is for FORGET and INTERRUPT.
const REQUESTS: usize = 1;
const QUEUE_SIZE: u16 = 16;

/// Where everything is in the guest's memory.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x20_0000;
const MEMORY: u64 = 0x40_0000;
/// The guest's memory begins here in the address space of a VMM that is not there.
const BASE: u64 = 0x7000_0000_0000;

const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;

/// The opcodes of linux/fuse.h that the tests say.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const WRITE: u32 = 16;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const CREATE: u32 = 35;
    pub const RENAME2: u32 = 45;
}

/// The directory that is shared.
pub const ROOT: u64 = 1;

/// The guest.
pub struct Guest {
    memory: File,
    kick: EventFd,
    call: EventFd,
    /// How many requests it has made.
    made: u16,
    /// Hangs up when both of these go.
    socket: UnixStream,
    _frontend: Frontend,
}

/// What the server answered: an error number, or the body.
pub type Reply = Result<Vec<u8>, i32>;

/// What became of a message.
#[derive(Debug)]
pub enum Outcome {
    Answered(Reply),
    /// Taken, and not answered.
    Taken,
    /// The server has hung up.
    Refused,
}

impl Guest {
    /// Connects, and says INIT.
    pub fn connect(socket: OwnedFd) -> Self {
        let memory = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap());
        memory.set_len(MEMORY).unwrap();
        let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
        let socket = UnixStream::from(socket);
        let mut frontend = Frontend::from_stream(socket.try_clone().unwrap(), 2);
        frontend.set_owner().unwrap();
        let features = VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        assert_eq!(frontend.get_features().unwrap() & features, features);
        frontend.set_features(features).unwrap();
        frontend.get_protocol_features().unwrap();
        frontend
            .set_protocol_features(VhostUserProtocolFeatures::MQ)
            .unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY,
            userspace_addr: BASE,
            mmap_offset: 0,
            mmap_handle: memory.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        let rings = VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: 0,
            desc_table_addr: BASE + DESCRIPTORS,
            used_ring_addr: BASE + USED,
            avail_ring_addr: BASE + AVAILABLE,
            log_addr: None,
        };
        frontend.set_vring_num(REQUESTS, QUEUE_SIZE).unwrap();
        frontend.set_vring_addr(REQUESTS, &rings).unwrap();
        frontend.set_vring_base(REQUESTS, 0).unwrap();
        frontend.set_vring_call(REQUESTS, &call).unwrap();
        frontend.set_vring_kick(REQUESTS, &kick).unwrap();
        frontend.set_vring_enable(REQUESTS, true).unwrap();
        let mut guest = Self {
            memory,
            kick,
            call,
            made: 0,
            socket,
            _frontend: frontend,
        };
        let init = words(&[7, 38, 1 << 20, 0]);
        guest.say(opcode::INIT, 0, &init).unwrap();
        guest
    }

    /// A request as the protocol wants it.
    pub fn say(&mut self, opcode: u32, node: u64, body: &[u8]) -> Reply {
        let length = u32::try_from(40 + body.len()).unwrap();
        match self.say_raw(&[header(length, opcode, node), body.to_vec()].concat()) {
            Outcome::Answered(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// Any bytes.
    pub fn say_raw(&mut self, request: &[u8]) -> Outcome {
        self.put(REQUEST, request);
        self.put(REPLY, &[0; 64]);
        let length = u32::try_from(request.len()).unwrap();
        let reply_length = u32::try_from(MEMORY - REPLY).unwrap();
        self.put(DESCRIPTORS, &descriptor(REQUEST, length, DESCRIPTOR_NEXT, 1));
        self.put(
            DESCRIPTORS + 16,
            &descriptor(REPLY, reply_length, DESCRIPTOR_WRITE, 0),
        );
        let slot = u64::from(self.made % QUEUE_SIZE);
        self.put(AVAILABLE + 4 + 2 * slot, &0_u16.to_le_bytes());
        self.made = self.made.wrapping_add(1);
        self.put(AVAILABLE + 2, &self.made.to_le_bytes());
        self.kick.write(1).unwrap();
        if !self.wait() {
            return Outcome::Refused;
        }
        let used = self.get(USED + 4 + 8 * slot, 8);
        let written = u32::from_le_bytes(used[4..8].try_into().unwrap());
        if written == 0 {
            return Outcome::Taken;
        }
        let reply = self.get(REPLY, written.try_into().unwrap());
        let error = i32::from_le_bytes(reply[4..8].try_into().unwrap());
        Outcome::Answered(if error == 0 {
            Ok(reply[16..].to_vec())
        } else {
            Err(-error)
        })
    }

    /// Until the server has used what was made available, or has hung up: false.
    fn wait(&self) -> bool {
        loop {
            let used = self.get(USED + 2, 2);
            if u16::from_le_bytes(used.try_into().unwrap()) == self.made {
                return true;
            }
            let mut polled = [
                PollFd::from_borrowed_fd(borrow(&self.call), PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::RDHUP),
            ];
            assert_ne!(poll(&mut polled, Some(&SOON)).unwrap(), 0, "the server is stuck");
            if !polled[1].revents().is_empty() {
                return false;
            }
            match self.call.read() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    fn get(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
}

#[allow(unsafe_code)]
fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: open for as long as the event is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// `struct fuse_in_header`, from root.
pub fn header(length: u32, opcode: u32, node: u64) -> Vec<u8> {
    let mut bytes = words(&[length, opcode]);
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend(words(&[0, 0, 1, 0]));
    bytes
}

pub fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}
