//! Hooks: those of the runtime's namespaces run on the host, `startContainer` in the container, and
//! `createContainer` cannot.

use oci_spec::runtime::{self, Hook, Spec};

use crate::error::{PlanError, invalid, unsupported};
use crate::path::absolute;
use crate::plan::HostHooks;

/// Most hooks of one kind. Tools add one or two each; every one is a process the start waits for.
const MAX_HOOKS: usize = 64;

/// Both halves of `hooks`.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    /// Run by the shim.
    pub host: HostHooks,
    /// `startContainer`, which are programs of the container's root.
    pub guest: Option<runtime::Hooks>,
}

pub(crate) fn translate(spec: &Spec) -> Result<Hooks, PlanError> {
    let Some(hooks) = spec.hooks() else {
        return Ok(Hooks::default());
    };
    refuse_create_container(hooks.create_container().as_deref())?;
    let start_container = checked("startContainer", hooks.start_container().as_deref())?;
    let guest = (!start_container.is_empty()).then(|| {
        let mut guest = runtime::Hooks::default();
        guest.set_start_container(Some(start_container));
        guest
    });
    let prestart = hooks.prestart();
    let mut create_runtime = checked("prestart", prestart.as_deref())?;
    create_runtime.extend(checked("createRuntime", hooks.create_runtime().as_deref())?);
    let host = HostHooks {
        create_runtime,
        poststart: checked("poststart", hooks.poststart().as_deref())?,
        poststop: checked("poststop", hooks.poststop().as_deref())?,
    };
    Ok(Hooks { host, guest })
}

/// They are programs of the host that work on the container's mounts, before its root has been entered.
fn refuse_create_container(hooks: Option<&[Hook]>) -> Result<(), PlanError> {
    match hooks {
        None | Some([]) => Ok(()),
        Some([hook, ..]) => Err(unsupported(
            "hooks.createContainer",
            format!(
                "{:?} is a program of the host that would have to run in the container's namespaces, which are \
                 in the guest; use createRuntime, or startContainer with a program of the image",
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
