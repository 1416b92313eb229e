//! Containers that share a sandbox: one shim, one VM.

use bulkhead_tests::host::HostProcess;
use bulkhead_tests::task::Task;
use bulkhead_tests::{Case, Container, Daemon, case};
use nix::libc::SIGKILL;
use serde_json::json;

pub const CASES: &[Case] = &[
    case("members_share_a_shim", members_share_a_shim),
    case("members_share_a_kernel", members_share_a_kernel).vm_only(),
    case("members_end_apart", members_end_apart),
];

/// A member of the group that `first` gives its name.
fn member<'d>(daemon: &'d Daemon, first: &str, script: &str) -> Container<'d> {
    let first = first.to_owned();
    let container = Container::new(daemon).sh(script);
    container.spec(move |spec| spec["annotations"] = json!({ "io.containerd.runc.v2.group": first }))
}

fn end(task: &Task<'_>) {
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn members_share_a_shim(daemon: &Daemon) {
    let name = daemon.new_id("group");
    let first = member(daemon, &name, "sleep 1000").named(&name).start();
    let second = member(daemon, &name, "sleep 1000").start();
    let all = HostProcess::all();
    let parent = |task: &Task<'_>| {
        all.iter()
            .find(|process| process.pid == task.pid())
            .expect("a process")
            .parent
    };
    assert_eq!(parent(&first), parent(&second));
    assert_ne!(first.pid(), second.pid());
    end(&second);
    end(&first);
}

fn members_share_a_kernel(daemon: &Daemon) {
    let name = daemon.new_id("group");
    let boot_id = |task: &Task<'_>| task.sh("cat /proc/sys/kernel/random/boot_id").text();
    let first = member(daemon, &name, "sleep 1000").named(&name).start();
    let second = member(daemon, &name, "sleep 1000").start();
    let other = Container::new(daemon).args(["sleep", "1000"]).start();
    assert_eq!(boot_id(&first), boot_id(&second));
    assert_ne!(boot_id(&first), boot_id(&other));
    [other, second, first].iter().for_each(end);
}

fn members_end_apart(daemon: &Daemon) {
    let name = daemon.new_id("group");
    let first = member(daemon, &name, "sleep 1000").named(&name).start();
    for code in [3, 4] {
        let short = member(daemon, &name, &format!("echo {code}; exit {code}")).start();
        short
            .finish()
            .expect_exit(code)
            .expect_stdout(&format!("{code}\n"));
        first.sh("echo alive").expect_exit(0).expect_stdout("alive\n");
    }
    // The sandbox outlives its first container for as long as another runs.
    let last = member(daemon, &name, "sleep 1000").start();
    end(&first);
    last.sh("echo alive").expect_exit(0).expect_stdout("alive\n");
    end(&last);
}
