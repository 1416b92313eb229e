//! How long things take in a real VM. Not a test: `cargo test -p bulkhead-agent --test measure -- --ignored
//! --nocapture`, with `BULKHEAD_AGENT` naming a release build, or `BULKHEAD_AGENTS` several, by colons, to be
//! compared. The figures are in docs/agent.md.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::message::*;
use support::{Vm, boot, boot_with};

/// Rounds of each measurement.
const ROUNDS: usize = 15;

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{name}: {} / {} / {} ms (n={})",
        ms(least),
        ms(median),
        ms(most),
        times.len()
    );
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure() {
    let mut boots = Vec::new();
    for _ in 0..5 {
        let Some(vm) = boot().await else { return };
        let ms = |ns: u64| ns / 1_000_000;
        println!(
            "agent started {} ms, ready {} ms",
            ms(vm.hello.agent_started_ns),
            ms(vm.hello.ready_ns)
        );
        boots.push(vm.booted_after);
    }
    report("QEMU's start to HELLO", boots);
    let Some(mut vm) = boot().await else { return };
    let (mut pings, mut creates, mut starts, mut firsts, mut deletes) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let began = Instant::now();
        vm.done(Body::Ping(Ping {})).await;
        pings.push(began.elapsed());
        let container = vm.container(&format!("c{round}")).sh("echo x; exit 0");
        let began = Instant::now();
        let mut streams = vm
            .create(&container)
            .await
            .unwrap_or_else(|failed| panic!("{failed:?}"));
        creates.push(began.elapsed());
        let began = Instant::now();
        vm.start(&container.id).await;
        starts.push(began.elapsed());
        streams.hear("x").await;
        firsts.push(began.elapsed());
        vm.exit().await;
        let began = Instant::now();
        vm.delete(&container.id, "").await;
        deletes.push(began.elapsed());
    }
    report("ping", pings);
    report("create", creates);
    report("start to reply", starts);
    report("start to first output", firsts);
    report("delete", deletes);
    let container = vm.container("execs").args(&["sleep", "1000"]);
    let _streams = vm.run(&container).await;
    let (mut replies, mut exits) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let began = Instant::now();
        let exec = vm.exec(&container, &format!("e{round}"), &["true"]).await;
        exec.unwrap_or_else(|failed| panic!("{failed:?}"));
        replies.push(began.elapsed());
        vm.exit().await;
        exits.push(began.elapsed());
    }
    report("exec of true to reply", replies);
    report("exec of true to exit", exits);
    let memory = vm
        .container("memory")
        .sh("cat /agent/status")
        .mount(serde_json::json!({
        "destination": "/agent", "type": "bind", "source": "/proc/1", "options": ["rbind", "ro"]}));
    let streams = vm.run(&memory).await;
    let status = streams.finish().await;
    println!(
        "{}",
        status
            .lines()
            .filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon"))
            .collect::<Vec<_>>()
            .join(" ")
    );
}

/// What happens for the first time in a VM, when its code has yet to be translated: in QEMU's processor time,
/// the agents taking turns.
#[tokio::test]
#[ignore = "a measurement"]
async fn first_times() {
    let agents = std::env::var("BULKHEAD_AGENTS").unwrap_or_default();
    let agents: Vec<&Path> = agents
        .split(':')
        .filter(|path| !path.is_empty())
        .map(Path::new)
        .collect();
    let mut laps = vec![Vec::new(); agents.len()];
    for _ in 0..ROUNDS {
        for (agent, laps) in agents.iter().zip(&mut laps) {
            let Some(vm) = boot_with(Some(agent)).await else {
                return;
            };
            laps.push(steps(vm).await);
        }
    }
    for (agent, laps) in agents.iter().zip(&laps) {
        println!("{} (processor time)", agent.display());
        for step in 0..STEPS.len() {
            report(STEPS[step], laps.iter().map(|lap| lap[step]).collect());
        }
    }
}

const STEPS: [&str; 6] = [
    "boot to HELLO",
    "first create",
    "first start to output",
    "second create",
    "first exec to exit",
    "second exec to exit",
];

async fn steps(mut vm: Vm) -> [Duration; STEPS.len()] {
    let mut clock = vec![Duration::ZERO, vm.processor_time()];
    let first = vm.container("first").sh("echo x; sleep 1000");
    let second = vm.container("second").sh("echo x");
    let mut streams = vm
        .create(&first)
        .await
        .unwrap_or_else(|failed| panic!("{failed:?}"));
    clock.push(vm.processor_time());
    vm.start(&first.id).await;
    streams.hear("x").await;
    clock.push(vm.processor_time());
    let created = vm.create(&second).await;
    clock.push(vm.processor_time());
    created.unwrap_or_else(|failed| panic!("{failed:?}"));
    for exec_id in ["e1", "e2"] {
        let exec = vm.exec(&first, exec_id, &["true"]).await;
        exec.unwrap_or_else(|failed| panic!("{failed:?}"));
        vm.exit().await;
        clock.push(vm.processor_time());
    }
    std::array::from_fn(|step| clock[step + 1] - clock[step])
}
