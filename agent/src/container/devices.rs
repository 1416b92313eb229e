//! A container's device rules as a filter program for its cgroup.
//!
//! Without one, CAP_MKNOD (which containers have by default) would reach every device of the guest: the
//! disks of other containers, memory, the port to the host. Rules are checked from the last to the first
//! and the first match decides, as in runc; nothing matching means no.
//!
//! Nearly every container asks for the same: nothing but what all have. That filter is on the cgroup above the
//! containers since the guest's boot, and what is below inherits it: having the kernel check and translate a
//! program is a sixth of a first create.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::disks::Device;
use crate::failure::Failure;

/// `BPF_DEVCG_ACC_*`, and the types beside them in `bpf_cgroup_dev_ctx.access_type`.
const ACCESS_MKNOD: u32 = 1;
const ACCESS_READ: u32 = 2;
const ACCESS_WRITE: u32 = 4;
const ACCESS_ALL: u32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;
const TYPE_BLOCK: u32 = 1;
const TYPE_CHAR: u32 = 2;

/// Most rules accepted; real specs have some twenty.
const MAX_RULES: usize = 256;

/// Registers: r1 is the context when the program starts, r0 the verdict when it ends.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Operation codes, as in the kernel's `bpf.h` and `bpf_common.h`.
const LOAD_WORD: u8 = 0x61;
const AND_CONST: u8 = 0x54;
const SHIFT_RIGHT_CONST: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_CONST: u8 = 0xb7;
const JUMP_NOT_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// What a container's cgroup needs.
#[derive(Debug, PartialEq)]
pub enum Filter {
    /// Nothing: [`standard`] is on the cgroup above.
    Inherited,
    /// A program of its own, which takes the place of the one above.
    Own(Vec<u64>),
}

impl Filter {
    /// The program itself, for a cgroup that may have another one.
    pub fn into_program(self) -> Vec<u64> {
        match self {
            Self::Inherited => standard(),
            Self::Own(program) => program,
        }
    }
}

/// The rule that lets a container do with a block device what the host says.
pub fn rule_for(device: &Device) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(Some(LinuxDeviceType::B));
    rule.set_major(Some(device.major.into()));
    rule.set_minor(Some(device.minor.into()));
    rule.set_access(Some(device.access.clone()));
    rule
}

/// The program that allows what every container has, and nothing else.
pub fn standard() -> Vec<u64> {
    compile(&[])
}

/// The filter for `rules`; the devices every container may use are allowed in any case, as in runc.
///
/// # Errors
/// `InvalidArgument` for a rule that cannot be read.
pub fn filter(rules: &[LinuxDeviceCgroup]) -> Result<Filter, Failure> {
    if rules.len() > MAX_RULES {
        return Err(Failure::invalid(format!(
            "resources.devices: more than {MAX_RULES} rules"
        )));
    }
    let mut rules: Vec<Rule> = rules.iter().map(Rule::parse).collect::<Result<_, _>>()?;
    rules.retain(|rule| !rule.is_about_the_console());
    let always = always_allowed();
    let adds_nothing = |rule: &Rule| match rule.allow {
        true => always.iter().any(|other| other.covers(rule)),
        // Everything, which is refused anyway, and before any rule that allows something.
        false => rule.matches_everything(),
    };
    if rules.iter().all(adds_nothing) {
        return Ok(Filter::Inherited);
    }
    Ok(Filter::Own(compile(&rules)))
}

fn compile(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        instruction(AND_CONST, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_CONST, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in always_allowed() {
        rule.append_to(&mut program);
    }
    for rule in rules.iter().rev() {
        rule.append_to(&mut program);
        if rule.matches_everything() {
            // The kernel refuses programs with instructions that cannot be reached.
            return program;
        }
    }
    verdict(&mut program, false);
    program
}

/// One rule; `None` matches everything.
#[derive(Debug, Clone, Copy)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    access: u32,
    major: Option<i32>,
    minor: Option<i32>,
}

