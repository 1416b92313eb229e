//! The device controls we use.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `RNDADDENTROPY`: `struct rand_pool_info` with our bytes after it.
const RND_ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG`.
const RND_RESEED_CRNG: libc::Ioctl = 0x5207;

/// `BLKPG`, and what it is asked for.
const BLOCK_PARTITION: libc::Ioctl = 0x1269;
const ADD_PARTITION: libc::c_int = 1;

/// Header of `struct rand_pool_info`.
const POOL_HEADER: usize = 8;

/// Mixes `entropy` into the kernel's pool, credited in full, and reseeds its generator from the pool.
///
/// # Errors
/// As `random(4)`.
pub fn add_entropy(device: impl AsFd, entropy: &[u8]) -> nix::Result<()> {
    let bits = i32::try_from(entropy.len() * 8).map_err(|_| Errno::EINVAL)?;
    let bytes = i32::try_from(entropy.len()).map_err(|_| Errno::EINVAL)?;
    let mut pool = Vec::with_capacity(POOL_HEADER + entropy.len());
    pool.extend_from_slice(&bits.to_ne_bytes());
    pool.extend_from_slice(&bytes.to_ne_bytes());
    pool.extend_from_slice(entropy);
    let device = device.as_fd().as_raw_fd();
    // SAFETY: `pool` is laid out as struct rand_pool_info (two ints, then the bytes it counts) and
    // outlives the call, which only reads it.
    Errno::result(unsafe { libc::ioctl(device, RND_ADD_ENTROPY, pool.as_ptr()) })?;
    // SAFETY: takes no argument.
    Errno::result(unsafe { libc::ioctl(device, RND_RESEED_CRNG) }).map(drop)
}

/// `struct blkpg_partition`.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    /// Of no meaning to the kernel.
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionRequest {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *const Partition,
}

/// Makes partition `number` of a disk, which has no table that says so. Its node is there on return.
///
/// # Errors
/// As `BLKPG_ADD_PARTITION`: it is not within the disk, or over another one.
pub fn add_partition(disk: impl AsFd, number: u8, bytes: &Range<u64>) -> nix::Result<()> {
    let number_of = |bytes: u64| i64::try_from(bytes).map_err(|_| Errno::EINVAL);
    let partition = Partition {
        start: number_of(bytes.start)?,
        length: number_of(bytes.end.saturating_sub(bytes.start))?,
        number: number.into(),
        names: [0; 128],
    };
    let request = PartitionRequest {
        operation: ADD_PARTITION,
        flags: 0,
        // A size of some 150 bytes.
        length: size_of::<Partition>() as libc::c_int,
        partition: &raw const partition,
    };
    let disk = disk.as_fd().as_raw_fd();
    // SAFETY: `request` and the `partition` it points to are laid out as the kernel's structures and outlive
    // the call, which only reads them.
    Errno::result(unsafe { libc::ioctl(disk, BLOCK_PARTITION, &raw const request) }).map(drop)
}

/// Sets the size of a pseudo terminal. Its foreground processes get SIGWINCH.
///
/// # Errors
/// As `TIOCSWINSZ`.
pub fn set_window_size(terminal: impl AsFd, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: `size` outlives the call, which only reads it.
    let outcome = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(outcome).map(drop)
}

/// Makes `terminal` the controlling terminal of this session's leader.
///
/// # Errors
/// As `TIOCSCTTY`.
pub fn set_controlling_terminal(terminal: impl AsFd) -> nix::Result<()> {
    // SAFETY: an integer argument.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Opens the other end of a pseudo terminal by its master, whatever is mounted at /dev/pts.
///
/// # Errors
/// As `TIOCSPTLCK` and `TIOCGPTPEER`.
pub fn open_terminal_peer(master: impl AsFd) -> nix::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    let master = master.as_fd().as_raw_fd();
    // SAFETY: `unlock` outlives the call, which only reads it.
    Errno::result(unsafe { libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: an integer argument, a descriptor out.
    let peer = Errno::result(unsafe { libc::ioctl(master, libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}

/// Sets a network interface up.
///
/// # Errors
/// As `SIOCSIFFLAGS`.
pub fn bring_up(interface: &str) -> nix::Result<()> {
    let mut request = interface_request(interface)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    change_interface(libc::SIOCSIFFLAGS, &request)
}

/// Gives a network interface that is down another hardware address.
///
/// # Errors
/// As `SIOCSIFHWADDR`.
pub fn set_hardware_address(interface: &str, address: [u8; 6]) -> nix::Result<()> {
    let mut request = interface_request(interface)?;
    let mut hardware = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: [0; 14],
    };
    for (to, from) in hardware.sa_data.iter_mut().zip(address) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = hardware;
    change_interface(libc::SIOCSIFHWADDR, &request)
}

fn interface_request(interface: &str) -> nix::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn change_interface(control: libc::Ioctl, request: &libc::ifreq) -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: `request` outlives the call; the two controls that are used only read it.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), control, request) }).map(drop)
}
