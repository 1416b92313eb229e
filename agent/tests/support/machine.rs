//! QEMU and what it boots.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The agent to boot: `agent`, else the one just built.
pub fn agent_binary(directory: &Path, agent: Option<&Path>) -> PathBuf {
    if let Some(path) = agent {
        return path.to_owned();
    }
    // A debug build's symbols would take the guest longer to unpack than all the rest to boot.
    let stripped = directory.join("init");
    let status = Command::new("strip")
        .args([
            "-o".as_ref(),
            stripped.as_os_str(),
            env!("CARGO_BIN_EXE_bulkhead-agent").as_ref(),
        ])
        .status();
    assert!(status.unwrap().success());
    stripped
}

/// Starts QEMU with what a sandbox's VM has, as far as tests use it.
pub fn start_qemu(kernel: &Path, initramfs: &Path, port: &Path, share: &Path, directory: &Path) -> Child {
    let console = std::fs::File::create(directory.join("console")).unwrap();
    let append = "console=ttyS0 quiet init_on_alloc=1 panic=-1 reboot=t no_timer_check nolapic_timer noreplace-smp mitigations=off";
    Command::new("qemu-system-x86_64")
        .args(["-M", "microvm,acpi=off,rtc=on,memory-backend=memory"])
        .args([
            "-accel",
            "tcg,thread=multi,tb-size=128",
            "-cpu",
            "max,-erms,-fsrm,-fsrs",
            "-m",
            "256M",
        ])
        .args(["-object", "memory-backend-memfd,id=memory,size=256M,share=on"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", append])
        .args(["-serial", "stdio"])
        .args(["-chardev", &format!("socket,id=agent,path={}", port.display())])
        .args(["-device", "virtio-serial-device,id=ports,max_ports=2"])
        .args([
            "-device",
            "virtserialport,bus=ports.0,nr=1,chardev=agent,name=org.bulkhead.agent",
        ])
        .args(["-chardev", &format!("socket,id=share,path={}", share.display())])
        .args(["-device", "vhost-user-fs-device,chardev=share,tag=share"])
        .args(["-device", "virtio-net-device,mac=02:00:00:00:00:01"])
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .spawn()
        .expect("qemu-system-x86_64 (hack/qemu installs it)")
}
