//! Rules as a program of the kernel's own machine, `BPF_PROG_TYPE_CGROUP_DEVICE`. Pure.
//!
//! The kernel runs it with register 1 at a `struct bpf_cgroup_dev_ctx`, and denies if it returns 0.

/// What may be asked for: `BPF_DEVCG_ACC_*`.
pub mod access {
    /// To make a node.
    pub const MAKE: u32 = 1;
    /// To open it for reading.
    pub const READ: u32 = 2;
    /// To open it for writing.
    pub const WRITE: u32 = 4;
    /// All of it.
    pub const ALL: u32 = MAKE | READ | WRITE;
}

/// What sort of node: `BPF_DEVCG_DEV_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// `S_IFBLK`.
    Block = 1,
    /// `S_IFCHR`.
    Character = 2,
}

/// What some devices are answered. `None` matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Yes or no.
    pub allow: bool,
    /// Which sort of node.
    pub kind: Option<Kind>,
    /// Some of [`access`]. Allowing needs all that is asked for to be among it; denying, any of it.
    pub access: u32,
    /// The device's major number, at most `i32::MAX`.
    pub major: Option<u32>,
    /// The same of its minor number.
    pub minor: Option<u32>,
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub(crate) code: u8,
    /// Destination in the lower half, source in the upper.
    pub(crate) registers: u8,
    /// Of a jump, in instructions after the next; of a load, in bytes.
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// `BPF_LDX | BPF_MEM | BPF_W`
pub(crate) const LOAD: u8 = 0x61;
/// `BPF_ALU | BPF_MOV | BPF_X`
pub(crate) const COPY: u8 = 0xbc;
/// `BPF_ALU | BPF_MOV | BPF_K`
pub(crate) const SET: u8 = 0xb4;
/// `BPF_ALU | BPF_AND | BPF_K`
pub(crate) const AND: u8 = 0x54;
/// `BPF_ALU | BPF_RSH | BPF_K`
pub(crate) const SHIFT_RIGHT: u8 = 0x74;
/// `BPF_JMP | BPF_JNE | BPF_K`
pub(crate) const JUMP_UNLESS_EQUAL: u8 = 0x55;
/// `BPF_JMP | BPF_JEQ | BPF_K`
pub(crate) const JUMP_IF_EQUAL: u8 = 0x15;
/// `BPF_JMP | BPF_EXIT`
pub(crate) const RETURN: u8 = 0x95;

/// Result, and scratch until then.
const RESULT: u8 = 0;
/// Where the context is.
const CONTEXT: u8 = 1;
/// What is asked for, unpacked.
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Offsets within the context. Access is in the upper half of the first word, kind in the lower.
const ACCESS_AND_KIND_AT: i16 = 0;
const MAJOR_AT: i16 = 4;
const MINOR_AT: i16 = 8;
const HALF: i32 = 16;
const LOWER_HALF: i32 = 0xffff;

impl Rule {
    /// Whether no rule after this one is ever asked.
    pub fn matches_everything(&self) -> bool {
        self.kind.is_none() && self.access == access::ALL && self.major.is_none() && self.minor.is_none()
    }

    /// Any condition that does not hold leads behind it.
    fn block(&self) -> Vec<Instruction> {
        let mut block = Vec::new();
        if let Some(kind) = self.kind {
            block.push(immediate(JUMP_UNLESS_EQUAL, KIND, kind as i32));
        }
        if self.access != access::ALL {
            let (of_interest, jump) = if self.allow {
                (!self.access, JUMP_UNLESS_EQUAL)
            } else {
                (self.access, JUMP_IF_EQUAL)
            };
            block.push(copy(RESULT, ACCESS));
            block.push(immediate(AND, RESULT, of_interest.cast_signed()));
            block.push(immediate(jump, RESULT, 0));
        }
        for (register, number) in [(MAJOR, self.major), (MINOR, self.minor)] {
            block.extend(number.map(|number| immediate(JUMP_UNLESS_EQUAL, register, number.cast_signed())));
        }
        block.extend(answer(self.allow));
        let end = block.len();
        for (place, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL) {
                // A block has at most eight instructions.
                instruction.offset = i16::try_from(end - place - 1).unwrap_or(i16::MAX);
            }
        }
        block
    }
}

/// The first rule that matches decides; where none does, the answer is no.
pub fn assemble<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, ACCESS_AND_KIND_AT),
        copy(ACCESS, KIND),
        immediate(AND, KIND, LOWER_HALF),
        immediate(SHIFT_RIGHT, ACCESS, HALF),
        load(MAJOR, MAJOR_AT),
        load(MINOR, MINOR_AT),
    ];
    for rule in rules {
        program.extend(rule.block());
        if rule.matches_everything() {
            // The kernel refuses programs with instructions that cannot be reached.
            return program;
        }
    }
    program.extend(answer(false));
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        immediate(SET, RESULT, i32::from(allow)),
        immediate(RETURN, RESULT, 0),
    ]
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: LOAD,
        registers: CONTEXT << 4 | register,
        offset,
        immediate: 0,
    }
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction {
        code: COPY,
        registers: from << 4 | to,
        offset: 0,
        immediate: 0,
    }
}

fn immediate(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allows;

    #[test]
    fn no_rule_allows_nothing() {
        assert!(!allows(&assemble(&[]), Kind::Character, access::MAKE, 1, 3));
    }

    #[test]
    fn an_instruction_is_what_the_kernel_takes() {
        assert_eq!(size_of::<Instruction>(), 8);
        let rule = Rule {
            allow: true,
            kind: Some(Kind::Block),
            access: access::MAKE,
            major: Some(8),
            minor: Some(0),
        };
        let expected = [
            // if kind != 1 goto end
            (0x55, 2, 7, 1),
            // w0 = access; w0 &= ~1; if r0 != 0 goto end
            (0xbc, 0x30, 0, 0),
            (0x54, 0, 0, -2),
            (0x55, 0, 4, 0),
            // if major != 8 goto end; if minor != 0 goto end
            (0x55, 4, 3, 8),
            (0x55, 5, 2, 0),
            // return 1
            (0xb4, 0, 0, 1),
            (0x95, 0, 0, 0),
        ]
        .map(|(code, registers, offset, immediate)| Instruction {
            code,
            registers,
            offset,
            immediate,
        });
        assert_eq!(rule.block(), expected);
    }
}
