//! Events that containerd has not taken yet. Pure.

use std::collections::VecDeque;
use std::time::SystemTime;

/// Most events that are kept while containerd is away. One takes some 200 bytes.
pub const CAPACITY: usize = 4096;

/// An event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// containerd's topic, `/tasks/…`.
    pub topic: &'static str,
    /// Name of the message.
    pub type_url: String,
    /// The message, encoded.
    pub value: Vec<u8>,
    /// When it happened.
    pub at: SystemTime,
    /// Never dropped while any other event can be: clients wait for exits.
    pub precious: bool,
}

/// First in, first out.
#[derive(Debug, Default)]
pub struct Queue {
    events: VecDeque<Event>,
    dropped: u64,
}

impl Queue {
    /// Adds an event; if there is no room, the oldest one that is not precious is dropped, or if all are,
    /// the oldest.
    pub fn push(&mut self, event: Event) {
        if self.events.len() >= CAPACITY {
            let oldest = self.events.iter().position(|event| !event.precious).unwrap_or(0);
            self.events.remove(oldest);
            self.dropped += 1;
        }
        self.events.push_back(event);
    }

    /// Takes the next event out.
    pub fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many have been dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize, precious: bool) -> Event {
        let topic = "/tasks/exit";
        Event {
            topic,
            type_url: number.to_string(),
            value: vec![],
            at: SystemTime::UNIX_EPOCH,
            precious,
        }
    }

    #[test]
    fn exits_outlast_other_events() {
        let mut queue = Queue::default();
        queue.push(event(0, true));
        queue.push(event(1, false));
        for number in 2..CAPACITY + 2 {
            queue.push(event(number, true));
        }
        assert_eq!(
            queue.take_dropped(),
            2,
            "the one that is not precious, then the oldest"
        );
        assert_eq!(queue.take_dropped(), 0);
        assert_eq!(queue.pop().unwrap().type_url, "2");
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), CAPACITY - 1);
    }
}
