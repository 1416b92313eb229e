//! Several images as one disk of QEMU, one after another.
//!
//! Of all that QEMU knows, VMDK alone joins files: its descriptor is a text that lists extents. That text is ours and
//! sealed, and the extents are flat: what is in the images is not looked at.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::vmm::{FIRST_IMAGE, SECTOR};

/// As VMDK begins. The parent is none. No line is empty: QEMU takes the one after it twice.
const HEADER: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
    createType=\"twoGbMaxExtentFlat\"\n";

/// The descriptor of a disk of `images`, by name and size in bytes; itself is called `own_name`. What lies before
/// the first image is the zeros behind the text.
pub(super) fn descriptor<'a>(own_name: &str, images: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    // The text says where its own zeros begin. No number in it makes it longer than this room.
    let mut extents = String::new();
    for (name, bytes) in images {
        // Writing to a string does not fail.
        writeln!(extents, "RW {} FLAT \"{name}\" 0", bytes / SECTOR).ok();
    }
    let zeros = |sector: u64| format!("RW {} FLAT \"{own_name}\" {sector}\n", FIRST_IMAGE / SECTOR);
    let longest = HEADER.len() + zeros(u64::MAX).len() + extents.len();
    let sectors = (longest as u64).div_ceil(SECTOR);
    format!("{HEADER}{}{extents}", zeros(sectors))
}

/// A file with that text and the zeros behind it, which nobody can change, open for reading.
///
/// # Errors
/// There is no memory.
pub(super) fn file(descriptor: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("layers", flags)?);
    file.write_all(descriptor.as_bytes())?;
    // At most a sector longer than the text, and all of it zeros.
    file.set_len((descriptor.len() as u64).next_multiple_of(SECTOR) + SECTOR + FIRST_IMAGE)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    // QEMU takes a descriptor as it is meant to be used: for reading alone.
    let reading = OpenOptions::new()
        .read(true)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(reading.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn extents_are_listed_in_order() {
        let text = descriptor("/dev/fdset/0", [("/dev/fdset/1", 4096), ("/dev/fdset/2", 512)]);
        let extents: Vec<_> = text.lines().filter(|line| line.starts_with("RW ")).collect();
        assert_eq!(
            extents,
            [
                r#"RW 8 FLAT "/dev/fdset/0" 1"#,
                r#"RW 8 FLAT "/dev/fdset/1" 0"#,
                r#"RW 1 FLAT "/dev/fdset/2" 0"#,
            ]
        );
    }

    #[test]
    fn what_lies_before_the_first_image_is_zero() {
        for count in [2, 17, 255] {
            let images = vec![("/dev/fdset/4294967295", 1 << 40); count];
            let text = descriptor("/dev/fdset/4294967296", images);
            let file = File::from(file(&text).unwrap());
            let zeros = text.lines().find(|line| line.starts_with("RW ")).unwrap();
            let sector: u64 = zeros.rsplit(' ').next().unwrap().parse().unwrap();
            let mut read = vec![1; FIRST_IMAGE as usize];
            assert!(sector * SECTOR >= text.len() as u64);
            file.read_exact_at(&mut read, sector * SECTOR).unwrap();
            assert!(read.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn nobody_can_change_it() {
        let file = file(&descriptor("a", [("b", 512)])).unwrap();
        let again = OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert!(again.and_then(|mut file| file.write_all(b"x")).is_err());
    }
}
