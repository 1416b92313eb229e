//! The pipe that ties a helper's life to its owner's.
//!
//! The owner holds the writing end and never writes, unless to say one of the bytes below. When it dies,
//! however it dies, the kernel closes that end and the helper reads end of file.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// What an owner can say. Unknown bytes are ignored by helpers, so that the list can grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Stop watching: the helper is to outlive its owner.
    Detach = 1,
    /// Stop in order: an explicit stop, not the owner's death.
    Drain = 2,
}

impl Order {
    /// The order a byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Detach),
            2 => Some(Self::Drain),
            _ => None,
        }
    }
}

/// The owner's end.
#[derive(Debug)]
pub(super) struct Watchdog(OwnedFd);

impl Watchdog {
    /// The owner's end and the helper's end. Neither survives an exec by accident.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Self(write), read))
    }

    /// Says one byte. A helper that has gone needs no orders.
    pub(super) fn say(&self, order: Order) -> io::Result<()> {
        loop {
            match rustix::io::write(self.0.as_fd(), &[order as u8]) {
                Ok(1) | Err(Errno::PIPE) => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn orders_arrive_and_the_end_follows_the_owner() {
        let (watchdog, helper) = Watchdog::new().unwrap();
        watchdog.say(Order::Drain).unwrap();
        watchdog.say(Order::Detach).unwrap();
        drop(watchdog);
        let mut said = Vec::new();
        File::from(helper).read_to_end(&mut said).unwrap();
        let orders: Vec<_> = said.into_iter().map(Order::from_byte).collect();
        assert_eq!(orders, [Some(Order::Drain), Some(Order::Detach)]);
    }

    #[test]
    fn a_helper_that_has_gone_is_no_error() {
        let (watchdog, helper) = Watchdog::new().unwrap();
        drop(helper);
        watchdog.say(Order::Drain).unwrap();
    }

    #[test]
    fn unknown_bytes_mean_nothing() {
        assert_eq!(Order::from_byte(0), None);
        assert_eq!(Order::from_byte(3), None);
    }
}
