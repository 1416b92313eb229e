//! Loads a device filter and attaches it to a cgroup.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH`, `BPF_PROG_QUERY`: commands of `bpf(2)`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_QUERY: libc::c_int = 16;
/// `BPF_PROG_TYPE_CGROUP_DEVICE` and where it is attached, `BPF_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// `BPF_F_ALLOW_OVERRIDE`: a cgroup below may have a program instead of this one.
const ALLOW_OVERRIDE: u32 = 1;

/// Start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// Start of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target: u32,
    program: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Start of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
}

/// Whether a program is attached to the cgroup whose directory is `cgroup` itself.
///
/// # Errors
/// As `bpf(2)`.
pub fn has_device_filter(cgroup: impl AsFd) -> nix::Result<bool> {
    let mut query = QueryAttr {
        target: cgroup.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..QueryAttr::default()
    };
    // SAFETY: `query` outlives the call, which writes to it, and the size is its.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<QueryAttr>())
    })?;
    Ok(query.program_count > 0)
}

/// Attaches `program` to the cgroup whose directory is `cgroup`, in place of one attached
/// before or to a cgroup above.
/// The kernel keeps it until the cgroup is gone. `is_default`: cgroups below may have another one.
///
/// # Errors
/// As `bpf(2)`; `EINVAL` for a program that the verifier refuses.
pub fn attach_device_filter(cgroup: impl AsFd, program: &[u64], is_default: bool) -> nix::Result<()> {
    let load = LoadAttr {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: `load`, the program and the licence outlive the call, and the sizes are theirs.
    let fd = Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<LoadAttr>())
    })?;
    // SAFETY: the kernel has just made it for us; descriptors fit an int.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = AttachAttr {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: if is_default { ALLOW_OVERRIDE } else { 0 },
    };
    // SAFETY: `attach` outlives the call, and the size is its.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<AttachAttr>(),
        )
    })
    .map(drop)
}
