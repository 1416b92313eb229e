//! Block devices of the host, given to a container: under Bulkhead a disk of its VM. Loop devices stand in for all.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bulkhead_tests::deadline::{LONG, ORDINARY};
use bulkhead_tests::loop_device::Loop;
use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Case, Container, Daemon, case, command, mib};
use serde_json::{Value, json};

pub const CASES: &[Case] = &[
    case("what_is_written_is_on_the_hosts_device", written),
    case("device_without_a_rule_for_writing", read_only),
    case("device_after_a_restart_of_its_container", restart),
    case("device_by_nerdctl", by_nerdctl).since(2, 0),
    case("character_device_of_the_host_is_refused", character_device).vm_only(),
    case("other_block_devices_stay_closed", others_stay_closed),
];

/// What a container writes there.
const WORDS: &str = "from a container\n";

/// A file of its own for a device, beginning with `text`.
pub fn image(daemon: &Daemon, name: &str, text: &str) -> PathBuf {
    let path = daemon.path(name);
    let file = File::create(&path).unwrap();
    file.set_len(mib(4)).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    path
}

pub fn begin_of(image: &Path, length: usize) -> String {
    let mut begin = vec![0; length];
    File::open(image).unwrap().read_exact(&mut begin).unwrap();
    String::from_utf8(begin).unwrap()
}

fn written(daemon: &Daemon) {
    let image = image(daemon, "written", "of the host");
    let device = Loop::of(&image);
    let name = device.name();
    let script = format!("test -b {name} && head -c 11 {name} && printf '{WORDS}' > {name}");
    let container = Container::new(daemon).flag("--device").flag(name);
    container
        .sh(&script)
        .run()
        .expect_exit(0)
        .expect_stdout("of the host");
    assert_eq!(begin_of(&image, WORDS.len()), WORDS);
    device.detach();
    fs::remove_file(image).unwrap();
}

/// Adds the device as /dev/xvda, as CRI does.
fn list(spec: &mut Value, (major, minor): (u64, u64), access: &str) {
    spec["linux"]["devices"] = json!([{"path": "/dev/xvda", "type": "b", "major": major, "minor": minor,
        "fileMode": 0o640, "uid": 7, "gid": 8}]);
    let rule = json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access});
    spec["linux"]["resources"]["devices"]
        .as_array_mut()
        .unwrap()
        .push(rule);
}

fn read_only(daemon: &Daemon) {
    let image = image(daemon, "read-only", "kept");
    let (free, protected) = (Loop::of(&image), Loop::read_only(&image));
    for (device, access) in [(&free, "rm"), (&protected, "rwm")] {
        let number = device.number();
        let container = Container::new(daemon).spec(move |spec| list(spec, number, access));
        let script = "stat -c '%a %u %g' /dev/xvda; head -c 4 /dev/xvda; (echo lost > /dev/xvda) 2>/dev/null && echo written";
        let task = container.args(["sleep", "1000"]).start();
        task.sh(script).expect_stdout("640 7 8\nkept");
        task.kill(nix::libc::SIGKILL);
        task.finish().expect_exit(137);
    }
    assert_eq!(begin_of(&image, 4), "kept");
    free.detach();
    protected.detach();
    fs::remove_file(image).unwrap();
}

fn restart(daemon: &Daemon) {
    let image = image(daemon, "restart", "");
    let device = Loop::of(&image);
    let name = device.name();
    let container = Container::new(daemon).flag("--device").flag(name);
    let container = container.sh(&format!("head -c 4 {name} | tr '\\0' .; printf next > {name}"));
    let id = container.id().to_owned();
    let mut run = daemon.ctr(["run"]);
    run.args(container.ctr_arguments());
    assert_eq!(command::succeed(&mut run, ORDINARY).text(), "....");
    let again = command::succeed(&mut daemon.ctr(["tasks", "start", &id]), ORDINARY);
    assert_eq!(again.text(), "next");
    daemon.remove(&id);
    device.detach();
    fs::remove_file(image).unwrap();
}

fn by_nerdctl(daemon: &Daemon) {
    let image = image(daemon, "by-nerdctl", "first");
    let device = Loop::of(&image);
    let run = |access: &str, script: &str| {
        let device = format!("{}:/dev/xvda:{access}", device.name());
        let mut run = daemon.nerdctl(["run", "--pull", "never", "--runtime", &Settings::get().runtime]);
        run.args([
            "--rm",
            "--net",
            "none",
            "--device",
            &device,
            daemon.image(),
            "sh",
            "-c",
            script,
        ]);
        command::run(&mut run, b"", LONG)
    };
    let output = run("rwm", "head -c 5 /dev/xvda; printf other > /dev/xvda");
    assert_eq!(output.text(), "first", "{}", output.error_text());
    assert_eq!(begin_of(&image, 5), "other");
    let output = run(
        "r",
        "head -c 5 /dev/xvda; printf third > /dev/xvda || echo refused",
    );
    assert_eq!(output.text(), "otherrefused\n", "{}", output.error_text());
    assert_eq!(begin_of(&image, 5), "other");
    device.detach();
    fs::remove_file(image).unwrap();
}

fn character_device(daemon: &Daemon) {
    let container = Container::new(daemon).flag("--device").flag("/dev/loop-control");
    let refused = container
        .args(["true"])
        .try_create()
        .err()
        .expect("it is the host's");
    assert!(refused.message().contains("/dev/loop-control"), "{refused}");
    assert!(refused.message().contains("is a device of the host"), "{refused}");
}

/// A device is one device: its neighbours by number are others', in a VM the disks of other containers.
fn others_stay_closed(daemon: &Daemon) {
    let image = image(daemon, "others", "");
    let device = Loop::of(&image);
    let script =
        "for minor in 0 16 32; do mknod /dev/sd$minor b 8 $minor && head -c 1 /dev/sd$minor 2>&1; done; true";
    let container = Container::new(daemon).flag("--device").flag(device.name());
    let ran = container.sh(script).run();
    let refused = ran.stdout().matches("Operation not permitted").count();
    // In a VM the device itself is one of these, by another node.
    let own = usize::from(Settings::get().is_vm());
    assert_eq!(refused, 3 - own, "{}", ran.stdout());
    device.detach();
    fs::remove_file(image).unwrap();
}
