//! Loop devices for file systems that live in a file.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use super::MountError;

/// A loop device with a file attached. The kernel detaches the file once this is dropped and nothing has the
/// device mounted any more.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _device: File,
}

/// Another process may take the free device we were told of; asking again is enough.
const ATTEMPTS: u32 = 32;

mod request {
    nix::ioctl_none_bad!(get_free, 0x4c82);
    nix::ioctl_write_ptr_bad!(configure, 0x4c0a, super::Config);
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
pub(super) struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
pub(super) struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `LO_FLAGS_READ_ONLY` of linux/loop.h.
const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR` of linux/loop.h: detach with the last user.
const AUTOCLEAR: u32 = 4;

impl LoopDevice {
    /// Attaches `image` to a free loop device.
    ///
    /// # Errors
    /// The image cannot be opened, or no device is to be had.
    pub fn attach(image: &Path, read_only: bool) -> Result<Self, MountError> {
        attach(image, read_only).map_err(|source| MountError::Loop {
            path: image.into(),
            source,
        })
    }

    /// The device's node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn attach(image: &Path, read_only: bool) -> io::Result<LoopDevice> {
    let image = OpenOptions::new().read(true).write(!read_only).open(image)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument.
        let number = unsafe { request::get_free(control.as_raw_fd()) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(!read_only).open(&path)?;
        match configure(device.as_raw_fd(), image.as_raw_fd(), read_only) {
            Ok(()) => {
                return Ok(LoopDevice {
                    path,
                    _device: device,
                });
            }
            Err(nix::Error::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(nix::Error::EBUSY.into())
}

fn configure(device: RawFd, image: RawFd, read_only: bool) -> nix::Result<()> {
    // SAFETY: all zeros are a valid loop_config.
    let mut config: Config = unsafe { std::mem::zeroed() };
    config.fd = image as u32;
    config.info.flags = AUTOCLEAR | if read_only { READ_ONLY } else { 0 };
    // SAFETY: both descriptors are open and `config` is a loop_config that lives through the call.
    unsafe { request::configure(device, &config) }.map(drop)
}
