//! The mounts of a root file system that containerd leaves to this shim. `mkfs/*` is not among them: containerd
//! makes the image of a writable layer, and we get it as a file.

/// Annotation of `-info` that containerd 2.2 and 2.3 read.
pub const ANNOTATION: &str = "containerd.io/runtime-allow-mounts";
/// Types that become disks of the VM. Others that do, such as ext4 images, containerd never mounts itself.
pub const TYPES: [&str; 1] = ["erofs"];
/// Transformations: places of earlier mounts filled in, directories made. A chain of them is ours only with its
/// tail, so both.
pub const TRANSFORMS: [&str; 2] = ["format", "mkdir"];

/// All of it, as the annotation has it.
pub fn annotation() -> String {
    let transforms = TRANSFORMS.map(|transform| format!("{transform}/*"));
    [TYPES.map(str::to_owned).as_slice(), &transforms]
        .concat()
        .join(",")
}
