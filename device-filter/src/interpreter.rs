//! Runs a program as the kernel would.
#![allow(clippy::unwrap_used)] // For tests.

use crate::program::{
    AND, COPY, Instruction, JUMP_IF_EQUAL, JUMP_UNLESS_EQUAL, Kind, LOAD, RETURN, SET, SHIFT_RIGHT,
};

/// What it answers for a device.
///
/// # Panics
/// On an instruction that is never assembled.
pub fn allows(program: &[Instruction], kind: Kind, access: u32, major: u32, minor: u32) -> bool {
    let context = [(kind as u32) | access << 16, major, minor];
    let mut registers = [0_u32; 6];
    let mut at = 0;
    loop {
        let instruction = program[at];
        let to = usize::from(instruction.registers & 0xf);
        let value = instruction.immediate.cast_unsigned();
        let offset = || usize::try_from(instruction.offset).unwrap();
        at += 1;
        match instruction.code {
            LOAD => registers[to] = context[offset() / 4],
            COPY => registers[to] = registers[usize::from(instruction.registers >> 4)],
            SET => registers[to] = value,
            AND => registers[to] &= value,
            SHIFT_RIGHT => registers[to] >>= value,
            JUMP_UNLESS_EQUAL if registers[to] != value => at += offset(),
            JUMP_IF_EQUAL if registers[to] == value => at += offset(),
            JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL => {}
            RETURN => return registers[0] == 1,
            other => panic!("{other:#x}"),
        }
    }
}
