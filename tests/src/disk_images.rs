//! Images and what containerd orders of them, for root file systems that a test or a benchmark makes itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use containerd_client::types::Mount;

use crate::{Container, Daemon, command, deadline};

/// Room in an image to write to.
const WRITABLE_BYTES: u64 = 32 << 20;

/// An order, as a snapshotter gives it.
pub fn order(fstype: &str, source: &Path, options: &[&str]) -> Mount {
    Mount {
        r#type: fstype.to_owned(),
        source: source.display().to_string(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

/// A copy of the test image's root file system.
#[track_caller]
pub fn tree(daemon: &Daemon, directory: &Path) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let root = format!("/proc/{}/root/.", task.pid());
    let mut copy = Command::new("cp");
    copy.args(["-a", "--one-file-system", &root]).arg(directory);
    fs::create_dir_all(directory).expect("a directory for the tree");
    command::succeed(&mut copy, deadline::LONG);
    task.kill(nix::libc::SIGKILL);
    task.wait();
    task.delete();
}

/// An erofs image of a directory.
#[track_caller]
pub fn erofs(image: &Path, tree: &Path) {
    let mut make = Command::new("mkfs.erofs");
    make.arg("--quiet").arg(image).arg(tree);
    command::succeed(&mut make, deadline::LONG);
}

/// An empty ext4 image.
#[track_caller]
pub fn ext4(image: &Path) {
    let file = File::create(image).expect("a file for the image");
    file.set_len(WRITABLE_BYTES).expect("room for the image");
    command::succeed(Command::new("mkfs.ext4").arg("-q").arg(image), deadline::ORDINARY);
}

/// An ext4 image of a directory.
#[track_caller]
pub fn ext4_of(image: &Path, tree: &Path) {
    let file = File::create(image).expect("a file for the image");
    file.set_len(WRITABLE_BYTES).expect("room for the image");
    let mut make = Command::new("mkfs.ext4");
    make.arg("-q").arg("-d").arg(tree).arg(image);
    command::succeed(&mut make, deadline::LONG);
}

/// Images of as many layers, the topmost first, and the tree at the bottom: each but that one holds one file.
#[track_caller]
pub fn layers(directory: &Path, tree: &Path, count: usize) -> Vec<PathBuf> {
    let bottom = directory.join("bottom.erofs");
    erofs(&bottom, tree);
    let layer = |number: usize| {
        let content = directory.join(format!("layer-{number}"));
        fs::create_dir_all(&content).expect("a directory for the layer");
        fs::write(content.join(format!("from-{number}")), "content").expect("a file in the layer");
        let image = directory.join(format!("layer-{number}.erofs"));
        erofs(&image, &content);
        image
    };
    let upper = (1..count).rev().map(layer);
    upper.chain([bottom.clone()]).collect()
}

/// Orders as containerd's erofs snapshotter gives them: layers, the topmost first, and an image to write to.
pub fn layered(writable: &Path, layers: &[PathBuf]) -> Vec<Mount> {
    let lower = format!("lowerdir={{{{ overlay 1 {} }}}}", layers.len());
    let overlay = [
        "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
        "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
        "workdir={{ mount 0 }}/work",
        "upperdir={{ mount 0 }}/upper",
        &lower,
    ];
    let mut orders = vec![order("ext4", writable, &["rw", "loop"])];
    orders.extend(layers.iter().map(|layer| order("erofs", layer, &["ro", "loop"])));
    orders.push(order("format/mkdir/overlay", Path::new("overlay"), &overlay));
    orders
}
