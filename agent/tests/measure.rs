//! How long things take in a real VM. Not a test: `cargo test -p bulkhead-agent --test measure -- --ignored
//! --nocapture`, with `BULKHEAD_AGENT` naming a release build. The figures are in docs/agent.md.

mod support;

use std::time::{Duration, Instant};

use bulkhead_agent_protocol::message::*;
use support::boot;

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
