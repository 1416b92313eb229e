//! Root file systems on disks of the VM.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_runtime::rootfs::RootfsMount;
use bulkhead_runtime::sandbox::{ContainerRequest, ErrorKind, ExitStatus};

use crate::rig::{Rig, read, within};

/// Room for busybox, and some to write to.
const IMAGE_BYTES: u64 = 16 << 20;

/// An order of containerd.
pub fn order(fstype: &str, source: impl AsRef<Path>, options: &[&str]) -> RootfsMount {
    RootfsMount {
        fstype: fstype.into(),
        source: source.as_ref().to_str().unwrap().into(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..RootfsMount::default()
    }
}

/// Makes what is plugged in.
pub struct Images<'a>(pub &'a Rig);

impl Images<'_> {
    /// A directory with busybox and mount points in it.
    pub fn tree(&self) -> PathBuf {
        let request = self.0.container("tree", "true", |_| {});
        request.bundle.join("rootfs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.base.path().join(name)
    }

    /// An ext4 image of a directory.
    pub fn ext4(&self, name: &str, tree: Option<&Path>) -> PathBuf {
        let path = self.path(name);
        fs::File::create(&path).unwrap().set_len(IMAGE_BYTES).unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.arg("-q");
        if let Some(tree) = tree {
            mkfs.arg("-d").arg(tree);
        }
        assert!(mkfs.arg(&path).status().unwrap().success());
        path
    }

    /// An erofs image of a directory; `None`, with a word about it, where there is no mkfs.erofs.
    pub fn erofs(&self, name: &str, tree: &Path) -> Option<PathBuf> {
        let path = self.path(name);
        let made = Command::new("mkfs.erofs")
            .arg("--quiet")
            .arg(&path)
            .arg(tree)
            .output();
        match made {
            Ok(output) => {
                assert!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stderr)
                );
                Some(path)
            }
            Err(error) => crate::rig::skip(&format!("mkfs.erofs: {error}")),
        }
    }

    /// A layer holding one file.
    fn layer(&self, name: &str, file: &str, content: &str) -> Option<PathBuf> {
        let tree = self.path(&format!("{name}.tree"));
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join(file), content).unwrap();
        self.erofs(name, &tree)
    }
}

/// A container with a root file system of its own.
pub fn on_disks(rig: &Rig, id: &str, command: &str, rootfs: Vec<RootfsMount>) -> ContainerRequest {
    ContainerRequest {
        rootfs,
        ..rig.container(id, command, |_| {})
    }
}

/// As containerd's erofs snapshotter orders it; the topmost layer first.
pub fn layered(writable: &Path, layers: &[PathBuf]) -> Vec<RootfsMount> {
    let lower = format!("lowerdir={{{{ overlay 1 {} }}}}", layers.len());
    let overlay = [
        "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
        "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
        "workdir={{ mount 0 }}/work",
        "upperdir={{ mount 0 }}/upper",
        &lower,
    ];
    let mut rootfs = vec![order("ext4", writable, &["rw", "loop"])];
    rootfs.extend(layers.iter().map(|layer| order("erofs", layer, &["ro", "loop"])));
    rootfs.push(order("format/mkdir/overlay", "overlay", &overlay));
    rootfs
}