impl Rule {
    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self, Failure> {
        let number = |name: &str, number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => i32::try_from(number)
                .ok()
                .filter(|number| *number >= 0)
                .map(Some)
                .ok_or_else(|| Failure::invalid(format!("resources.devices: {name} {number}"))),
        };
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::B) => Some(TYPE_BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(TYPE_CHAR),
            Some(LinuxDeviceType::P) => {
                return Err(Failure::invalid("resources.devices: a fifo is no device"));
            }
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => ACCESS_READ,
                'w' => ACCESS_WRITE,
                'm' => ACCESS_MKNOD,
                _ => return Err(Failure::invalid(format!("resources.devices: access {letter:?}"))),
            };
        }
        let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
        Ok(Self {
            allow: rule.allow(),
            kind,
            access,
            major,
            minor,
        })
    }

    fn matches_everything(&self) -> bool {
        self.kind.is_none() && self.access == ACCESS_ALL && self.major.is_none() && self.minor.is_none()
    }

    /// Whatever `other` matches, this one matches.
    fn covers(&self, other: &Self) -> bool {
        let within = |wide: Option<i32>, narrow: Option<i32>| wide.is_none() || wide == narrow;
        (self.kind.is_none() || self.kind == other.kind)
            && other.access & !self.access == 0
            && within(self.major, other.major)
            && within(self.minor, other.minor)
    }

    /// It allows character device 5:1, as the lists of most clients do for the sake of /dev/console. In a
    /// container that is one of its own terminals; 5:1 itself is the console of the VM, which is none of its
    /// business.
    fn is_about_the_console(&self) -> bool {
        self.allow && (self.kind, self.major, self.minor) == (Some(TYPE_CHAR), Some(5), Some(1))
    }

    /// Appends: unless everything matches, jump past the verdict.
    fn append_to(&self, program: &mut Vec<u64>) {
        let mut tests = Vec::new();
        if let Some(kind) = self.kind {
            tests.push(vec![jump_unless_equal(TYPE, kind as i32)]);
        }
        if self.access != ACCESS_ALL {
            // Allowing needs all that is asked for to be in the rule; denying, any of it.
            let (mask, expected_zero) = if self.allow {
                (!self.access, true)
            } else {
                (self.access, false)
            };
            let copy = instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0);
            let and = instruction(AND_CONST, SCRATCH, 0, 0, (mask & ACCESS_ALL) as i32);
            let jump = if expected_zero {
                jump_unless_equal(SCRATCH, 0)
            } else {
                jump_if_zero(SCRATCH)
            };
            tests.push(vec![copy, and, jump]);
        }
        for (register, number) in [(MAJOR, self.major), (MINOR, self.minor)] {
            if let Some(number) = number {
                tests.push(vec![jump_unless_equal(register, number)]);
            }
        }
        let tests: Vec<u64> = tests.concat();
        let count = tests.len();
        for (index, test) in tests.into_iter().enumerate() {
            // From the test's successor over the remaining tests and the verdict.
            let distance = (count - index - 1 + VERDICT_LENGTH) as u64;
            program.push(if is_jump(test) {
                test | distance << 16
            } else {
                test
            });
        }
        verdict(program, self.allow);
    }
}

/// Devices that every container has (null, zero, full, random, urandom, tty, ptmx, its terminals), and
/// making device nodes of any sort, which without access to them is harmless.
fn always_allowed() -> Vec<Rule> {
    let rule = |access, major: Option<i32>, minor| Rule {
        allow: true,
        kind: major.map(|_| TYPE_CHAR),
        access,
        major,
        minor,
    };
    let mut rules = vec![rule(ACCESS_MKNOD, None, None), rule(ACCESS_ALL, Some(136), None)];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(ACCESS_ALL, Some(major), Some(minor)));
    }
    rules
}

/// Instructions of a verdict.
const VERDICT_LENGTH: usize = 2;

