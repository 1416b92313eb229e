//! QEMU's command line, as a pure function.
//!
//! Nothing in it says whose VM it is: identity, network and mounts reach the guest as messages. Only memory,
//! processors and the accelerator differ between two sandboxes.

use std::ffi::OsString;
use std::path::Path;

use super::parent::{AGENT_FD, QMP_FD, SHARE_FD, TAP_FD};
use crate::vmm::{AGENT_PORT, Accelerator, SHARE_TAG};

/// The NIC's address until the agent gives it the pod's own: locally administered.
const PLACEHOLDER_MAC: &str = "02:00:00:00:00:01";
/// Most translated code that QEMU keeps, in MiB; it takes memory as it fills. A boot fills 33, a first container
/// 12 more, and at the limit QEMU throws all of it away and begins anew: with 32 the first CreateContainer did
/// that, and took 1.6 times as long. QEMU's own default is 1 GiB.
const TRANSLATION_CACHE_MIB: u32 = 128;
/// Requests the share's queue holds: what one `readdir` and a few readers have in flight.
const SHARE_QUEUE: u32 = 1024;

/// What the command line depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine<'a> {
    /// QEMU.
    pub program: &'a Path,
    /// Guest kernel.
    pub kernel: &'a Path,
    /// Guest initramfs.
    pub initramfs: &'a Path,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// The host's time stamp counter's frequency, where it is steady. Only translation uses it.
    pub tsc_khz: Option<u32>,
    /// Whether the share is connected.
    pub share: bool,
    /// Whether the NIC is connected.
    pub tap: bool,
}

/// QEMU and its arguments.
pub fn command_line(machine: &Machine<'_>) -> Vec<OsString> {
    let mut line = vec![machine.program.into()];
    let mut add = |option: &str, value: String| line.extend([OsString::from(option), OsString::from(value)]);

    // `acpi=off`: with it the guest needs another driver for each device, and some boots stay silent.
    // The clock chips: the kernel polls a missing CMOS for a second and calibrates by the PIT, unless KVM
    // gives it a clock of its own.
    let (accelerator, processor, chips) = match machine.accelerator {
        Accelerator::Kvm => ("kvm".to_owned(), "host", "rtc=off,pit=off,pic=off"),
        Accelerator::Tcg => (
            format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"),
            // With these the guest copies and zeroes memory by `rep movsb` and `rep stosb`, of which the translator
            // runs one iteration per byte: output of containers is then three times as expensive, a fresh page ten
            // times.
            "max,-erms,-fsrm,-fsrs",
            "rtc=on,pit=on,pic=on",
        ),
    };
    // The guest's memory is in no core dump, and never merged with another guest's: the time of a write would
    // tell that other one what is in it.
    let secrets = "dump-guest-core=off,mem-merge=off";
    add(
        "-M",
        format!("microvm,acpi=off,{chips},{secrets},memory-backend=memory"),
    );
    add("-accel", accelerator);
    add("-cpu", processor.to_owned());
    add("-smp", machine.vcpus.to_string());
    add("-m", format!("{}M", machine.memory_mib));
    // Shared, because the file-sharing server reads and writes it.
    add(
        "-object",
        format!(
            "memory-backend-memfd,id=memory,size={}M,share=on,seal=on",
            machine.memory_mib
        ),
    );

    add("-kernel", option_value(machine.kernel));
    add("-initrd", option_value(machine.initramfs));
    add("-append", kernel_command_line(machine));

    add("-chardev", "stdio,id=console,signal=off".to_owned());
    add("-serial", "chardev:console".to_owned());
    add("-chardev", format!("socket,id=qmp,fd={QMP_FD}"));
    add("-mon", "chardev=qmp,mode=control".to_owned());

    add("-chardev", format!("socket,id=agent,fd={AGENT_FD}"));
    add("-device", "virtio-serial-device,id=ports,max_ports=2".to_owned());
    add(
        "-device",
        format!("virtserialport,bus=ports.0,nr=1,chardev=agent,name={AGENT_PORT}"),
    );
    if machine.share {
        add("-chardev", format!("socket,id=share,fd={SHARE_FD}"));
        let share = format!("vhost-user-fs-device,chardev=share,tag={SHARE_TAG},queue-size={SHARE_QUEUE}");
        add("-device", share);
    }
    let mut nic = format!("virtio-net-device,mac={PLACEHOLDER_MAC}");
    if machine.tap {
        add("-netdev", format!("tap,id=net,fd={TAP_FD}"));
        nic.push_str(",netdev=net");
    }
    add("-device", nic);
    // Without notices to the guest: its agent is told of the disks that come and go, and looks for them then.
    add("-device", "virtio-scsi-device,id=scsi,hotplug=off".to_owned());
    add(
        "-device",
        "virtio-balloon-device,free-page-reporting=on".to_owned(),
    );

    // The guest has no power switch: it ends by resetting itself, and QEMU with it.
    line.extend(["-no-reboot", "-nodefaults", "-no-user-config"].map(OsString::from));
    line.extend(["-display", "none"].map(OsString::from));
    line.extend(["-sandbox", SANDBOX].map(OsString::from));
    line
}

