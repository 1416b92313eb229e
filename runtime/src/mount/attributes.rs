//! `mount_setattr(2)`, which no library wraps yet.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What to change about a mount; see `mount_setattr(2)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MS_PRIVATE`, `MS_SHARED`, `MS_SLAVE`, or 0 to leave propagation alone.
    pub propagation: u64,
}

/// Changes the mount `fd` refers to, with `recursive` also every mount below it.
pub(crate) fn change(fd: BorrowedFd<'_>, recursive: bool, attributes: Attributes) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: 0,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `fd` is open, the path is a C string, and `attr` lives through the call and has the size told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