fn verdict(program: &mut Vec<u64>, allow: bool) {
    program.push(instruction(MOVE_CONST, VERDICT, 0, 0, i32::from(allow)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
}

fn instruction(operation: u8, target: u8, source: u8, offset: i16, constant: i32) -> u64 {
    u64::from(operation)
        | u64::from(target | source << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(constant as u32) << 32
}

fn jump_unless_equal(register: u8, constant: i32) -> u64 {
    instruction(JUMP_NOT_EQUAL, register, 0, 0, constant)
}

/// `BPF_JMP32 | BPF_JEQ`.
const JUMP_EQUAL: u8 = 0x16;

fn jump_if_zero(register: u8) -> u64 {
    instruction(JUMP_EQUAL, register, 0, 0, 0)
}

fn is_jump(instruction: u64) -> bool {
    matches!(instruction as u8, JUMP_NOT_EQUAL | JUMP_EQUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allows(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let code = program[at];
            let (target, source) = ((code >> 8 & 15) as usize, (code >> 12 & 15) as usize);
            let (offset, constant) = ((code >> 16) as i16, (code >> 32) as u32);
            match code as u8 {
                LOAD_WORD => registers[target] = context[offset as usize / 4].into(),
                MOVE_REGISTER => registers[target] = registers[source],
                AND_CONST => registers[target] &= u64::from(constant),
                SHIFT_RIGHT_CONST => registers[target] >>= constant,
                MOVE_CONST => registers[target] = constant.into(),
                JUMP_NOT_EQUAL if registers[target] != u64::from(constant) => at += offset as usize,
                JUMP_EQUAL if registers[target] == u64::from(constant) => at += offset as usize,
                JUMP_NOT_EQUAL | JUMP_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
            at += 1;
        }
    }

    fn from(json: &str) -> Vec<u64> {
        filter(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
            .unwrap()
            .into_program()
    }

    #[test]
    fn what_every_container_has_needs_no_filter_of_its_own() {
        let of = |json| filter(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap()).unwrap();
        let usual = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
            {"allow":true,"type":"c","major":5,"minor":1,"access":"rwm"},{"allow":true,"type":"c","major":136,"access":"rwm"}]"#;
        for json in ["[]", r#"[{"allow":false,"access":"rwm"}]"#, usual] {
            assert_eq!(of(json), Filter::Inherited, "{json}");
        }
        let fuse = r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"}]"#;
        let without_null = r#"[{"allow":false,"type":"c","major":1,"minor":3,"access":"w"}]"#;
        for json in [fuse, without_null, r#"[{"allow":true,"access":"rwm"}]"#] {
            assert!(matches!(of(json), Filter::Own(_)), "{json}");
        }
    }

    #[test]
    fn the_usual_devices_work_and_disks_do_not() {
        let program = from(r#"[{"allow":false,"access":"rwm"}]"#);
        assert!(allows(&program, TYPE_CHAR, ACCESS_READ | ACCESS_WRITE, 1, 3));
        assert!(allows(&program, TYPE_CHAR, ACCESS_READ, 136, 9));
        assert!(allows(&program, TYPE_BLOCK, ACCESS_MKNOD, 8, 0));
        assert!(!allows(&program, TYPE_BLOCK, ACCESS_READ, 8, 0));
        assert!(!allows(&program, TYPE_CHAR, ACCESS_READ, 1, 1));
    }

    #[test]
    fn later_rules_override_earlier_ones() {
        let program = from(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":16,"access":"rm"},
                {"allow":true,"type":"c","major":10,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":200,"access":"w"}]"#,
        );
        assert!(allows(&program, TYPE_BLOCK, ACCESS_READ, 8, 16));
        assert!(!allows(&program, TYPE_BLOCK, ACCESS_READ | ACCESS_WRITE, 8, 16));
        assert!(!allows(&program, TYPE_CHAR, ACCESS_READ, 8, 16));
        assert!(allows(&program, TYPE_CHAR, ACCESS_READ | ACCESS_WRITE, 10, 229));
        assert!(allows(&program, TYPE_CHAR, ACCESS_READ, 10, 200));
        assert!(!allows(&program, TYPE_CHAR, ACCESS_READ | ACCESS_WRITE, 10, 200));
    }

    #[test]
    fn privileged_means_everything_and_no_rules_nothing() {
        let everything = from(r#"[{"allow":true,"access":"rwm"}]"#);
        assert!(allows(&everything, TYPE_BLOCK, ACCESS_ALL, 8, 0));
        // A verdict that nothing can pass by is the last instruction.
        assert_eq!(
            everything.last(),
            from(r#"[{"allow":false},{"allow":true}]"#).last()
        );
        assert_eq!(
            everything.len(),
            from(r#"[{"allow":false},{"allow":true}]"#).len()
        );
        assert!(!allows(&from("[]"), TYPE_BLOCK, ACCESS_READ, 8, 0));
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [r#"[{"access":"x"}]"#, r#"[{"major":-2}]"#, r#"[{"type":"p"}]"#] {
            let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
            assert!(filter(&rules).is_err(), "{json}");
        }
    }
}
