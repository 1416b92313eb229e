use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

const ALL: [Program; 3] = [Program::Qemu, Program::Parent, Program::FileServer];

#[derive(Deserialize)]
struct Part {
    mismatch_action: serde_json::Value,
    filter: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    syscall: String,
    #[serde(default)]
    args: Vec<Argument>,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
struct Argument {
    #[serde(default)]
    comment: String,
}

fn parts(program: Program) -> BTreeMap<String, Part> {
    serde_json::from_str(program.list()).unwrap()
}

fn names(part: &Part) -> BTreeSet<&str> {
    part.filter.iter().map(|rule| rule.syscall.as_str()).collect()
}

#[test]
fn every_list_is_accepted_by_the_compiler() {
    for program in ALL {
        Filter::of(program).unwrap();
    }
}

#[test]
fn every_call_says_which_path_needs_it() {
    for part in ALL.iter().flat_map(|program| parts(*program).into_values()) {
        for rule in part.filter {
            assert!(!rule.comment.is_empty(), "{}", rule.syscall);
            assert!(
                rule.args.iter().all(|argument| !argument.comment.is_empty()),
                "{}",
                rule.syscall
            );
        }
    }
}

#[test]
fn what_is_not_listed_kills() {
    for program in ALL {
        assert_eq!(parts(program)["allow"].mismatch_action, "kill_process");
    }
}

/// The list that kills sees the call as well.
#[test]
fn what_is_refused_is_allowed_first() {
    for program in ALL {
        let parts = parts(program);
        if let Some(refused) = parts.get("refuse") {
            assert!(names(refused).is_subset(&names(&parts["allow"])), "{program:?}");
        }
    }
}

#[test]
fn no_list_has_a_way_to_more_privileges_or_files() {
    let never = [
        "ptrace",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "userfaultfd",
        "process_vm_readv",
        "process_vm_writev",
        "open_by_handle_at",
        "socket",
        "connect",
        "bind",
        "init_module",
        "finit_module",
        "kexec_load",
        "reboot",
        "perf_event_open",
        "fork",
        "vfork",
        "move_mount",
        "open_tree",
        "fsopen",
        "io_uring_enter",
        "personality",
        "swapon",
        "execveat",
        "request_key",
        "kexec_file_load",
        "delete_module",
        "pidfd_getfd",
        "fanotify_init",
        "fsmount",
        "fsconfig",
        "mount_setattr",
        "settimeofday",
        "clock_settime",
        "sethostname",
        "iopl",
        "ioperm",
    ];
    for program in ALL {
        let parts = parts(program);
        let allowed = names(&parts["allow"]);
        for call in never {
            assert!(!allowed.contains(call), "{program:?} {call}");
        }
    }
    // QEMU alone is executed under its list.
    for program in [Program::Parent, Program::FileServer] {
        assert!(!names(&parts(program)["allow"]).contains("execve"));
    }
}
