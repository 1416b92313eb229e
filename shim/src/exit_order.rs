//! When the exit of a container's init may be told: after those of its execs. Pure.
//!
//! The kernel of the guest kills what is left of a container when its init ends, but the news of it may
//! come in any order.

use crate::process_state::Exit;

/// Holds back the exit of one init.
#[derive(Debug, Default)]
pub struct ExitOrder {
    held: Option<Exit>,
}

impl ExitOrder {
    /// Init has ended while `live_execs` execs have not been heard of. Returns its exit if it may be told
    /// now.
    pub fn init_ended(&mut self, exit: Exit, live_execs: usize) -> Option<Exit> {
        if live_execs == 0 {
            return Some(exit);
        }
        self.held = Some(exit);
        None
    }

    /// An exec has ended, or turned out never to have started; `live_execs` are left. Returns init's exit
    /// if that may be told now.
    pub fn exec_settled(&mut self, live_execs: usize) -> Option<Exit> {
        if live_execs == 0 { self.held.take() } else { None }
    }

    /// Whether an exit is held back.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Exit = Exit { status: 0, at: None };

    #[test]
    fn init_alone_is_told_at_once() {
        assert_eq!(ExitOrder::default().init_ended(EXIT, 0), Some(EXIT));
    }

    #[test]
    fn init_waits_for_its_execs_and_is_told_once() {
        let mut order = ExitOrder::default();
        assert_eq!(order.init_ended(EXIT, 2), None);
        assert_eq!(order.exec_settled(1), None);
        assert!(order.is_holding());
        assert_eq!(order.exec_settled(0), Some(EXIT));
        assert_eq!(order.exec_settled(0), None);
        assert!(!order.is_holding());
    }

    #[test]
    fn execs_that_end_while_init_runs_tell_nothing_of_it() {
        assert_eq!(ExitOrder::default().exec_settled(0), None);
    }
}
