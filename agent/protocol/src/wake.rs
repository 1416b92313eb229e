//! What is said on the carrier while the agent sleeps: a VM that is saved, and restored any number of times.
//!
//! A link cannot be saved: its epoch would be in every copy. So the agent ends its link, is replaced by a
//! program that does nothing but read its port, and the VM is saved then. To each copy the host first writes
//! a [`Wake`], which is all that makes it differ from the others; then both start a link as after a boot.
//!
//! ```text
//! host                                   guest
//!   PrepareToBeSaved ──▶                                     on the link
//!                          ◀── Reply{Done}                   the link ends, on both sides
//!   ARE_YOU_ASLEEP ──▶                                       until it is answered
//!                          ◀── ASLEEP
//!   (saved; restored)
//!   Wake ──▶                                                 SYNC and HELLO follow
//! ```

/// Host to guest: asks a sleeping agent to say so. What a link has left in buffers may swallow one: it is
/// repeated.
pub const ARE_YOU_ASLEEP: [u8; 8] = *b"\xa5BHSLP?\n";
/// Guest to host: the answer. From then on the guest only waits.
pub const ASLEEP: [u8; 8] = *b"\xa5BHSLP!\n";
/// Begins a [`Wake`].
const WAKE: [u8; 8] = *b"\xa5BHWAKE\n";
/// Fresh randomness that a wake brings, in bytes: the kernel's generator takes 32 to be seeded; twice that
/// costs nothing.
pub const ENTROPY: usize = 64;
/// Length of an encoded [`Wake`].
pub const WAKE_LEN: usize = WAKE.len() + size_of::<u64>() + ENTROPY;

/// Host to guest: be a VM of your own.
#[derive(Clone, PartialEq, Eq)]
pub struct Wake {
    /// Nanoseconds since the Unix epoch, now.
    pub unix_time_ns: u64,
    /// Randomness that no other VM is given.
    pub entropy: [u8; ENTROPY],
}

/// What a sleeping agent can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// [`ARE_YOU_ASLEEP`].
    AreYouAsleep,
    /// [`Wake`].
    Wake(Box<Wake>),
}

/// Finds calls in what comes from the host, between whatever else a link has left.
#[derive(Debug, Default)]
pub struct Calls {
    /// Less than a wake: what cannot begin a call is dropped.
    bytes: Vec<u8>,
}

impl Wake {
    /// As it is written.
    pub fn encode(&self) -> [u8; WAKE_LEN] {
        let mut bytes = [0; WAKE_LEN];
        let (magic, rest) = bytes.split_at_mut(WAKE.len());
        let (time, entropy) = rest.split_at_mut(size_of::<u64>());
        magic.copy_from_slice(&WAKE);
        time.copy_from_slice(&self.unix_time_ns.to_be_bytes());
        entropy.copy_from_slice(&self.entropy);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&WAKE)?;
        let (time, rest) = rest.split_first_chunk()?;
        Some(Self {
            unix_time_ns: u64::from_be_bytes(*time),
            entropy: *rest.first_chunk()?,
        })
    }
}

/// Without its randomness, which is a secret.
impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wake")
            .field("unix_time_ns", &self.unix_time_ns)
            .finish_non_exhaustive()
    }
}

impl Calls {
    /// Takes in one more byte, and gives the call that it completes.
    pub fn push(&mut self, byte: u8) -> Option<Call> {
        self.bytes.push(byte);
        while !self.bytes.is_empty() && !self.may_become_a_call() {
            self.bytes.remove(0);
        }
        let call = if self.bytes == ARE_YOU_ASLEEP {
            Call::AreYouAsleep
        } else {
            Call::Wake(Box::new(Wake::decode(&self.bytes)?))
        };
        self.bytes.clear();
        Some(call)
    }

    fn may_become_a_call(&self) -> bool {
        let magic = &self.bytes[..self.bytes.len().min(WAKE.len())];
        WAKE.starts_with(magic) || ARE_YOU_ASLEEP.starts_with(magic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake() -> Wake {
        Wake {
            unix_time_ns: 1_700_000_000_123_456_789,
            entropy: std::array::from_fn(|index| index as u8),
        }
    }

    fn calls(bytes: &[u8]) -> Vec<Call> {
        let mut calls = Calls::default();
        bytes.iter().filter_map(|byte| calls.push(*byte)).collect()
    }

    #[test]
    fn calls_are_found_between_anything_else() {
        let mut bytes = b"\xa5BULKHD\n and half a call \xa5BHSL".to_vec();
        bytes.extend_from_slice(&ARE_YOU_ASLEEP);
        bytes.extend_from_slice(&ARE_YOU_ASLEEP);
        bytes.extend_from_slice(b"\xa5BH\xa5BHWAK");
        bytes.extend_from_slice(&wake().encode());
        bytes.extend_from_slice(&ARE_YOU_ASLEEP);
        let expected = [
            Call::AreYouAsleep,
            Call::AreYouAsleep,
            Call::Wake(Box::new(wake())),
            Call::AreYouAsleep,
        ];
        assert_eq!(calls(&bytes), expected);
    }

    #[test]
    fn nothing_but_calls_is_kept() {
        let mut calls = Calls::default();
        for byte in (0..1 << 20).map(|n| (n % 251) as u8) {
            assert_eq!(calls.push(byte), None);
            assert!(calls.bytes.len() < WAKE_LEN);
        }
        assert_eq!(Calls::default().push(WAKE[0]), None);
    }

    #[test]
    fn the_randomness_of_a_wake_is_not_printed() {
        let text = format!("{:?}", wake());
        assert!(
            text.contains("1700000000123456789") && !text.contains("63"),
            "{text}"
        );
    }
}
