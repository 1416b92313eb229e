//! Root file systems on disks of the VM.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bulkhead_tests::deadline::LONG;
use bulkhead_tests::disk_images::{self, layered, order};

use crate::report::Measurement;
use crate::start::end;
use crate::{BULKHEAD, Rig};

/// Numbers of layers to compare.
const LAYERS: [usize; 2] = [10, 100];
/// Files of the walk, and how many are in a directory.
const FILES: usize = 2000;
const PER_DIRECTORY: usize = 100;

/// `layers`: from the Create call to the first byte on stdout, of containers of ten and of a hundred erofs layers.
/// runc has no such root.
pub fn layers(rig: &Rig<'_>) -> Vec<Measurement> {
    if !rig.runtimes.contains(&BULKHEAD) {
        return Vec::new();
    }
    let rig = Rig {
        runtimes: vec![BULKHEAD],
        ..*rig
    };
    let directory = Scratch::make(&rig, "layers");
    let [_, most] = LAYERS;
    let images = disk_images::layers(&directory.0, &directory.tree(&rig), most);
    let writable = directory.0.join("writable.ext4");
    disk_images::ext4(&writable);
    let samples = rig.interleave(|runtime| {
        LAYERS
            .map(|count| {
                let orders = layered(&writable, &images[most - count..]);
                let mut container = rig
                    .container(runtime)
                    .mounts(orders)
                    .sh("echo up; exec sleep 1000");
                container.record();
                let begin = Instant::now();
                let task = container.task();
                task.start();
                task.stdio.stdout().wait_for("up\n");
                let time = begin.elapsed();
                end(&task);
                (format!("layers.{count}"), time.as_secs_f64() * 1e3)
            })
            .into()
    });
    samples.measured_in("ms")
}

/// `metadata`: a walk through 2000 files of the root that reads each, first and once more, by the container's own
/// clock. The root is a directory of the host, which a VM has from the share, and an erofs image.
pub fn metadata(rig: &Rig<'_>) -> Vec<Measurement> {
    let directory = Scratch::make(rig, "metadata");
    let tree = directory.tree(rig);
    for number in 0..FILES {
        let directory = tree.join(format!("walk/{}", number / PER_DIRECTORY));
        fs::create_dir_all(&directory).expect("a directory of the walk");
        fs::write(directory.join(number.to_string()), "content").expect("a file of the walk");
    }
    let image = directory.0.join("walk.erofs");
    disk_images::erofs(&image, &tree);
    let clock = "cut -d ' ' -f 1 /proc/uptime";
    let walk = "find /walk -type f | xargs cat | wc -c";
    let script = format!("{clock}; {walk}; {clock}; {walk}; {clock}");
    let samples = rig.interleave(|runtime| {
        let mut roots = vec![("host", order("bind", &tree, &["rbind"]))];
        if runtime == BULKHEAD {
            roots.push(("erofs", order("erofs", &image, &["ro", "loop"])));
        }
        let mut values = Vec::new();
        for (root, order) in roots {
            let task = rig.container(runtime).mounts(vec![order]).sh(&script).start();
            let output = task.stdio.stdout().to_end(LONG);
            let [first, again] = walks(&String::from_utf8_lossy(&output));
            task.wait();
            task.delete();
            values.push((format!("metadata.{root}"), first));
            values.push((format!("metadata.{root}.again"), again));
        }
        values
    });
    samples.measured_in("ms")
}

/// How long two walks took, in ms: the lines are the time in seconds, and between them the bytes that were read.
fn walks(output: &str) -> [f64; 2] {
    let lines: Vec<_> = output.lines().collect();
    let [begin, read, middle, again, finish] = lines[..] else {
        panic!("a walk said {output:?}")
    };
    let bytes = (FILES * "content".len()).to_string();
    assert_eq!(
        (read, again),
        (bytes.as_str(), bytes.as_str()),
        "files are missing"
    );
    let seconds = |line: &str| line.parse::<f64>().expect("the time in seconds");
    [
        (seconds(middle) - seconds(begin)) * 1e3,
        (seconds(finish) - seconds(middle)) * 1e3,
    ]
}

/// A directory for images, which goes with the benchmark.
struct Scratch(PathBuf);

impl Scratch {
    fn make(rig: &Rig<'_>, name: &str) -> Self {
        let path = rig.daemon.path(name);
        fs::create_dir_all(&path).expect("a directory for images");
        Self(path)
    }

    /// A copy of the test image.
    fn tree(&self, rig: &Rig<'_>) -> PathBuf {
        let tree = Path::join(&self.0, "tree");
        disk_images::tree(rig.daemon, &tree);
        tree
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_walks_are_told_apart() {
        let times = walks("10.00\n14000\n10.50\n14000\n10.75\n");
        assert_eq!(times, [500.0, 250.0]);
    }
}
