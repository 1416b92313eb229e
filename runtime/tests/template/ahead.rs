//! What a restored VM has made ahead of its first container is what the container would have had anyway.

use bulkhead_runtime::sandbox::Origin;
use serde_json::{Value, json};

use crate::rig_with_template;

/// The mounts of `ctr`'s default spec, with these options of one of them.
fn usual(config: &mut Value, at: &str, options: &[&str]) {
    let mount = |kind: &str, source: &str, destination: &str, usual: &[&str]| {
        let options = if destination == at { options } else { usual };
        json!({"destination": destination, "type": kind, "source": source, "options": options})
    };
    let flags = ["nosuid", "noexec", "nodev"];
    let tmpfs = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    let terminals = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    config["mounts"] = json!([
        mount("proc", "proc", "/proc", &flags),
        mount("tmpfs", "tmpfs", "/dev", &tmpfs),
        mount("devpts", "devpts", "/dev/pts", &terminals),
        mount("tmpfs", "shm", "/dev/shm", &shm),
        mount("mqueue", "mqueue", "/dev/mqueue", &flags),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        mount("tmpfs", "tmpfs", "/run", &tmpfs),
    ]);
    config["linux"]["maskedPaths"] = json!(["/sys/firmware", "/sys/kernel"]);
    // The network is the guest's, as in every sandbox.
    let cgroup = json!({"type": "cgroup"});
    config["linux"]["namespaces"].as_array_mut().unwrap().push(cgroup);
}

/// Everything about mounts and devices that does not differ by the numbers that the kernel happens to give.
const LOOK: &str = "
    busybox awk '{ $1 = $2 = $3 = \"\"; print }' /proc/self/mountinfo
    busybox find /dev /run ! -path '/dev/pts/*' -exec busybox stat -c '%n %F %a %u:%g %t,%T' {} +
    for link in fd stdin stdout stderr ptmx; do busybox readlink /dev/$link; done
    busybox cat /proc/self/cgroup /proc/self/oom_score_adj
    busybox ls /sys/firmware /sys/kernel
    busybox ps -o pid,sid,comm | busybox grep ' sh'";

#[tokio::test]
async fn a_container_of_a_restored_vm_sees_what_one_of_a_booted_vm_sees() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let usual = |config: &mut Value| usual(config, "", &[]);
    // The first gets what was made ahead, the second does not.
    let mut restored = rig.launch("s1").await;
    assert_eq!(restored.sandbox.timings().origin, Origin::Restored);
    let (_, ahead) = restored.run(rig.container("c1", LOOK, usual)).await;
    let (_, later) = restored.run(rig.container("c2", LOOK, usual)).await;
    let of = |text: &str, id: &str| text.replace(id, "ID");
    assert_eq!(of(&ahead, "c1"), of(&later, "c2"));
    // As everywhere, what is mounted in the root comes after it.
    assert!(ahead.starts_with("   / / "), "{ahead}");
    for part in [
        " /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k",
        " /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs",
        " /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
        "/dev/null character special file 666 0:0 1,3",
        "/dev/mqueue directory",
        "0::/\n",
    ] {
        assert!(ahead.contains(part), "{part}: {ahead}");
    }
    restored.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn two_containers_share_no_device_directory_and_no_memory() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let usual = |config: &mut Value| usual(config, "", &[]);
    let running = rig.launch("s1").await;
    let mut outputs = Vec::new();
    let mut containers = Vec::new();
    for id in ["c1", "c2"] {
        let command = format!(
            "cd /dev; echo {id} >shm/{id}; echo >{id}; busybox ls shm; busybox ls | busybox grep '^c[0-9]'; echo >/run/{id}; busybox ls /run; busybox sleep 1000"
        );
        let container = running.create(rig.container(id, &command, usual)).await;
        let streams = container.take_streams().unwrap();
        crate::rig::within(container.start()).await.unwrap();
        let mut stdout = streams.stdout.unwrap();
        let mut text = Vec::new();
        while text.iter().filter(|byte| **byte == b'\n').count() < 3 {
            text.extend_from_slice(&crate::rig::within(stdout.read()).await.unwrap().unwrap());
        }
        outputs.push(String::from_utf8(text).unwrap());
        containers.push((container, stdout));
    }
    assert_eq!(outputs, ["c1\nc1\nc1\n", "c2\nc2\nc2\n"]);
    drop(containers);
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn other_options_than_the_usual_ones_are_those_of_the_mount() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    for (number, (at, options, expected)) in [
        (
            "/dev/shm",
            &["ro", "size=1m", "mode=700"][..],
            "/dev/shm tmpfs ro,relatime,size=1024k,mode=700",
        ),
        (
            "/dev",
            &["noexec", "size=2m"],
            "/dev tmpfs rw,noexec,relatime,size=2048k",
        ),
        ("/proc", &["ro"], "/proc proc ro,relatime"),
        (
            "/run",
            &["nodev", "mode=700"],
            "/run tmpfs rw,nodev,relatime,mode=700",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut running = rig.launch(&format!("s{number}")).await;
        assert_eq!(running.sandbox.timings().origin, Origin::Restored);
        let command = "busybox cut -d ' ' -f 2-4 /proc/mounts; busybox ls -l /dev/null /dev/pts/ptmx";
        let request = rig.container(&format!("s{number}"), command, |config| {
            usual(config, at, options)
        });
        let (_, output) = running.run(request).await;
        assert!(output.contains(expected), "{expected}: {output}");
        assert!(output.contains("1,   3"), "{output}");
        running.end().await;
    }
    rig.assert_clean();
}

#[tokio::test]
async fn what_a_spec_mounts_on_a_device_is_there() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let request = rig.container(
        "s1",
        "busybox cat /dev/full/hello; busybox ls /dev/fd",
        |config| {
            usual(config, "", &[]);
            let mounts = config["mounts"].as_array_mut().unwrap();
            let options = ["mode=755"];
            mounts.push(
                json!({"destination": "/dev/full", "type": "tmpfs", "source": "tmpfs", "options": options}),
            );
        },
    );
    let (_, output) = running.run(request).await;
    assert!(output.contains("No such file or directory"), "{output}");
    running.end().await;
    rig.assert_clean();
}
