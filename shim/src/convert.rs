//! Small conversions to containerd's messages.

use std::time::SystemTime;

use containerd_shim_protos::types::task::Status;
use protobuf::well_known_types::timestamp::Timestamp;

use crate::process_state::Phase;

/// A point in time.
pub fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}

/// What containerd calls a phase.
pub fn status(phase: Phase) -> Status {
    match phase {
        Phase::Created | Phase::Starting { .. } => Status::CREATED,
        Phase::Running => Status::RUNNING,
        Phase::Paused => Status::PAUSED,
        Phase::Stopped(_) => Status::STOPPED,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_keep_their_nanoseconds() {
        let stamp = timestamp(SystemTime::UNIX_EPOCH + Duration::new(5, 7));
        assert_eq!((stamp.seconds, stamp.nanos), (5, 7));
    }
}
