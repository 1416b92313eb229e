//! `bpf(2)`, as far as device rules take it. No library that wraps it comes without an ELF loader and a C library.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::program::Instruction;

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH`, `BPF_PROG_QUERY`: commands of `bpf(2)`.
const LOAD: libc::c_int = 5;
const ATTACH: libc::c_int = 8;
const QUERY: libc::c_int = 16;
/// `BPF_PROG_TYPE_CGROUP_DEVICE` and where it is attached, `BPF_CGROUP_DEVICE`.
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_OVERRIDE` and `BPF_F_ALLOW_MULTI`.
const ALLOW_OVERRIDE: u32 = 1;
const ALLOW_MULTI: u32 = 2;
/// Asked for because some functions are for GPL programs alone; this calls none.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// How a program gets on with those of other cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// It takes the place of one attached above, and no cgroup below may have another.
    Final,
    /// It takes the place of one attached above, as another below may take its.
    Default,
    /// Beside those of the cgroups above, systemd's for example; each has to allow.
    Beside,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads; the kernel takes the rest as 0.
#[repr(C)]
#[derive(Default)]
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

/// The part that `BPF_PROG_QUERY` reads and writes.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
}

/// Asks `program` about every device that a process of the cgroup whose directory is `cgroup` opens or makes. The
/// kernel keeps it until the cgroup is removed.
///
/// # Errors
/// As `bpf(2)`; `EINVAL` for a program that the verifier refuses.
pub fn attach(cgroup: impl AsFd, program: &[Instruction], below: Below) -> io::Result<()> {
    let program = load(program)?;
    let mut attributes = Attach {
        target: unsigned(cgroup.as_fd().as_raw_fd())?,
        program: unsigned(program.as_raw_fd())?,
        attach_type: CGROUP_DEVICE,
        flags: match below {
            Below::Final => 0,
            Below::Default => ALLOW_OVERRIDE,
            Below::Beside => ALLOW_MULTI,
        },
    };
    // SAFETY: `Attach` is what the command reads, and has no pointers in it.
    unsafe { bpf(ATTACH, &mut attributes) }.map(drop)
}

/// Whether a program is attached to the cgroup whose directory is `cgroup` itself.
///
/// # Errors
/// As `bpf(2)`.
pub fn is_attached(cgroup: impl AsFd) -> io::Result<bool> {
    let mut query = Query {
        target: unsigned(cgroup.as_fd().as_raw_fd())?,
        attach_type: CGROUP_DEVICE,
        ..Query::default()
    };
    // SAFETY: `Query` is what the command reads and writes; it asks for no programs, so there is no pointer in it.
    unsafe { bpf(QUERY, &mut query) }?;
    Ok(query.program_count > 0)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = Load {
        program_type: CGROUP_DEVICE_PROGRAM,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `Load` is what the command reads; its pointers lead to as many instructions as it says and to a C
    // string, both of which outlive the call, and neither of which the kernel writes to.
    let descriptor = unsafe { bpf(LOAD, &mut attributes) }?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
/// `attributes` are what `command` reads and writes, and every pointer in it is valid through the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: as above; the size is that of what is passed.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

fn unsigned(descriptor: RawFd) -> io::Result<u32> {
    u32::try_from(descriptor).map_err(io::Error::other)
}
