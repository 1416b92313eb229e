//! Rules as a program of the kernel's own machine, `BPF_PROG_TYPE_CGROUP_DEVICE`. Pure.
//!
//! The kernel runs it with register 1 at a `struct bpf_cgroup_dev_ctx`, and denies if it returns 0.

use super::{Access, Kind, Rule};

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    /// What to do.
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    /// Of a jump, in instructions after the next; of a load, in bytes.
    offset: i16,
    immediate: i32,
}

/// `BPF_LDX | BPF_MEM | BPF_W`
const LOAD: u8 = 0x61;
/// `BPF_ALU | BPF_MOV | BPF_X`
const COPY: u8 = 0xbc;
/// `BPF_ALU | BPF_MOV | BPF_K`
const SET: u8 = 0xb4;
/// `BPF_ALU | BPF_AND | BPF_K`
const AND: u8 = 0x54;
/// `BPF_ALU | BPF_RSH | BPF_K`
const SHIFT_RIGHT: u8 = 0x74;
/// `BPF_JMP | BPF_JNE | BPF_K`
const JUMP_UNLESS_EQUAL: u8 = 0x55;
/// `BPF_JMP | BPF_EXIT`
const RETURN: u8 = 0x95;

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

/// `BPF_DEVCG_DEV_*`
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
/// `BPF_DEVCG_ACC_*`
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Allows what one of the rules allows, in all of what is asked for.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, ACCESS_AND_KIND_AT),
        copy(ACCESS, KIND),
        immediate(AND, KIND, LOWER_HALF),
        immediate(SHIFT_RIGHT, ACCESS, HALF),
        load(MAJOR, MAJOR_AT),
        load(MINOR, MINOR_AT),
    ];
    program.extend(rules.iter().flat_map(|rule| block(*rule)));
    program.extend(answer(0));
    program
}

/// One rule: any condition that does not hold leads behind the block.
fn block(rule: Rule) -> Vec<Instruction> {
    let kind = match rule.kind {
        Kind::Character => CHARACTER,
        Kind::Block => BLOCK,
    };
    let allowed = match rule.access {
        Access::Make => MAKE,
        Access::All => MAKE | READ | WRITE,
    };
    let mut block = vec![
        immediate(JUMP_UNLESS_EQUAL, KIND, kind),
        copy(RESULT, ACCESS),
        immediate(AND, RESULT, !allowed),
        immediate(JUMP_UNLESS_EQUAL, RESULT, 0),
    ];
    if let Some((major, minor)) = rule.number {
        block.push(immediate(JUMP_UNLESS_EQUAL, MAJOR, major.cast_signed()));
        block.push(immediate(JUMP_UNLESS_EQUAL, MINOR, minor.cast_signed()));
    }
    block.extend(answer(1));
    let end = block.len();
    for (place, instruction) in block.iter_mut().enumerate() {
        if instruction.code == JUMP_UNLESS_EQUAL {
            // A block has at most eight instructions.
            instruction.offset = i16::try_from(end - place - 1).unwrap_or(i16::MAX);
        }
    }
    block
}

fn answer(verdict: i32) -> [Instruction; 2] {
    [immediate(SET, RESULT, verdict), immediate(RETURN, RESULT, 0)]
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
    use super::super::OF_A_VM;
    use super::*;

    /// Runs a program on a context, as the kernel would.
    fn run(program: &[Instruction], context: [u32; 3]) -> u32 {
        let mut registers = [0_u32; 6];
        let mut at = 0;
        loop {
            let instruction = program[at];
            let to = usize::from(instruction.registers & 0xf);
            let value = instruction.immediate.cast_unsigned();
            at += 1;
            match instruction.code {
                LOAD => registers[to] = context[usize::try_from(instruction.offset).unwrap() / 4],
                COPY => registers[to] = registers[usize::from(instruction.registers >> 4)],
                SET => registers[to] = value,
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP_UNLESS_EQUAL if registers[to] != value => {
                    at += usize::try_from(instruction.offset).unwrap();
                }
                JUMP_UNLESS_EQUAL => {}
                RETURN => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    fn allowed(kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let first = (access << HALF | kind).cast_unsigned();
        run(&assemble(&OF_A_VM), [first, major, minor]) == 1
    }

    #[test]
    fn null_and_kvm_may_be_opened_and_made() {
        for access in [MAKE, READ, WRITE, READ | WRITE, MAKE | READ | WRITE] {
            assert!(allowed(CHARACTER, access, 1, 3));
            assert!(allowed(CHARACTER, access, 10, 232));
        }
    }

    #[test]
    fn others_may_be_made_and_not_opened() {
        // /dev/mem, /dev/zero, /dev/net/tun, and disks: 8:0, and 1:3 and 10:232, which as disks are others.
        for (kind, major, minor) in [
            (CHARACTER, 1, 1),
            (CHARACTER, 1, 5),
            (CHARACTER, 10, 200),
            (CHARACTER, 3, 1),
            (BLOCK, 8, 0),
            (BLOCK, 1, 3),
            (BLOCK, 10, 232),
        ] {
            assert!(allowed(kind, MAKE, major, minor));
            for access in [READ, WRITE, READ | WRITE, MAKE | READ] {
                assert!(!allowed(kind, access, major, minor), "{kind} {major}:{minor}");
            }
        }
    }

    #[test]
    fn no_rule_allows_nothing() {
        let context = [(MAKE << HALF | CHARACTER).cast_unsigned(), 1, 3];
        assert_eq!(run(&assemble(&[]), context), 0);
    }

    #[test]
    fn an_instruction_is_what_the_kernel_takes() {
        assert_eq!(size_of::<Instruction>(), 8);
        let rule = Rule {
            kind: Kind::Block,
            number: Some((8, 0)),
            access: Access::Make,
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
        assert_eq!(block(rule), expected);
    }
}
