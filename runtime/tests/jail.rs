//! Looks at the jail of a running VM's processes from outside: /proc says what they are, whatever we meant.
//!
//! Each test is one item of docs/jail.md. Needs what `vm.rs` needs, and skips as it does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test is meant to panic"
)]

#[path = "jail/process.rs"]
mod process;
#[allow(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_runtime::jail::filter::{Filter, Program};
use bulkhead_runtime::jail::{Executable, user};
use bulkhead_runtime::process::Placement;
use bulkhead_runtime::vmm::{Accelerator, Vmm};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use process::Process;
use support::{Rig, Vm, qemu_program, within};

/// CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID MKNOD SETFCAP.
const OF_A_FILE_SERVER: u64 = 0x8800_00db;
/// The name that QEMU gives the guest's memory.
const GUEST_MEMORY: &str = "memfd:memory-backend-memfd";

/// QEMU's parent, QEMU, and the file-sharing server.
fn processes(vm: &Vm) -> [Process; 3] {
    let [parent, monitor] = vm.instance.processes()[..] else {
        panic!("two processes")
    };
    [parent.pid, monitor.pid, vm.fs.process.pid()].map(Process)
}

#[tokio::test]
async fn namespaces_are_their_own() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, qemu, server] = processes(&vm);
    let ours = Process(std::process::id());
    for jailed in [parent, qemu, server] {
        for kind in ["mnt", "ipc", "uts", "cgroup", "net"] {
            assert_ne!(jailed.namespace(kind), ours.namespace(kind), "{jailed:?} {kind}");
        }
    }
    for jailed in [qemu, server] {
        assert_ne!(jailed.namespace("pid"), ours.namespace("pid"), "{jailed:?}");
        // The first process of its namespace: it sees no other.
        assert_eq!(jailed.status("NSpid").split_whitespace().last(), Some("1"));
    }
    // The parent has to be known by the host's number, and shares what it shares with QEMU alone.
    assert_eq!(parent.namespace("pid_for_children"), qemu.namespace("pid"));
    assert_eq!(parent.namespace("mnt"), qemu.namespace("mnt"));
    assert_ne!(server.namespace("mnt"), qemu.namespace("mnt"));
}

#[tokio::test]
async fn the_root_of_qemu_holds_what_it_needs_and_is_read_only() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, qemu, _] = processes(&vm);
    let spec = rig.spec(None);
    let executable = Executable::of_qemu(&qemu_program(), &rig.path("cache")).unwrap();
    let mut expected: BTreeSet<PathBuf> = executable.files.into_iter().collect();
    let own = if spec.shape.accelerator == Accelerator::Kvm {
        &["/dev/null", "/dev/kvm"][..]
    } else {
        &["/dev/null"]
    };
    expected.extend([spec.shape.kernel, spec.shape.initramfs]);
    let interpreter = executable.interpreter.unwrap();
    // A program that nobody can read is bound, too; a loader is copied.
    let is_bound = interpreter.metadata().unwrap().mode() & 0o005 == 0o001;
    let bound = expected.len() + usize::from(is_bound);
    expected.extend(own.iter().map(PathBuf::from));
    expected.insert(interpreter);
    assert_eq!(qemu.files(), expected);
    assert_eq!(parent.files(), expected);

    // One for the root, one for each file that is the host's; none can be written to.
    let mounts = qemu.mounts();
    assert_eq!(mounts.len(), 1 + bound, "{mounts:?}");
    for options in mounts {
        assert!(options.starts_with("ro,nosuid"), "{options}");
    }
    let null = qemu.root().join("dev/null").metadata().unwrap();
    assert_eq!((null.file_type().is_char_device(), null.rdev()), (true, 0x103));
    let error = fs::write(qemu.root().join("planted"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

#[tokio::test]
async fn the_root_of_the_file_server_is_the_share() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [_, _, server] = processes(&vm);
    assert_eq!(server.mounts().len(), 1);
    fs::write(rig.share().join("seen"), "").unwrap();
    assert_eq!(server.files(), BTreeSet::from(["/seen".into()]));
}

#[tokio::test]
async fn capabilities_are_none_or_those_of_a_file_server_in_every_thread() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, qemu, server] = processes(&vm);
    for (jailed, held) in [(parent, 0), (qemu, 0), (server, OF_A_FILE_SERVER)] {
        for thread in jailed.threads() {
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(thread.hexadecimal(set), held, "{thread:?} {set}");
            }
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(thread.hexadecimal(set), 0, "{thread:?} {set}");
            }
            assert_eq!(thread.status("NoNewPrivs"), "1");
        }
    }
}

