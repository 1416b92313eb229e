//! Containers as `ctr` describes them, and roots for them.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

/// A container to be created.
#[derive(Clone)]
pub struct Container {
    pub id: String,
    pub spec: Value,
    /// Whose PID namespace it joins.
    pub pid_namespace_of: Option<String>,
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

impl Container {
    pub fn new(id: &str) -> Self {
        let sets = json!({"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES});
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["sh"],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": sets,
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
                "noNewPrivileges": true
            },
            "root": {"path": format!("/run/share/{id}/rootfs")},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                 "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                 "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": ["ro", "nosuid", "noexec", "nodev"]},
                {"destination": "/run", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}
            ],
            "linux": {
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            }
        });
        Self {
            id: id.to_owned(),
            spec,
            pid_namespace_of: None,
        }
    }

    /// In the PID namespace of another, as the host asks for it: the spec lists none.
    pub fn with_pids_of(mut self, other: &str) -> Self {
        self.pid_namespace_of = Some(other.to_owned());
        self.with(
            "/linux/namespaces",
            json!([{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]),
        )
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.spec["process"]["args"] = json!(args);
        self
    }

    /// Runs `script` in a shell.
    pub fn sh(self, script: &str) -> Self {
        self.args(&["sh", "-c", script])
    }

    /// Sets a field by its JSON pointer.
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.spec
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("{pointer}"))[name] = value;
        self
    }

    pub fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn terminal(self) -> Self {
        self.with("/process/terminal", json!(true))
    }

    pub fn is_terminal(&self) -> bool {
        self.spec["process"]["terminal"] == true
    }

    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.spec).unwrap()
    }

    /// The container's process with other arguments and no terminal, as clients describe execs.
    pub fn exec_process(&self, args: &[&str]) -> Value {
        let mut process = self.spec["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(false);
        process
    }
}

/// A root with busybox and the files that programs look up.
pub fn make_rootfs(root: &Path, busybox: &Path) {
    for directory in [
        "bin", "dev", "etc", "proc", "sys", "run", "tmp", "root", "sbin", "usr/bin",
    ] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let applets = "sh cat echo true false sleep stty id env pwd ls mount umount kill ps grep dd head wc mknod stat \
        touch rm mkdir chmod ulimit printf hostname tty seq nc ip date trap sync md5sum test readlink df yes";
    for applet in applets.split_whitespace() {
        // It is there when a test uses an id again.
        symlink("busybox", root.join("bin").join(applet)).ok();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    std::fs::write(root.join("etc/not-executable"), "#!/bin/sh\n").unwrap();
}
