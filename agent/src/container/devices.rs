//! A container's device rules as a filter program for its cgroup.
//!
//! Without one, CAP_MKNOD (which containers have by default) would reach every device of the guest: the
//! disks of other containers, memory, the port to the host. Rules are checked from the last to the first
//! and the first match decides, as in runc; nothing matching means no.
//!
//! Nearly every container asks for the same: nothing but what all have. That filter is on the cgroup above the
//! containers since the guest's boot, and what is below inherits it: having the kernel check and translate a
//! program is a sixth of a first create.

use bulkhead_device_filter::{Instruction, Kind, Rule, access, assemble};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::disks::Device;
use crate::failure::Failure;

/// Most rules accepted; real specs have some twenty.
const MAX_RULES: usize = 256;

/// What a container's cgroup needs.
#[derive(Debug, PartialEq)]
pub enum Filter {
    /// Nothing: [`standard`] is on the cgroup above.
    Inherited,
    /// A program of its own, which takes the place of the one above.
    Own(Vec<Instruction>),
}

impl Filter {
    /// The program itself, for a cgroup that may have another one.
    pub fn into_program(self) -> Vec<Instruction> {
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
pub fn standard() -> Vec<Instruction> {
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
    let mut rules: Vec<Rule> = rules.iter().map(parse).collect::<Result<_, _>>()?;
    rules.retain(|rule| !is_about_the_console(rule));
    let always = always_allowed();
    let adds_nothing = |rule: &Rule| match rule.allow {
        true => always.iter().any(|other| covers(other, rule)),
        // Everything, which is refused anyway, and before any rule that allows something.
        false => rule.matches_everything(),
    };
    if rules.iter().all(adds_nothing) {
        return Ok(Filter::Inherited);
    }
    Ok(Filter::Own(compile(&rules)))
}

fn compile(rules: &[Rule]) -> Vec<Instruction> {
    assemble(always_allowed().iter().chain(rules.iter().rev()))
}

fn parse(rule: &LinuxDeviceCgroup) -> Result<Rule, Failure> {
    let number = |name: &str, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| Failure::invalid(format!("resources.devices: {name} {number}"))),
    };
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Kind::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Character),
        Some(LinuxDeviceType::P) => {
            return Err(Failure::invalid("resources.devices: a fifo is no device"));
        }
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => access::READ,
            'w' => access::WRITE,
            'm' => access::MAKE,
            _ => return Err(Failure::invalid(format!("resources.devices: access {letter:?}"))),
        };
    }
    let (major, minor) = (number("major", rule.major())?, number("minor", rule.minor())?);
    Ok(Rule {
        allow: rule.allow(),
        kind,
        access,
        major,
        minor,
    })
}

/// Whether `wide` matches whatever `narrow` matches.
fn covers(wide: &Rule, narrow: &Rule) -> bool {
    let within = |wide: Option<u32>, narrow: Option<u32>| wide.is_none() || wide == narrow;
    (wide.kind.is_none() || wide.kind == narrow.kind)
        && narrow.access & !wide.access == 0
        && within(wide.major, narrow.major)
        && within(wide.minor, narrow.minor)
}

/// It allows character device 5:1, as the lists of most clients do for the sake of /dev/console. In a
/// container that is one of its own terminals; 5:1 itself is the console of the VM, which is none of its
/// business.
fn is_about_the_console(rule: &Rule) -> bool {
    rule.allow && (rule.kind, rule.major, rule.minor) == (Some(Kind::Character), Some(5), Some(1))
}

/// Devices that every container has (null, zero, full, random, urandom, tty, ptmx, its terminals), and
/// making device nodes of any sort, which without access to them is harmless.
fn always_allowed() -> Vec<Rule> {
    let rule = |access, major: Option<u32>, minor| Rule {
        allow: true,
        kind: major.map(|_| Kind::Character),
        access,
        major,
        minor,
    };
    let mut rules = vec![rule(access::MAKE, None, None), rule(access::ALL, Some(136), None)];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(access::ALL, Some(major), Some(minor)));
    }
    rules
}

#[cfg(test)]
mod tests {
    use bulkhead_device_filter::allows;

    use super::*;

    fn from(json: &str) -> Vec<Instruction> {
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
        assert!(allows(
            &program,
            Kind::Character,
            access::READ | access::WRITE,
            1,
            3
        ));
        assert!(allows(&program, Kind::Character, access::READ, 136, 9));
        assert!(allows(&program, Kind::Block, access::MAKE, 8, 0));
        assert!(!allows(&program, Kind::Block, access::READ, 8, 0));
        assert!(!allows(&program, Kind::Character, access::READ, 1, 1));
    }

    #[test]
    fn later_rules_override_earlier_ones() {
        let program = from(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":16,"access":"rm"},
                {"allow":true,"type":"c","major":10,"access":"rwm"},{"allow":false,"type":"c","major":10,"minor":200,"access":"w"}]"#,
        );
        assert!(allows(&program, Kind::Block, access::READ, 8, 16));
        assert!(!allows(
            &program,
            Kind::Block,
            access::READ | access::WRITE,
            8,
            16
        ));
        assert!(!allows(&program, Kind::Character, access::READ, 8, 16));
        assert!(allows(
            &program,
            Kind::Character,
            access::READ | access::WRITE,
            10,
            229
        ));
        assert!(allows(&program, Kind::Character, access::READ, 10, 200));
        assert!(!allows(
            &program,
            Kind::Character,
            access::READ | access::WRITE,
            10,
            200
        ));
    }

    #[test]
    fn privileged_means_everything_and_no_rules_nothing() {
        let everything = from(r#"[{"allow":true,"access":"rwm"}]"#);
        assert!(allows(&everything, Kind::Block, access::ALL, 8, 0));
        // A verdict that nothing can pass by is the last instruction.
        assert_eq!(
            everything.last(),
            from(r#"[{"allow":false},{"allow":true}]"#).last()
        );
        assert_eq!(
            everything.len(),
            from(r#"[{"allow":false},{"allow":true}]"#).len()
        );
        assert!(!allows(&from("[]"), Kind::Block, access::READ, 8, 0));
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [r#"[{"access":"x"}]"#, r#"[{"major":-2}]"#, r#"[{"type":"p"}]"#] {
            let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
            assert!(filter(&rules).is_err(), "{json}");
        }
    }
}