#[tokio::test]
async fn system_calls_are_filtered_in_every_thread() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, qemu, server] = processes(&vm);
    // One that kills and one that refuses; QEMU's own on top, which takes execve away.
    for (jailed, filters) in [(parent, 1), (qemu, 3), (server, 2)] {
        for thread in jailed.threads() {
            assert_eq!(thread.status("Seccomp"), "2");
            assert_eq!(
                thread.status("Seccomp_filters"),
                filters.to_string(),
                "{thread:?}"
            );
        }
    }
}

/// The lists are not only loaded, they bite.
#[test]
#[allow(unsafe_code)]
fn a_call_that_is_not_listed_kills() {
    // The server and the parent may execute nothing, QEMU may not change its root.
    for (program, argument) in [
        (Program::FileServer, "/bin/true"),
        (Program::Parent, "/bin/true"),
        (Program::Qemu, "/usr/sbin/chroot"),
    ] {
        let filter = Filter::of(program).unwrap();
        let mut command = Command::new(argument);
        command.arg("/");
        // SAFETY: system calls only.
        unsafe { command.pre_exec(move || filter.apply().map_err(std::io::Error::other)) };
        let status = command.status().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{program:?}");
    }
}

#[tokio::test]
async fn each_vm_has_a_user_of_its_own() {
    let Some(rig) = Rig::new() else { return };
    let one = rig.boot().await;
    let other = rig.qemu().launch(rig.spec(None)).await.unwrap();
    let [parent, qemu, server] = processes(&one);
    let expected = |jailed: Process, number: u32| {
        for kind in ["Uid", "Gid"] {
            assert_eq!(jailed.status(kind), vec![number.to_string(); 4].join("\t"));
        }
        assert_eq!(jailed.status("Groups"), "");
    };
    let number: u32 = qemu
        .status("Uid")
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((user::FIRST..user::FIRST + user::COUNT).contains(&number));
    expected(parent, number);
    expected(qemu, number);
    // It serves the files of all users.
    assert!(server.status("Uid").starts_with("0\t"));
    let neighbour = Process(other.processes()[1].pid);
    assert_ne!(neighbour.status("Uid"), qemu.status("Uid"));
}

#[tokio::test]
async fn limits_are_tight() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, qemu, server] = processes(&vm);
    for jailed in [parent, qemu] {
        assert_eq!(jailed.limit("Max core file size"), "0");
        assert_eq!(jailed.limit("Max locked memory"), "0");
        assert_eq!(jailed.limit("Max open files"), "2048");
        assert_eq!(jailed.limit("Max processes"), "192");
        assert_eq!(jailed.limit("Max file size"), (1_u64 << 40).to_string());
    }
    assert_eq!(server.limit("Max core file size"), "0");
    assert_eq!(server.limit("Max locked memory"), "0");
    assert!(server.limit("Max open files").parse::<u64>().unwrap() <= 1_000_000);
}

#[tokio::test]
async fn no_dump_holds_guest_memory() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, qemu, server] = processes(&vm);
    for jailed in [parent, qemu, server] {
        assert_eq!(jailed.read("coredump_filter").trim(), "00000000");
    }
    for jailed in [parent, qemu] {
        // The files of a process that can be dumped belong to its user; those of another to root.
        assert_eq!(jailed.path("environ").metadata().unwrap().uid(), 0, "{jailed:?}");
    }
    let memory = qemu.mapping(GUEST_MEMORY);
    assert!(memory.flags.contains("dd"), "{memory:?}");
    assert!(
        !memory.flags.contains("mg"),
        "merged with other guests' pages: {memory:?}"
    );
}

