//! The two secrets of a process that the C library takes from the kernel when it starts.

use std::arch::asm;

use nix::errno::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Replaces the guard that functions of the C library put before their return addresses, and the one that hides
/// the addresses of code it keeps. To be called by Rust code that itself only Rust code called, and `main`: Rust puts
/// no guards on its stack. From then on the process ends by [`super::fork::end`] only, not by returning from `main`.
///
/// # Errors
/// As `getrandom(2)`.
pub fn renew() -> nix::Result<()> {
    let mut stack = [0; size_of::<u64>()];
    let mut pointers = [0; size_of::<u64>()];
    // So short a request is answered in full.
    for secret in [&mut stack, &mut pointers] {
        getrandom(secret, GetRandomFlags::empty()).map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
    }
    // Ends texts that overflow: a guard with a zero in it cannot be written by copying one.
    stack[0] = 0;
    // SAFETY: the x86-64 ABI has these two words at these places of each thread's control block, and nothing but
    // the functions named above reads them. Those have returned, but for the one that called `main`, which is
    // never returned to.
    unsafe {
        asm!(
            "mov fs:[0x28], {stack}",
            "mov fs:[0x30], {pointers}",
            stack = in(reg) u64::from_ne_bytes(stack),
            pointers = in(reg) u64::from_ne_bytes(pointers),
            options(nostack, preserves_flags),
        );
    }
    Ok(())
}
