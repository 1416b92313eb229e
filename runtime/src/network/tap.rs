//! Tap devices, and setting an interface up: two ioctls that no library of ours wraps.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The same in every namespace, so that the kernel lets no two VMs into one: each would take the other's packets.
const NAME: &[u8] = b"bulkhead0";

mod request {
    nix::ioctl_write_int!(set_interface, b'T', 202);
    nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// A tap device. It exists as long as this descriptor or a copy of it is open.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Makes a device in the calling thread's network namespace, as QEMU wants it: without packet
    /// information, with headers for virtio.
    pub(super) fn create() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let mut interface = named(NAME);
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        interface.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF takes an ifreq, which lives through the call and into which it writes the name.
        unsafe { request::set_interface(file.as_raw_fd(), &raw mut interface as libc::c_ulong) }?;
        let name = interface.ifr_name.iter().take_while(|byte| **byte != 0);
        let name: String = name.map(|byte| char::from(*byte as u8)).collect();
        set_up(&name)?;
        Ok(Self { file, name })
    }

    /// Its name in its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor, for the VMM.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Sets an interface of the calling thread's namespace up.
pub(super) fn set_up(name: &str) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let control = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    let mut interface = named(name.as_bytes());
    // SAFETY: SIOCGIFFLAGS reads the name of an ifreq and writes its flags.
    unsafe { request::get_flags(control.as_raw_fd(), &raw mut interface) }?;
    // SAFETY: the kernel has just written this member.
    unsafe { interface.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads name and flags of an ifreq.
    unsafe { request::set_flags(control.as_raw_fd(), &raw const interface) }?;
    Ok(())
}

/// An ifreq with a name, which is cut to what fits.
fn named(name: &[u8]) -> libc::ifreq {
    // SAFETY: all zeros are a valid ifreq.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = interface.ifr_name.len() - 1;
    for (to, from) in interface.ifr_name.iter_mut().zip(name).take(room) {
        *to = *from as libc::c_char;
    }
    interface
}

/// A packet socket on an interface of the calling thread's namespace.
#[cfg(test)]
pub(super) fn tests_socket(name: &str) -> io::Result<OwnedFd> {
    use nix::sys::socket::{LinkAddr, SockProtocol, SockaddrLike, bind};
    let kind = SockFlag::SOCK_CLOEXEC;
    let packet = socket(AddressFamily::Packet, SockType::Raw, kind, SockProtocol::EthAll)?;
    // SAFETY: all zeros are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(name)? as i32;
    let size = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is a sockaddr_ll of that size.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(size)) };
    bind(packet.as_raw_fd(), &address.ok_or(io::ErrorKind::InvalidInput)?)?;
    Ok(packet)
}