#[tokio::test]
async fn guest_memory_is_sealed() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [_, qemu, _] = processes(&vm);
    let descriptors = qemu.descriptors();
    let memory = descriptors
        .iter()
        .find(|open| open.target.to_string_lossy().contains(GUEST_MEMORY))
        .unwrap();
    let file = fs::File::open(&memory.path).unwrap();
    let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap());
    let wanted = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    assert!(seals.contains(wanted), "{seals:?}");
}

#[tokio::test]
async fn descriptors_lead_nowhere_else() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, qemu, server] = processes(&vm);
    let known = [
        rig.path("lock"),
        rig.path("cache/users"),
        "/dev/null".into(),
        "/dev/kvm".into(),
    ];
    for jailed in [parent, qemu] {
        for open in jailed.descriptors() {
            let target = open.target.to_string_lossy().into_owned();
            let anonymous = ["pipe:", "socket:", "anon_inode:", "/memfd:"]
                .iter()
                .any(|kind| target.starts_with(kind));
            assert!(anonymous || known.contains(&open.target), "{jailed:?} {open:?}");
        }
    }
    // Who gives user numbers out cannot be asked by QEMU.
    assert!(!qemu.descriptors().iter().any(|open| open.target == known[1]));
    let share = rig.share().metadata().unwrap().dev();
    let proc = Path::new("/proc").metadata().unwrap().dev();
    for open in server.descriptors() {
        let status = open.path.metadata().unwrap();
        if status.is_dir() {
            assert!([share, proc].contains(&status.dev()), "{open:?}");
        }
    }
}

#[tokio::test]
async fn qemu_is_reached_through_sockets_without_names_by_their_other_ends_alone() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [_, qemu, _] = processes(&vm);
    let table = fs::read_to_string("/proc/net/unix").unwrap() + &qemu.read("net/unix");
    for open in qemu.descriptors() {
        let target = open.target.to_string_lossy().into_owned();
        let Some(inode) = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
        else {
            continue;
        };
        let line = table
            .lines()
            .find(|line| line.split_whitespace().nth(6) == Some(inode))
            .unwrap();
        let fields: Vec<_> = line.split_whitespace().collect();
        // Connected, and no eighth field, which would be a name.
        assert_eq!((fields[5], fields.len()), ("03", 7), "{line}");
    }
}

#[tokio::test]
async fn the_out_of_memory_killer_prefers_the_monitor() {
    let Some(rig) = Rig::new() else { return };
    let mut spec = rig.spec(None);
    spec.placement = Placement {
        oom_score_adj: Some(321),
        ..Placement::default()
    };
    let instance = rig.qemu().launch(spec).await.unwrap();
    for process in instance.processes() {
        assert_eq!(Process(process.pid).read("oom_score_adj").trim(), "321");
    }
}

#[tokio::test]
async fn every_byte_of_the_guest_is_charged_to_its_cgroup() {
    let Some(rig) = Rig::new() else { return };
    let Some(cgroup) = process::MemoryCgroup::new().or_else(|| support::skip("no memory controller")) else {
        return;
    };
    let mut spec = rig.spec(None);
    spec.placement.cgroup_procs = vec![cgroup.procs()];
    let mut instance = Some(rig.qemu().launch(spec).await.unwrap());
    let vm = instance.as_ref().unwrap();
    let qemu = Process(vm.processes()[1].pid);
    let mut agent = tokio::io::BufReader::new(vm.take_agent().unwrap());
    let mut hello = String::new();
    within(tokio::io::AsyncBufReadExt::read_line(&mut agent, &mut hello))
        .await
        .unwrap();
    let touched = qemu.mapping(GUEST_MEMORY).resident_kib * 1024;
    assert!(touched > 10 << 20, "{touched}");
    // Charged page by page to whoever touches it first, and never moved.
    assert!(cgroup.shared_memory() >= touched);
    let end = vm.watch();
    drop(instance.take());
    within(end.wait()).await;
}
