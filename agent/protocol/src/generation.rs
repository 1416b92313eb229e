//! Which generation of the protocol introduced each message, and who sends it.

use crate::message::Body;

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

/// What the protocol says of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in errors and documents.
    pub name: &'static str,
    /// Who sends it.
    pub sender: Role,
    /// The first generation that has it. It is never sent to a peer of an older one.
    pub since: u32,
}

impl Role {
    /// The other side.
    pub const fn peer(self) -> Role {
        match self {
            Role::Host => Role::Guest,
            Role::Guest => Role::Host,
        }
    }
}

/// The table of messages. It has no wildcard arm, so that a new message does not compile without its line.
pub fn entry(body: &Body) -> Entry {
    let (name, sender, since) = match body {
        Body::ConfigureSandbox(_) => ("ConfigureSandbox", Role::Host, 1),
        Body::SyncClock(_) => ("SyncClock", Role::Host, 1),
        Body::CreateContainer(_) => ("CreateContainer", Role::Host, 1),
        Body::StartContainer(_) => ("StartContainer", Role::Host, 1),
        Body::Exec(_) => ("Exec", Role::Host, 1),
        Body::Kill(_) => ("Kill", Role::Host, 1),
        Body::ResizePty(_) => ("ResizePty", Role::Host, 1),
        Body::Pause(_) => ("Pause", Role::Host, 1),
        Body::Resume(_) => ("Resume", Role::Host, 1),
        Body::Update(_) => ("Update", Role::Host, 1),
        Body::Pids(_) => ("Pids", Role::Host, 1),
        Body::Delete(_) => ("Delete", Role::Host, 1),
        Body::Shutdown(_) => ("Shutdown", Role::Host, 1),
        Body::Ping(_) => ("Ping", Role::Host, 1),
        Body::ConfigureNetwork(_) => ("ConfigureNetwork", Role::Host, 1),
        Body::PrepareToBeSaved(_) => ("PrepareToBeSaved", Role::Host, 1),
        Body::Reply(_) => ("Reply", Role::Guest, 1),
        Body::Exited(_) => ("Exited", Role::Guest, 1),
        Body::Oom(_) => ("Oom", Role::Guest, 1),
        Body::Stats(_) => ("Stats", Role::Guest, 1),
        Body::Log(_) => ("Log", Role::Guest, 1),
    };
    Entry { name, sender, since }
}
