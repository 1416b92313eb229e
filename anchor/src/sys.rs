//! The system calls of the anchor and its entry point; everything unsafe is here.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::mem::size_of;

/// An error number of the kernel; all that can occur here fit.
pub type Errno = u8;

/// A file descriptor of this process. Never closed one by one.
#[derive(Clone, Copy)]
pub struct Fd(i32);

impl Fd {
    /// The socket to the owner: the first number that `bulkhead_runtime::process` leaves free.
    pub const SOCKET: Self = Self(6);
}

// The kernel starts a process with rsp 16-byte aligned; `call` makes it what a function expects.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "call {entry}",
    "ud2",
    entry = sym entry,
);

extern "C" fn entry() -> ! {
    let status = crate::anchor();
    loop {
        syscall(libc::SYS_exit_group, [usize::from(status), 0, 0, 0, 0]);
    }
}

/// `call` with up to five arguments; negative is minus an errno.
fn syscall(call: libc::c_long, args: [usize; 5]) -> isize {
    let result: isize;
    let [a, b, c, d, e] = args;
    // SAFETY: the calls in this file are given pointers to live memory of the size they expect, or none,
    // and none of them changes memory that Rust relies on. rcx and r11 are what `syscall` clobbers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") call as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

fn check(result: isize) -> Result<usize, Errno> {
    if result < 0 {
        Err(result.unsigned_abs() as Errno)
    } else {
        Ok(result as usize)
    }
}

/// Sets the name that `ps` shows.
pub fn set_name(name: &'static CStr) {
    syscall(
        libc::SYS_prctl,
        [libc::PR_SET_NAME as usize, name.as_ptr() as usize, 0, 0, 0],
    );
}

/// Writes all of a message this small, or nothing.
pub fn write(fd: Fd, bytes: &[u8]) {
    syscall(
        libc::SYS_write,
        [fd.0 as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0],
    );
}

/// Number of bytes read; 0 at the end, and at any error but an interruption.
pub fn read(fd: Fd, buffer: &mut [u8]) -> usize {
    loop {
        let result = syscall(
            libc::SYS_read,
            [fd.0 as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0],
        );
        match check(result) {
            Ok(count) => return count,
            Err(errno) if i32::from(errno) == libc::EINTR => {}
            Err(_) => return 0,
        }
    }
}

/// A control message that carries two descriptors, as the kernel lays it out.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fds: [i32; 2],
}

/// Receives the one message with two descriptors.
pub fn receive_fds(socket: Fd) -> Result<[Fd; 2], Errno> {
    let mut byte = 0u8;
    let mut data = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: 0,
            cmsg_level: 0,
            cmsg_type: 0,
        },
        fds: [-1; 2],
    };
    // SAFETY: all zeros are a valid msghdr.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    check(syscall(
        libc::SYS_recvmsg,
        [
            socket.0 as usize,
            &raw mut message as usize,
            libc::MSG_CMSG_CLOEXEC as usize,
            0,
            0,
        ],
    ))?;
    if control.header.cmsg_type != libc::SCM_RIGHTS || control.header.cmsg_len != size_of::<Control>() {
        return Err(libc::EPROTO as Errno);
    }
    Ok(control.fds.map(Fd))
}

/// Joins a network namespace.
pub fn join_network_namespace(netns: Fd) -> Result<(), Errno> {
    check(syscall(
        libc::SYS_setns,
        [netns.0 as usize, libc::CLONE_NEWNET as usize, 0, 0, 0],
    ))?;
    Ok(())
}

/// Leaves the host's mount namespace for a private copy.
pub fn new_mount_namespace() -> Result<(), Errno> {
    check(syscall(
        libc::SYS_unshare,
        [libc::CLONE_NEWNS as usize, 0, 0, 0, 0],
    ))?;
    let private = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    check(syscall(
        libc::SYS_mount,
        [0, c"/".as_ptr() as usize, 0, private, 0],
    ))?;
    Ok(())
}

/// Makes a detached mount tree the root, and lets go of every mount of the host.
pub fn make_root(tree: Fd) -> Result<(), Errno> {
    let here = c".".as_ptr() as usize;
    let root = c"/".as_ptr() as usize;
    let empty = c"".as_ptr() as usize;
    check(syscall(
        libc::SYS_move_mount,
        [
            tree.0 as usize,
            empty,
            libc::AT_FDCWD as usize,
            root,
            libc::MOVE_MOUNT_F_EMPTY_PATH as usize,
        ],
    ))?;
    check(syscall(libc::SYS_fchdir, [tree.0 as usize, 0, 0, 0, 0]))?;
    check(syscall(libc::SYS_pivot_root, [here, here, 0, 0, 0]))?;
    // The old root now lies on top of the new one.
    check(syscall(
        libc::SYS_umount2,
        [here, libc::MNT_DETACH as usize, 0, 0, 0],
    ))?;
    check(syscall(libc::SYS_chdir, [root, 0, 0, 0, 0]))?;
    Ok(())
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Gives up every capability, for good.
pub fn drop_privileges() -> Result<(), Errno> {
    check(syscall(
        libc::SYS_prctl,
        [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0],
    ))?;
    let header: [u32; 2] = [CAPABILITY_VERSION, 0];
    let none: [u32; 6] = [0; 6];
    check(syscall(
        libc::SYS_capset,
        [header.as_ptr() as usize, none.as_ptr() as usize, 0, 0, 0],
    ))?;
    Ok(())
}

/// Closes whatever else was inherited or received.
pub fn close_all_but_socket() {
    let socket = Fd::SOCKET.0 as usize;
    syscall(libc::SYS_close_range, [0, socket - 1, 0, 0, 0]);
    syscall(libc::SYS_close_range, [socket + 1, u32::MAX as usize, 0, 0, 0]);
}
