//! The system call filter of a container, built and loaded by libseccomp.

use std::collections::HashSet;

use bulkhead_agent_protocol::message::FailureKind;
use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use crate::failure::Failure;

/// Loads `filter` into this process, for good. Needs `no_new_privs` or CAP_SYS_ADMIN.
///
/// # Errors
/// `Other`, with libseccomp's reason.
pub fn install(filter: &LinuxSeccomp) -> Result<(), Failure> {
    load(filter).map_err(|error| {
        let stage = "set seccomp filter";
        Failure::new(FailureKind::Other, stage, format!("{stage}: {error}"))
    })
}

fn load(filter: &LinuxSeccomp) -> Result<(), SeccompError> {
    let default = action(filter.default_action(), filter.default_errno_ret());
    let mut context = ScmpFilterContext::new(default)?;
    for flag in filter.flags().iter().flatten() {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => context.set_ctl_log(true)?,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => context.set_ctl_tsync(true)?,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => context.set_ctl_ssb(true)?,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => context.set_ctl_waitkill(true)?,
        };
    }
    for architecture in filter.architectures().iter().flatten() {
        context.add_arch(arch(*architecture))?;
    }
    // The process sets no_new_privs itself, if its spec says so and only then.
    context.set_ctl_nnp(false)?;
    for rule in filter.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret());
        if action == default {
            // libseccomp refuses rules that change nothing.
            continue;
        }
        let arguments = rule.args().as_deref().unwrap_or_default();
        // Names that this libseccomp does not know are those of another architecture or a later kernel.
        let calls = rule
            .names()
            .iter()
            .filter_map(|name| ScmpSyscall::from_name(name).ok());
        for call in calls {
            for comparisons in comparisons(arguments) {
                context.add_rule_conditional(action, call, &comparisons)?;
            }
        }
    }
    context.load()
}

/// The rules that `arguments` make: one in which all must hold, or, where one argument is compared twice,
/// one for each comparison, of which any may hold. That is runc's reading.
fn comparisons(arguments: &[LinuxSeccompArg]) -> Vec<Vec<ScmpArgCompare>> {
    let all: Vec<ScmpArgCompare> = arguments.iter().map(comparison).collect();
    let distinct: HashSet<usize> = arguments.iter().map(LinuxSeccompArg::index).collect();
    if distinct.len() == all.len() {
        vec![all]
    } else {
        all.into_iter().map(|one| vec![one]).collect()
    }
}

fn comparison(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let operator = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            // `value` is the mask, `valueTwo` what must be left.
            let wanted = argument.value_two().unwrap_or_default();
            return ScmpArgCompare::new(
                argument.index() as u32,
                ScmpCompareOp::MaskedEqual(argument.value()),
                wanted,
            );
        }
    };
    ScmpArgCompare::new(argument.index() as u32, operator, argument.value())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    let errno = errno.map_or(libc::EPERM, |errno| errno as i32);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(errno as u16),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
    }
}

fn arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}
