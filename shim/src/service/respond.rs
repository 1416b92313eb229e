//! Answers, from what containers say.

use containerd_shim_protos::api::{DeleteResponse, ProcessInfo, StateResponse, WaitResponse};
use containerd_shim_protos::events::task::TaskDelete;
use containerd_shim_protos::shim::oci::ProcessDetails;
use protobuf::well_known_types::any::Any;
use protobuf::{EnumOrUnknown, Message, MessageField};

use crate::container::{Container, Deleted, PidEntry, Snapshot};
use crate::convert;
use crate::process_state::{Exit, Phase};

/// State. For an exec, `id` is the exec's, as runc's shim has it.
pub fn state(container: &Container, exec_id: &str, snapshot: Snapshot) -> StateResponse {
    let exit = match snapshot.phase {
        Phase::Stopped(exit) => exit,
        _ => Exit { status: 0, at: None },
    };
    let id = if exec_id.is_empty() {
        container.id()
    } else {
        exec_id
    };
    StateResponse {
        id: id.to_owned(),
        bundle: container.bundle().to_string_lossy().into_owned(),
        pid: snapshot.pid,
        status: EnumOrUnknown::new(convert::status(snapshot.phase)),
        stdin: snapshot.paths.stdin,
        stdout: snapshot.paths.stdout,
        stderr: snapshot.paths.stderr,
        terminal: snapshot.paths.terminal,
        exit_status: exit.status,
        exited_at: exited_at(exit),
        exec_id: exec_id.to_owned(),
        ..StateResponse::default()
    }
}

/// Wait.
pub fn wait(exit: Exit) -> WaitResponse {
    WaitResponse {
        exit_status: exit.status,
        exited_at: exited_at(exit),
        ..WaitResponse::default()
    }
}

/// Delete.
pub fn delete(deleted: Deleted) -> DeleteResponse {
    DeleteResponse {
        pid: deleted.pid,
        exit_status: deleted.exit.status,
        exited_at: exited_at(deleted.exit),
        ..DeleteResponse::default()
    }
}

/// The event of an init's Delete.
pub fn task_delete(container_id: &str, deleted: Deleted) -> TaskDelete {
    TaskDelete {
        container_id: container_id.to_owned(),
        pid: deleted.pid,
        exit_status: deleted.exit.status,
        exited_at: exited_at(deleted.exit),
        id: container_id.to_owned(),
        ..TaskDelete::default()
    }
}

/// One entry of Pids; an exec's carries its id.
pub fn process_info(entry: PidEntry) -> ProcessInfo {
    let details = entry.exec_id.and_then(|exec_id| {
        let details = ProcessDetails {
            exec_id,
            ..ProcessDetails::default()
        };
        let value = details.write_to_bytes().ok()?;
        let type_url = "containerd.runc.v1.ProcessDetails".to_owned();
        Some(Box::new(Any {
            type_url,
            value,
            ..Any::default()
        }))
    });
    ProcessInfo {
        pid: entry.pid,
        info: MessageField(details),
        ..ProcessInfo::default()
    }
}

fn exited_at(exit: Exit) -> MessageField<protobuf::well_known_types::timestamp::Timestamp> {
    MessageField(exit.at.map(convert::timestamp).map(Box::new))
}
