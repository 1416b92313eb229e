//! The probe itself; runs in a process of its own, which its alarm kills if the guest does not end.

use std::time::Duration;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VmFd};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use super::Verdict;

/// Turns of the loop. Natively 0.1 ms; an emulator takes at least 1.4 µs for each.
pub const ITERATIONS: u32 = 100_000;
/// What the loop may take: nested in an emulated SVM it took 12 ms, and several times that on a busy host. The
/// fastest emulator takes 280 ms for its 200 000 instructions.
pub const PATIENCE: Duration = Duration::from_millis(120);

/// The one KVM API there has ever been.
const API_VERSION: i32 = 12;
/// Without one of these QEMU's `microvm` does not run.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::Irqchip, "IRQCHIP"),
    (Cap::UserMemory, "USER_MEMORY"),
    (Cap::Irqfd, "IRQFD"),
    (Cap::Ioeventfd, "IOEVENTFD"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
    (Cap::SetTssAddr, "SET_TSS_ADDR"),
];

/// `mov`-less: the count comes in rcx. dec ecx; jnz -4; hlt.
const LOOP: [u8; 5] = [0xff, 0xc9, 0x75, 0xfc, 0xf4];
/// Where kernels live: some emulations run only low addresses fast.
const CODE_VIRTUAL: u64 = 0xffff_ffff_8000_1000;
const CODE: u64 = 0x1000;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
const PD: u64 = 0x4000;
const MEMORY: usize = 0x10_000;
/// Three pages below 4 GiB that Intel processors need for real mode, as QEMU places them.
const TSS: usize = 0xfffb_d000;

/// Page table entry bits: present, writable, and for a 2 MiB page, large.
const TABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 0b1000_0011;

/// Finds out. Blocks; the process dies of SIGALRM if the guest does not end in time.
pub fn run() -> Verdict {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            let remedy = match error.errno() {
                nix::libc::ENOENT => "Load the module: modprobe kvm_amd or kvm_intel",
                nix::libc::EACCES | nix::libc::EPERM => {
                    "Let root open it: check the device's mode and cgroup"
                }
                _ => "See the kernel's log",
            };
            return Verdict::unusable(format!("/dev/kvm cannot be opened: {error}"), remedy);
        }
    };
    if kvm.get_api_version() != API_VERSION {
        return Verdict::unusable(
            format!("KVM's API has version {}", kvm.get_api_version()),
            "Use a Linux kernel's own KVM",
        );
    }
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|(capability, _)| !kvm.check_extension(*capability))
        .map(|(_, name)| name)
        .collect();
    if !missing.is_empty() {
        return Verdict::unusable(format!("KVM lacks {}", missing.join(", ")), "Use a newer kernel");
    }
    match run_loop(&kvm) {
        Ok(took) => Verdict::usable(format!("{ITERATIONS} loops in {took:?}")),
        Err(error) => Verdict::unusable(error, "See the kernel's log for messages of kvm"),
    }
}

fn run_loop(kvm: &Kvm) -> Result<Duration, String> {
    let failed = |what: &'static str| move |error: kvm_ioctls::Error| format!("{what} failed: {error}");
    let vm = kvm.create_vm().map_err(failed("making a VM"))?;
    vm.set_tss_address(TSS).map_err(failed("placing the TSS"))?;
    let memory = memory().map_err(|error| format!("guest memory: {error}"))?;
    attach(&vm, &memory).map_err(failed("giving the VM memory"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("making a virtual CPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("reading registers"))?;
    enter_long_mode(&mut sregs);
    vcpu.set_sregs(&sregs).map_err(failed("setting registers"))?;
    let regs = kvm_regs {
        rip: CODE_VIRTUAL,
        rcx: ITERATIONS.into(),
        rflags: 2,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(failed("setting registers"))?;

    let _alarm = alarm(PATIENCE).map_err(|error| format!("setting an alarm failed: {error}"))?;
    let start = std::time::Instant::now();
    match vcpu.run().map_err(failed("running"))? {
        VcpuExit::Hlt => Ok(start.elapsed()),
        other => Err(format!("the loop ended with {other:?}")),
    }
}

fn memory() -> Result<GuestMemoryMmap, Box<dyn std::error::Error>> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])?;
    memory.write_slice(&LOOP, GuestAddress(CODE))?;
    // The last 2 GiB but one of the address space: entries 511, 510 and 0.
    memory.write_obj(PDPT | TABLE, GuestAddress(PML4 + 511 * 8))?;
    memory.write_obj(PD | TABLE, GuestAddress(PDPT + 510 * 8))?;
    memory.write_obj(LARGE_PAGE, GuestAddress(PD))?;
    Ok(memory)
}

#[allow(unsafe_code)]
fn attach(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), kvm_ioctls::Error> {
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|_| kvm_ioctls::Error::new(nix::libc::EFAULT))?;
    let region = kvm_userspace_memory_region {
        userspace_addr: host as u64,
        memory_size: MEMORY as u64,
        ..kvm_userspace_memory_region::default()
    };
    // SAFETY: `memory` maps that range, and outlives the VM: both are locals of `run_loop`, the VM's
    // descriptors made first and used last there.
    unsafe { vm.set_user_memory_region(region) }
}

fn enter_long_mode(sregs: &mut kvm_sregs) {
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 8,
        // Execute, read, accessed.
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    // Read, write, accessed.
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        l: 0,
        db: 1,
        ..code
    };
    sregs.cs = code;
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.cr3 = PML4;
    // PAE; long mode enabled and active; protection, extension type, numeric error, paging.
    sregs.cr4 |= 1 << 5;
    sregs.efer |= 1 << 8 | 1 << 10;
    sregs.cr0 = 1 | 1 << 4 | 1 << 5 | 1 << 31;
}

/// Nobody handles it: it kills, unless dropped before.
fn alarm(after: Duration) -> nix::Result<Timer> {
    let signal = SigEvent::new(SigevNotify::SigevSignal {
        signal: Signal::SIGALRM,
        si_value: 0,
    });
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, signal)?;
    timer.set(
        Expiration::OneShot(TimeSpec::from_duration(after)),
        TimerSetTimeFlags::empty(),
    )?;
    Ok(timer)
}
