//! Capability sets of this process, as bit masks: bit n is capability number n.

use nix::errno::Errno;

/// `_LINUX_CAPABILITY_VERSION_3`: two words per set.
const VERSION: u32 = 0x2008_0522;

/// Numbers tried until the kernel says that there are no more; masks have no more bits.
const MOST: u32 = 64;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One word of each of the three sets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes from the bounding set what is not in `kept`, for good.
///
/// # Errors
/// As `PR_CAPBSET_DROP`.
pub fn bound(kept: u64) -> nix::Result<()> {
    for number in (0..MOST).filter(|number| kept & 1 << number == 0) {
        // SAFETY: integers only.
        match Errno::result(unsafe {
            libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0)
        }) {
            Ok(_) => {}
            // Past the last that this kernel knows.
            Err(Errno::EINVAL) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sets the three sets of this single-threaded process.
///
/// # Errors
/// As `capset(2)`.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> nix::Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let words = |shift: u32| Words {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [words(0), words(32)];
    // SAFETY: `header` and the two words of `data` outlive the call, which only reads them.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Makes the ambient set as much of `wanted` as is permitted and inheritable; the kernel refuses the rest.
///
/// # Errors
/// As `PR_CAP_AMBIENT_CLEAR_ALL`.
pub fn set_ambient(wanted: u64) -> nix::Result<()> {
    let change = |what: libc::c_int, number: u32| {
        let (what, number) = (what as libc::c_ulong, libc::c_ulong::from(number));
        // SAFETY: integers only.
        Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, what, number, 0, 0) })
    };
    change(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    for number in (0..MOST).filter(|number| wanted & 1 << number != 0) {
        match change(libc::PR_CAP_AMBIENT_RAISE, number) {
            // Not permitted or not inheritable: runc leaves it out as well.
            Ok(_) | Err(Errno::EPERM | Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
