//! Hooks: those of the runtime's namespaces run on the host, those of the container's cannot.

use oci_spec::runtime::{Hook, Spec};

use crate::error::{PlanError, invalid, unsupported};
use crate::path::absolute;
use crate::plan::HostHooks;

/// Most hooks of one kind. Tools add one or two each; every one is a process the start waits for.
const MAX_HOOKS: usize = 64;

pub(crate) fn translate(spec: &Spec) -> Result<HostHooks, PlanError> {
    let Some(hooks) = spec.hooks() else {
        return Ok(HostHooks::default());
    };
    guest_only("createContainer", hooks.create_container().as_deref())?;
    guest_only("startContainer", hooks.start_container().as_deref())?;
    let prestart = hooks.prestart();
    let mut create_runtime = checked("prestart", prestart.as_deref())?;
    create_runtime.extend(checked("createRuntime", hooks.create_runtime().as_deref())?);
    Ok(HostHooks {
        create_runtime,
        poststart: checked("poststart", hooks.poststart().as_deref())?,
        poststop: checked("poststop", hooks.poststop().as_deref())?,
    })
}

fn guest_only(kind: &str, hooks: Option<&[Hook]>) -> Result<(), PlanError> {
    match hooks {
        None | Some([]) => Ok(()),
        Some([hook, ..]) => Err(unsupported(
            format!("hooks.{kind}"),
            format!(
                "{:?} would have to run in the container's namespaces, which are in the guest, where the \
                 host's programs are not; use createRuntime",
                hook.path()
            ),
        )),
    }
}

fn checked(kind: &str, hooks: Option<&[Hook]>) -> Result<Vec<Hook>, PlanError> {
    let hooks = hooks.unwrap_or_default();
    if hooks.len() > MAX_HOOKS {
        let reason = format!("{} hooks, more than {MAX_HOOKS}", hooks.len());
        return Err(invalid(format!("hooks.{kind}"), reason));
    }
    for (n, hook) in hooks.iter().enumerate() {
        let field = format!("hooks.{kind}[{n}]");
        absolute(&format!("{field}.path"), hook.path())?;
        if let Some(timeout) = hook.timeout().filter(|seconds| *seconds <= 0) {
            let reason = format!("{timeout} is not a positive number of seconds");
            return Err(invalid(format!("{field}.timeout"), reason));
        }
        let mut strings = hook.args().iter().chain(hook.env()).flatten();
        if strings.any(|text| text.contains('\0')) {
            return Err(invalid(field, "args or env contain a NUL byte"));
        }
    }
    Ok(hooks.to_vec())
}
