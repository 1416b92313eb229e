//! What layers that are joined on one disk cost to read, against one image that has a disk to itself.
//!
//! `cargo test -p bulkhead-runtime --test sandbox -- --ignored --nocapture measure`

use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

use crate::disks::{Images, layered, on_disks};
use crate::rig::{Rig, read, within};

/// Of each of two files, which no cache of the VM holds.
const BYTES: u64 = 250 << 20;
const ROUNDS: usize = 3;

/// Reads both files, one after the other, then four parts of them at once; prints the clock in between.
const COMMAND: &str = "now() { busybox cut -d' ' -f1 /proc/uptime; }; drop() { echo 3 > /proc/sys/vm/drop_caches; }; \
    drop; now; for f in /big1 /big2; do busybox dd if=$f of=/dev/null bs=64k 2>/dev/null; done; now; drop; now; \
    for f in /big1 /big2; do for part in 0 1; do \
    busybox dd if=$f of=/dev/null bs=4k skip=$((part * 32000)) count=32000 2>/dev/null & done; done; wait; now";

#[tokio::test]
#[ignore = "measures, and takes a minute"]
async fn layers_on_one_disk() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let (tree, top) = (images.tree(), rig.base.path().join("top.tree"));
    fs::create_dir_all(&top).unwrap();
    let noise = |path| {
        let mut random = File::open("/dev/urandom").unwrap().take(BYTES);
        std::io::copy(&mut random, &mut File::create(path).unwrap()).unwrap();
    };
    noise(tree.join("big1"));
    noise(top.join("big2"));
    let (Some(bottom), Some(top_layer)) = (images.erofs("bottom", &tree), images.erofs("top", &top)) else {
        return;
    };
    fs::rename(top.join("big2"), tree.join("big2")).unwrap();
    let Some(one) = images.erofs("one", &tree) else {
        return;
    };
    let writable = images.ext4("writable", None);
    let running = rig.launch("s1").await;
    for round in 0..ROUNDS {
        for (name, layers) in [
            ("joined", vec![top_layer.clone(), bottom.clone()]),
            ("alone", vec![one.clone()]),
        ] {
            let request = on_disks(
                &rig,
                &format!("{name}{round}"),
                COMMAND,
                layered(&writable, &layers),
            );
            let container = running.create(request).await;
            let streams = container.take_streams().unwrap();
            within(container.start()).await.unwrap();
            let output = within(read(streams)).await;
            let clock: Vec<f64> = output.lines().map(|line| line.parse().unwrap()).collect();
            let took = |from: usize| Duration::from_secs_f64(clock[from + 1] - clock[from]);
            println!(
                "{name}: one after the other {:?}, four at once {:?}",
                took(0),
                took(2)
            );
            within(container.delete()).await.unwrap();
        }
    }
    running.end().await;
    rig.assert_clean();
}
