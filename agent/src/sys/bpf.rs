//! Loads a device filter and attaches it to a cgroup.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH`: commands of `bpf(2)`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE` and where it is attached, `BPF_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

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

/// Attaches `program` to the cgroup whose directory is `cgroup`, in place of one attached before.
/// The kernel keeps it until the cgroup is gone.
///
/// # Errors
/// As `bpf(2)`; `EINVAL` for a program that the verifier refuses.
pub fn attach_device_filter(cgroup: impl AsFd, program: &[u64]) -> nix::Result<()> {
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
        attach_flags: 0,
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
