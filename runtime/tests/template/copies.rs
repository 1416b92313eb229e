//! VMs of one template are not copies of each other.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead_agent_protocol::frame::{MAGIC, SYNC_LEN};
use bulkhead_runtime::sandbox::{ExitStatus, Origin};
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::bare::Bare;
use crate::rig::{Rig, within};
use crate::rig_with_template;

/// Enough that two of them would meet if anything were drawn from few values.
const MANY: usize = 20;
/// What the guest's clock may be off.
const CLOCK: Duration = Duration::from_millis(50);

/// Prints one thing a line that only one VM may have: randomness, the kernel's boot id, the card's address once it has
/// one of its own, the addresses at which the program lies, and what the kernel gave it to seed itself.
const SECRETS: &str = "
    busybox od -An -tx1 -w64 -N64 /dev/urandom
    busybox cat /proc/sys/kernel/random/boot_id
    until busybox grep -v 02:00:00:00:00:01 /sys/class/net/e*/address; do busybox sleep 1; done
    busybox sed -n '/stack/s/ .*//p' /proc/self/maps
    busybox od -An -tx1 -w16 -N16 /dev/random";

#[tokio::test]
async fn vms_of_one_template_have_no_secret_in_common() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let mut alive = Vec::new();
    for number in 0..MANY {
        let running = rig.launch(&format!("s{number}")).await;
        assert_eq!(running.sandbox.timings().origin, Origin::Restored);
        alive.push(running);
    }
    let mut seen = HashSet::new();
    for (number, running) in alive.iter_mut().enumerate() {
        let request = rig.container(&format!("s{number}"), SECRETS, |config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts
                .push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}));
        });
        let (_, output) = running.run(request).await;
        let secrets: Vec<_> = output.lines().map(str::trim).collect();
        assert_eq!(secrets.len(), 5, "{output}");
        // A byte of one stream in another's place happens by chance; eight in a row do not.
        let random = secrets[0].replace(' ', "");
        for (at, part) in random.as_bytes().chunks(16).enumerate() {
            let part = String::from_utf8_lossy(part).into_owned();
            assert!(seen.insert((format!("random {at}"), part)), "{output}");
        }
        for (what, secret) in ["boot id", "address", "stack", "seed"].iter().zip(&secrets[1..]) {
            assert!(
                seen.insert(((*what).to_owned(), (*secret).to_owned())),
                "{what} {secret} twice"
            );
        }
    }
    for running in alive {
        running.end().await;
    }
    rig.assert_clean();
}

#[tokio::test]
async fn no_two_links_have_one_epoch() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let mut epochs = HashSet::new();
    for _ in 0..MANY {
        assert!(epochs.insert(epoch(&rig).await));
    }
}

/// The first words of a restored VM's agent.
async fn epoch(rig: &Rig) -> [u8; 8] {
    let vm = Bare::restore(rig).await;
    let mut port = vm.wake().await;
    let mut sync = [0; SYNC_LEN];
    within(port.read_exact(&mut sync)).await.unwrap();
    assert_eq!(sync[..8], MAGIC);
    vm.end().await;
    sync[8..16].try_into().unwrap()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[tokio::test]
async fn a_restored_clock_is_the_hosts_and_time_goes_forward() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    // So that a clock that is not set would be seen.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut running = rig.launch("s1").await;
    assert_eq!(running.sandbox.timings().origin, Origin::Restored);
    let mut request = rig.container("s1", "while read line; do busybox adjtimex; done", |_| {});
    request.stdio.stdin = true;
    let container = running.create(request).await;
    let mut streams = container.take_streams().unwrap();
    within(container.start()).await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin.take().unwrap(), streams.stdout.take().unwrap());
    for _ in 0..5 {
        let before = now();
        stdin.write("\n".into()).await.unwrap();
        let mut said = String::new();
        while !said.contains("return value") {
            let bytes = within(stdout.read()).await.unwrap().unwrap();
            said.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        let after = now();
        let number = |name: &str| -> u64 {
            let line = said.lines().find(|line| line.contains(name)).unwrap();
            line.rsplit(' ')
                .find_map(|word| word.trim().parse().ok())
                .unwrap()
        };
        let guest =
            Duration::from_secs(number("time.tv_sec")) + Duration::from_micros(number("time.tv_usec"));
        assert!(
            guest + CLOCK >= before && guest <= after + CLOCK,
            "{before:?} {guest:?} {after:?}: {said}"
        );
    }
    stdin.end().await.unwrap();
    within(running.exit_of("")).await;
    within(container.delete()).await.unwrap();

    let watch = "last=0; for i in $(busybox seq 400); do read now rest < /proc/uptime; \
        busybox [ ${now%.*}${now#*.} -ge $last ] || exit 1; last=${now%.*}${now#*.}; done";
    let (status, output) = running.run(rig.container("s2", watch, |_| {})).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    running.end().await;
    rig.assert_clean();
}
