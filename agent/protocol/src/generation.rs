//! Which generation of the protocol introduced each message, and who sends it.

/// The highest generation this build speaks; callers put it into their `Hello`.
pub const GENERATION: u32 = 1;

/// Which side of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The shim. Chooses stream ids, sends requests.
    Host,
    /// The agent. Answers, sends events.
    Guest,
}
