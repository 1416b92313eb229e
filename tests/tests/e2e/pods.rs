//! Pods through CRI, driven by `crictl`.

use std::fs;

use bulkhead_tests::Daemon;
use bulkhead_tests::command::{self, Output};
use bulkhead_tests::deadline::{self, LONG, ORDINARY};
use bulkhead_tests::leak::Baseline;
use bulkhead_tests::loop_device::Loop;
use bulkhead_tests::settings::Settings;
use serde_json::{Value, json};

use crate::devices::{begin_of, image};

/// CRI's NamespaceMode CONTAINER: what kubelet asks for unless a pod shares its processes.
const PID_OF_CONTAINER: u32 = 1;

/// A pod, driven by `crictl`.
struct Pod<'d> {
    daemon: &'d Daemon,
    id: String,
    config: String,
}

impl<'d> Pod<'d> {
    fn run(daemon: &'d Daemon) -> Self {
        fs::write(daemon.path("crictl.yaml"), "debug: false\n").unwrap();
        fs::create_dir_all(daemon.path("logs")).unwrap();
        let config = write(
            daemon,
            "pod",
            &json!({
                "metadata": { "name": "pod", "uid": "uid", "namespace": "default" },
                "hostname": "pod",
                "log_directory": daemon.path("logs"),
                "linux": {
                    "cgroup_parent": format!("/{}", daemon.name()),
                    "security_context": { "namespace_options": { "pid": PID_OF_CONTAINER } },
                },
            }),
        );
        let id = crictl(daemon, &["runp", "--runtime", daemon.handler(), &config])
            .text()
            .trim()
            .to_owned();
        daemon.note_id(&id);
        Self { daemon, id, config }
    }

    /// Creates and starts a container with a shell script.
    fn start(&self, name: &str, script: &str) -> String {
        self.start_with(name, script, |_| {})
    }

    /// The same, with changes to its configuration.
    fn start_with(&self, name: &str, script: &str, edit: impl FnOnce(&mut Value)) -> String {
        let mut config = json!({
            "metadata": { "name": name },
            "image": { "image": self.daemon.image() },
            "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"),
            "linux": {
                "resources": { "memory_limit_in_bytes": 64 << 20 },
                "security_context": { "namespace_options": { "pid": PID_OF_CONTAINER } },
            },
        });
        edit(&mut config);
        let config = write(self.daemon, name, &config);
        let id = crictl(self.daemon, &["create", &self.id, &config, &self.config])
            .text()
            .trim()
            .to_owned();
        crictl(self.daemon, &["start", &id]);
        id
    }

    /// What a script prints; crictl adds empty lines.
    fn exec(&self, id: &str, script: &str) -> String {
        let output = crictl(self.daemon, &["exec", "--sync", id, "sh", "-c", script]);
        output.text().trim_end().to_owned()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // It is gone already, unless the test has failed.
        drop(self.daemon.crictl(["rmp", "--force", &self.id]).output());
    }
}

fn write(daemon: &Daemon, name: &str, config: &Value) -> String {
    let path = daemon.path(&format!("{name}.json"));
    fs::write(&path, config.to_string()).unwrap();
    path.display().to_string()
}

#[track_caller]
fn crictl(daemon: &Daemon, args: &[&str]) -> Output {
    command::succeed(&mut daemon.crictl(args), LONG)
}

pub fn pod_of_two(daemon: &Daemon) {
    let cri = Daemon::start_with_cri(daemon.version());
    let baseline = Baseline::of(&cri);
    let pod = Pod::run(&cri);
    let first = pod.start(
        "first",
        "trap 'exit 5' TERM; echo from the first; while :; do sleep 0.1; done",
    );
    let second = pod.start("second", "while :; do echo greeting | nc -l -p 8080; done");
    assert_eq!(pod.exec(&first, "hostname"), "pod");
    assert!(
        pod.exec(&second, "ip -4 -o addr show dev eth0")
            .contains("10.88.77.")
    );
    // One network, and with a VM one kernel, for both.
    let greet = || pod.exec(&first, "nc -w 5 127.0.0.1 8080 </dev/null || true");
    deadline::poll("the other container's greeting", ORDINARY, || {
        (greet() == "greeting").then_some(())
    });
    let boot_id = |id| pod.exec(id, "cat /proc/sys/kernel/random/boot_id");
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let host = host.trim_end();
    assert_eq!(boot_id(&first), boot_id(&second));
    assert_eq!(boot_id(&first) != host, Settings::get().is_vm());
    // Over the streaming server, too.
    let streamed = command::run(
        &mut cri.crictl(["exec", "-i", &second, "cat"]),
        b"streamed\n",
        LONG,
    );
    assert_eq!(streamed.text(), "streamed\n", "{}", streamed.error_text());
    assert_eq!(crictl(&cri, &["logs", &first]).text(), "from the first\n");
    assert!(
        crictl(&cri, &["stats", "--output", "json"])
            .text()
            .contains("first")
    );
    crictl(&cri, &["stop", "--timeout", "20", &first]);
    let inspected = crictl(&cri, &["inspect", "--output", "json", &first]).text();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["status"]["exitCode"], 5, "{inspected}");
    crictl(&cri, &["rm", &first]);
    assert_eq!(pod.exec(&second, "echo alive"), "alive");
    crictl(&cri, &["stopp", &pod.id]);
    crictl(&cri, &["rmp", &pod.id]);
    let left = baseline.wait_restored(&cri);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

/// A volume of a pod in block mode (`volumeDevices`), which two of its containers share.
pub fn block_volume(daemon: &Daemon) {
    let cri = Daemon::start_with_cri(daemon.version());
    let baseline = Baseline::of(&cri);
    let image = image(&cri, "volume", "from the host");
    let device = Loop::of(&image);
    let volume = |permissions: &str| {
        let device =
            json!([{"container_path": "/dev/xvda", "host_path": device.name(), "permissions": permissions}]);
        move |config: &mut Value| config["devices"] = device
    };
    let pod = Pod::run(&cri);
    let writer = pod.start_with("writer", "sleep 1000", volume("rwm"));
    let reader = pod.start_with("reader", "sleep 1000", volume("rm"));
    assert_eq!(
        pod.exec(&writer, "head -c 13 /dev/xvda; printf written > /dev/xvda"),
        "from the host"
    );
    let read = "head -c 7 /dev/xvda; (echo lost > /dev/xvda) 2>/dev/null || echo refused";
    assert_eq!(pod.exec(&reader, read), "writtenrefused");
    crictl(&cri, &["stop", "--timeout", "0", &writer]);
    crictl(&cri, &["rm", &writer]);
    assert_eq!(pod.exec(&reader, "head -c 7 /dev/xvda"), "written");
    crictl(&cri, &["stopp", &pod.id]);
    crictl(&cri, &["rmp", &pod.id]);
    assert_eq!(begin_of(&image, 7), "written");
    device.detach();
    let left = baseline.wait_restored(&cri);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}