/// QEMU's own system call filter: no programs, no privileges, no scheduling, nothing obsolete.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The guest kernel's command line.
///
/// Under KVM the kernel finds its own way. Under translation it is told what it would otherwise take half a
/// second to find out: no timer check, no LAPIC timer to calibrate (the PIT serves), no patching of SMP
/// instructions, no mitigations (which protect nothing in an emulator), and the frequency of the counter.
///
/// And it zeroes each page it hands out. The file-sharing server writes into the guest's memory behind the
/// translator's back, which then goes on running what it once translated from that page, and processes die
/// of random signals: a page has to be written by the guest itself between two uses.
pub fn kernel_command_line(machine: &Machine<'_>) -> String {
    // No disk is there at boot, and looking for 256 of them costs 60 ms; those that come later are announced.
    // Nor is an interface, of which the kernel would make one by itself. A kernel that has erred once ends, rather
    // than go on as whoever made it err.
    let mut line = String::from(
        "console=ttyS0 quiet panic=-1 oops=panic reboot=t scsi_mod.scan=manual dummy.numdummies=0",
    );
    if machine.accelerator == Accelerator::Tcg {
        line.push_str(" no_timer_check nolapic_timer noreplace-smp mitigations=off init_on_alloc=1");
        if let Some(khz) = machine.tsc_khz {
            // Calibration by the PIT fails now and then on a busy host, and leaves a clock of 10 ms steps.
            line.push_str(&format!(" tsc=reliable tsc_early_khz={khz}"));
        }
    }
    line
}

/// `-kernel` and `-initrd` take plain paths; anything not UTF-8 is replaced, and then not found.
fn option_value(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(accelerator: Accelerator) -> Machine<'static> {
        Machine {
            program: Path::new("/usr/bin/qemu-system-x86_64"),
            kernel: Path::new("/k/vmlinux"),
            initramfs: Path::new("/k/initramfs.cpio"),
            accelerator,
            vcpus: 2,
            memory_mib: 512,
            tsc_khz: Some(2_596_156),
            share: true,
            tap: true,
        }
    }

    fn text(machine: &Machine<'_>) -> String {
        command_line(machine)
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_whole_line_under_translation() {
        let expected = "/usr/bin/qemu-system-x86_64 \
            -M microvm,acpi=off,rtc=on,pit=on,pic=on,dump-guest-core=off,mem-merge=off,memory-backend=memory \
            -accel tcg,thread=multi,tb-size=128 -cpu max,-erms,-fsrm,-fsrs -smp 2 -m 512M \
            -object memory-backend-memfd,id=memory,size=512M,share=on,seal=on \
            -kernel /k/vmlinux -initrd /k/initramfs.cpio \
            -append console=ttyS0 quiet panic=-1 oops=panic reboot=t scsi_mod.scan=manual dummy.numdummies=0 \
            no_timer_check nolapic_timer noreplace-smp mitigations=off init_on_alloc=1 \
            tsc=reliable tsc_early_khz=2596156 \
            -chardev stdio,id=console,signal=off -serial chardev:console \
            -chardev socket,id=qmp,fd=7 -mon chardev=qmp,mode=control \
            -chardev socket,id=agent,fd=8 -device virtio-serial-device,id=ports,max_ports=2 \
            -device virtserialport,bus=ports.0,nr=1,chardev=agent,name=org.bulkhead.agent \
            -chardev socket,id=share,fd=9 \
            -device vhost-user-fs-device,chardev=share,tag=share,queue-size=1024 \
            -netdev tap,id=net,fd=10 -device virtio-net-device,mac=02:00:00:00:00:01,netdev=net \
            -device virtio-scsi-device,id=scsi,hotplug=off -device virtio-balloon-device,free-page-reporting=on \
            -no-reboot -nodefaults -no-user-config -display none \
            -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        assert_eq!(text(&machine(Accelerator::Tcg)), expected);
    }

    #[test]
    fn kvm_needs_no_chips_and_no_hints() {
        let line = text(&machine(Accelerator::Kvm));
        assert!(line.contains("-M microvm,acpi=off,rtc=off,pit=off,pic=off,"));
        assert!(line.contains("-accel kvm -cpu host"));
        assert!(line.contains(
            "-append console=ttyS0 quiet panic=-1 oops=panic reboot=t scsi_mod.scan=manual dummy.numdummies=0 -chardev"
        ));
    }

    #[test]
    fn an_unsteady_counter_is_not_relied_on() {
        let line = text(&Machine {
            tsc_khz: None,
            ..machine(Accelerator::Tcg)
        });
        assert!(!line.contains("tsc"));
    }

    #[test]
    fn devices_stay_when_they_are_connected_to_nothing() {
        let line = text(&Machine {
            tap: false,
            ..machine(Accelerator::Tcg)
        });
        assert!(line.contains("-device virtio-net-device,mac=02:00:00:00:00:01 "));
        assert!(!line.contains("netdev="));
    }

    #[test]
    fn sandboxes_of_one_class_have_the_same_line() {
        assert_eq!(
            command_line(&machine(Accelerator::Tcg)),
            command_line(&machine(Accelerator::Tcg))
        );
    }
}