/// What debugfs reads from an image that nobody has mounted.
pub fn read_back(image: &Path, file: &str) -> String {
    let output = Command::new("debugfs")
        .args(["-R", &format!("cat {file}")])
        .arg(image)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_container_lives_on_an_image_and_what_it_writes_stays_there() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let image = images.ext4("image", Some(&images.tree()));
    let rootfs = || vec![order("ext4", &image, &["loop"])];
    let mut running = rig.launch("s1").await;
    let command = "echo kept > /data/file; busybox cat /proc/mounts; busybox ls /dev";
    let (status, output) = running.run(on_disks(&rig, "s1", command, rootfs())).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    let root = output
        .lines()
        .find(|line| line.split(' ').nth(1) == Some("/"))
        .unwrap();
    assert!(root.contains(" ext4 rw"), "{root}");
    assert!(
        !output.lines().any(|line| line == "sda"),
        "its disk is not for the container to see: {output}"
    );
    assert_eq!(read_back(&image, "/data/file"), "kept\n");

    // Its place on the bus is another's now.
    let (status, output) = running
        .run(on_disks(&rig, "c2", "busybox cat /data/file", rootfs()))
        .await;
    assert_eq!((status, output.as_str()), (ExitStatus::Code(0), "kept\n"));
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn layers_are_put_together_in_their_order() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let tree = images.tree();
    fs::write(tree.join("data/who"), "bottom\n").unwrap();
    symlink("/data/who", tree.join("link")).unwrap();
    let (Some(bottom), Some(top)) = (images.erofs("bottom", &tree), images.layer("top", "top", "top\n"))
    else {
        return;
    };
    let before = fs::read(&bottom).unwrap();
    let writable = images.ext4("writable", None);
    let command = "busybox cat /top /link; echo new > /data/who; busybox rm /top; busybox cat /data/who; \
        busybox ls /top; busybox cat /proc/mounts | busybox wc -l";
    let mut running = rig.launch("s1").await;
    let request = on_disks(&rig, "s1", command, layered(&writable, &[top, bottom.clone()]));
    let (_, output) = running.run(request).await;
    assert!(output.starts_with("top\nbottom\nnew\n3\n"), "{output}");
    assert!(output.contains("No such file"), "{output}");
    running.end().await;
    assert_eq!(read_back(&writable, "/upper/data/who"), "new\n");
    assert!(fs::read(&bottom).unwrap() == before, "a layer is never written");
    rig.assert_clean();
}

#[tokio::test]
async fn a_disk_is_locked_while_it_is_plugged_in() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let tree = images.tree();
    let image = images.ext4("image", Some(&tree));
    let Some(layer) = images.erofs("layer", &tree) else {
        return;
    };
    let rootfs = |fstype, image, options| vec![order(fstype, image, options)];
    let (one, other) = (rig.launch("s1").await, rig.launch("s2").await);
    let first = one
        .create(on_disks(&rig, "s1", "true", rootfs("ext4", &image, &["loop"])))
        .await;
    for options in [&["loop"][..], &["loop", "ro"]] {
        let request = on_disks(&rig, "c2", "true", rootfs("ext4", &image, options));
        let error = within(other.sandbox.create_container(request)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("lock"), "{error}");
    }
    within(first.delete()).await.unwrap();
    // Many may read.
    for (running, id) in [(&one, "c3"), (&other, "c4")] {
        let request = on_disks(&rig, id, "true", rootfs("erofs", &layer, &["loop", "ro"]));
        running.create(request).await;
    }
    one.end().await;
    other.end().await;
    rig.assert_clean();
}

/// CVE-2026-24054.
#[tokio::test]
async fn a_directory_is_never_a_disk() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let running = rig.launch("s1").await;
    for (source, kind) in [
        (images.tree(), ErrorKind::InvalidArgument),
        ("/dev/null".into(), ErrorKind::InvalidArgument),
        (images.path("absent"), ErrorKind::FailedPrecondition),
    ] {
        let request = on_disks(&rig, "c1", "true", vec![order("ext4", &source, &["loop"])]);
        let error = within(running.sandbox.create_container(request))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(source.to_str().unwrap()), "{error}");
    }
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_failing_disk_is_its_containers_affair_alone() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let tree = images.tree();
    let big: Vec<u8> = (0..4u32 << 20).map(|n| (n >> 8) as u8).collect();
    fs::write(tree.join("big"), big).unwrap();
    let image = images.ext4("image", Some(&tree));
    let good = images.ext4("good", Some(&tree));
    let mut running = rig.launch("s1").await;
    // Half of it is gone: what is there can be read, the rest cannot.
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(IMAGE_BYTES / 4).unwrap();
    let bad = on_disks(
        &rig,
        "s1",
        "busybox cat /big > /dev/null",
        vec![order("ext4", &image, &["loop"])],
    );
    match within(running.sandbox.create_container(bad)).await {
        // The kernel sees that the device is smaller than its file system.
        Err(error) => assert!(error.to_string().contains("mount ext4"), "{error}"),
        Ok(container) => {
            let streams = container.take_streams().unwrap();
            within(container.start()).await.unwrap();
            assert!(within(read(streams)).await.contains("I/O error"));
            running.exit_of("").await;
            within(container.delete()).await.unwrap();
        }
    }
    let rootfs = vec![order("ext4", &good, &["loop"])];
    let (status, output) = running.run(on_disks(&rig, "c2", "echo fine", rootfs)).await;
    assert_eq!((status, output.as_str()), (ExitStatus::Code(0), "fine\n"));
    running.end().await;
    rig.assert_clean();
}

