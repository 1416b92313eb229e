//! `bpf(2)`, as far as device rules take it. No library that wraps it comes without an ELF loader and a C library.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::program::Instruction;

/// `BPF_PROG_LOAD`
const LOAD: libc::c_int = 5;
/// `BPF_PROG_ATTACH`
const ATTACH: libc::c_int = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`
const CGROUP_DEVICE_PROGRAM: u32 = 15;
/// `BPF_CGROUP_DEVICE`
const CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: beside those of the cgroups above, systemd's for example; each has to allow.
const ALLOW_MULTI: u32 = 2;
/// Asked for because some functions are for GPL programs alone; this calls none.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads; the kernel takes the rest as 0.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part that `BPF_PROG_ATTACH` reads.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Asks `program` about every device that a process of the cgroup, of version 2, opens or makes. The kernel keeps
/// it until the cgroup is removed.
pub(super) fn attach(cgroup: &Path, program: &[Instruction]) -> io::Result<()> {
    let cgroup = File::open(cgroup)?;
    let program = load(program)?;
    let attributes = Attach {
        target: unsigned(cgroup.as_raw_fd())?,
        program: unsigned(program.as_raw_fd())?,
        attach_type: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: `Attach` is what the command reads, and has no pointers in it.
    unsafe { bpf(ATTACH, &attributes) }.map(drop)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = Load {
        program_type: CGROUP_DEVICE_PROGRAM,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `Load` is what the command reads; its pointers lead to as many instructions as it says and to a C
    // string, both of which outlive the call, and neither of which the kernel writes to.
    let descriptor = unsafe { bpf(LOAD, &attributes) }?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
/// `attributes` are what `command` reads, and every pointer in it is valid through the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: as above; the size is that of what is passed.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

fn unsigned(descriptor: RawFd) -> io::Result<u32> {
    u32::try_from(descriptor).map_err(io::Error::other)
}
