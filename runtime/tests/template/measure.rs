//! Not a check: where the time of a restore goes. Processor time tells more than the clock on a host that does
//! other things too. With the programs of an install folder, since those of this profile are slow:
//! `BULKHEAD_DIST=DIR cargo test -p bulkhead-runtime --test template -- --ignored --nocapture measure`

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::message::{Body, ConfigureSandbox};
use bulkhead_runtime::agent::AgentClient;

use crate::bare::Bare;
use crate::rig::within;
use crate::{build, path, rig};

const ROUNDS: usize = 11;
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_restore() {
    let Some(mut rig) = rig() else { return };
    if let Some(dist) = std::env::var_os("BULKHEAD_DIST").map(PathBuf::from) {
        rig.config.kernel = dist.join("vmlinux");
        rig.config.initramfs = dist.join("initramfs.cpio");
        rig.config.helpers = dist;
    }
    build(&rig).await.unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path(&rig).await).unwrap());
    println!("the template takes {} KiB", blocks / 2);
    let mut phases: Vec<(&str, Vec<(Duration, Duration)>)> = ["load", "wake", "configure"]
        .map(|name| (name, Vec::new()))
        .into();
    for _ in 0..ROUNDS {
        let mut last = (Instant::now(), Duration::ZERO);
        let vm = Bare::restore(&rig).await;
        let monitor = vm.instance.processes()[1].pid;
        let mut phase = |number: usize| {
            let now = (Instant::now(), processor_time(monitor));
            phases[number].1.push((now.1 - last.1, now.0 - last.0));
            last = now;
        };
        phase(0);
        let (agent, _events) = AgentClient::connect(vm.wake().await);
        let hello = agent.hello(SOON).await.unwrap();
        println!(
            "in the guest, from exec to HELLO: {:?}",
            Duration::from_nanos(hello.ready_ns - hello.agent_started_ns)
        );
        phase(1);
        let configure = ConfigureSandbox {
            hostname: "measured".into(),
            unix_time_ns: 1 << 60,
            entropy: vec![7; 64],
        };
        let configure = Body::ConfigureSandbox(configure);
        within(agent.order("ConfigureSandbox", configure, SOON))
            .await
            .unwrap();
        phase(2);
        println!("KiB of its own, of the guest, of files: {:?}", weight(monitor));
        vm.end().await;
    }
    for (name, mut times) in phases {
        times.sort();
        let processor: Vec<_> = times.iter().map(|(processor, _)| *processor).collect();
        let mut clock: Vec<_> = times.iter().map(|(_, clock)| *clock).collect();
        clock.sort();
        println!(
            "{name}: QEMU's processor time min {:?} median {:?}, clock min {:?} median {:?}",
            processor[0],
            processor[ROUNDS / 2],
            clock[0],
            clock[ROUNDS / 2]
        );
    }
}

/// Of all threads of a process.
fn processor_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let time = |thread: fs::DirEntry| -> u64 {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    Duration::from_nanos(threads.flatten().map(time).sum())
}

/// What a process weighs, in KiB: its own memory, the guest's, and its part of files.
fn weight(pid: u32) -> [u64; 3] {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    ["Pss_Anon:", "Pss_Shmem:", "Pss_File:"].map(|name| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    })
}