/// What a disk cannot store is an error of whoever writes there; by itself QEMU would stop the whole VM.
#[tokio::test]
async fn a_full_host_stops_nobody() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let small = images.path("small");
    fs::create_dir(&small).unwrap();
    let none = None::<&str>;
    let options = Some("size=6m");
    nix::mount::mount(none, &small, Some("tmpfs"), nix::mount::MsFlags::empty(), options).unwrap();
    let image = images.ext4("image", Some(&images.tree()));
    let copied = Command::new("cp")
        .args(["--sparse=always"])
        .arg(&image)
        .arg(small.join("image"))
        .status();
    assert!(copied.unwrap().success());
    let mut running = rig.launch("s1").await;
    let rootfs = vec![order("ext4", small.join("image"), &["loop"])];
    let command =
        "busybox dd if=/dev/zero of=/data/big bs=64k count=128 conv=fsync 2>&1; busybox true && echo alive";
    let (_, output) = running.run(on_disks(&rig, "s1", command, rootfs)).await;
    let failed = output.contains("No space left") || output.contains("I/O error");
    assert!(failed && output.ends_with("alive\n"), "{output}");
    let (status, _) = running.run(rig.container("c2", "true", |_| {})).await;
    assert_eq!(status, ExitStatus::Code(0));
    running.end().await;
    nix::mount::umount2(&small, nix::mount::MntFlags::MNT_DETACH).unwrap();
    rig.assert_clean();
}

/// More than one disk of the VM can hold, too.
#[tokio::test]
async fn a_hundred_layers() {
    const COUNTS: [usize; 3] = [10, 100, 300];
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let Some(bottom) = images.erofs("bottom", &images.tree()) else {
        return;
    };
    let most = COUNTS[2];
    let mut layers: Vec<_> = (0..most - 1)
        .rev()
        .map(|number| {
            images
                .layer(&format!("layer{number}"), &format!("from-{number}"), "x")
                .unwrap()
        })
        .collect();
    layers.push(bottom);
    let writable = images.ext4("writable", None);
    let mut running = rig.launch("s1").await;
    for count in COUNTS {
        let some = &layers[most - count..];
        let command = "busybox ls / | busybox grep -c from-; echo x > /new";
        let begun = std::time::Instant::now();
        let request = on_disks(&rig, &format!("c{count}"), command, layered(&writable, some));
        let container = running.create(request).await;
        println!("{count} layers: created in {:?}", begun.elapsed());
        let streams = container.take_streams().unwrap();
        within(container.start()).await.unwrap();
        assert_eq!(within(read(streams)).await, format!("{}\n", count - 1));
        running.exit_of("").await;
        within(container.delete()).await.unwrap();
        println!("{count} layers: gone after {:?}", begun.elapsed());
    }
    running.end().await;
    rig.assert_clean();
}

/// Layers lie on one disk, whose partitions only the host decides.
#[tokio::test]
async fn a_layer_brings_no_partitions() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let (Some(bottom), Some(top)) = (
        images.erofs("bottom", &images.tree()),
        images.layer("top", "top", "top\n"),
    ) else {
        return;
    };
    // One of Linux, from sector 1 on, in the table that DOS had; erofs leaves that room free.
    let mut table = [0; 66];
    table[4] = 0x83;
    table[8] = 1;
    table[12] = 4;
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    for layer in [&bottom, &top] {
        let file = fs::OpenOptions::new().write(true).open(layer).unwrap();
        file.write_all_at(&table, 446).unwrap();
    }
    let mut running = rig.launch("s1").await;
    let writable = images.ext4("writable", None);
    let request = on_disks(&rig, "s1", "busybox cat /top", layered(&writable, &[top, bottom]));
    let (status, output) = running.run(request).await;
    assert_eq!((status, output.as_str()), (ExitStatus::Code(0), "top\n"));
    running.end().await;
    rig.assert_clean();
}
