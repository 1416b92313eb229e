//! OCI hooks: programs that the spec names, run on the host around a container's life.
//!
//! A hook gets the container's state on its standard input, exactly its own environment, and a deadline. It
//! cannot hold a container up by hanging, by printing, or by leaving daemons behind.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use displaydoc::Display;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::Hook;
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// For a hook whose spec sets none: a CNI plugin that waits for an address may take a while.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// Kept of a hook's output for the error message. What is beyond is read and thrown away.
const MAX_OUTPUT: u64 = 64 << 10;
/// How long output is waited for once the hook has exited: a daemon it left behind may keep the pipe.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// A container's state as hooks are told it (runtime-spec, "State").
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// Of the spec.
    pub oci_version: String,
    /// containerd's id.
    pub id: String,
    /// Where the container is in its life.
    pub status: HookStatus,
    /// The anchor's; absent once the container is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The bundle directory.
    pub bundle: PathBuf,
    /// Of the spec.
    pub annotations: HashMap<String, String>,
}

/// See [`HookState::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HookStatus {
    /// `createRuntime`.
    Creating,
    /// `startContainer`, which the guest runs.
    Created,
    /// `poststart`.
    Running,
    /// `poststop`.
    Stopped,
}

/// Why a hook failed.
#[derive(Debug, Display, Error)]
pub enum HookError {
    /// cannot run hook {path}: {source}
    Start {
        /// The hook.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// hook {path} failed: {status}, output: {output}
    Failed {
        /// The hook.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it printed, trimmed.
        output: String,
    },
    /// hook {path} did not finish within {after:?}
    Slow {
        /// The hook.
        path: PathBuf,
        /// Its time.
        after: Duration,
    },
}

/// Runs hooks in order up to the first that fails.
///
/// # Errors
/// That hook's.
pub async fn run(hooks: &[Hook], state: &HookState) -> Result<(), HookError> {
    for hook in hooks {
        run_one(hook, state).await?;
    }
    Ok(())
}

/// Runs all hooks in order; failures go to the log, as the spec wants it of `poststart` and `poststop`.
pub async fn run_all(hooks: &[Hook], state: &HookState) {
    for hook in hooks {
        if let Err(error) = run_one(hook, state).await {
            tracing::warn!(container = state.id, "{error}");
        }
    }
}

/// The longest that hooks may take, one after the other.
pub fn longest(hooks: &[Hook]) -> Duration {
    hooks
        .iter()
        .map(limit)
        .fold(Duration::ZERO, Duration::saturating_add)
}

fn limit(hook: &Hook) -> Duration {
    let seconds = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs)
}

async fn run_one(hook: &Hook, state: &HookState) -> Result<(), HookError> {
    let path = hook.path();
    let start = |source| HookError::Start {
        path: path.clone(),
        source,
    };
    let input = serde_json::to_vec(state).map_err(|error| start(error.into()))?;
    let mut child = command(hook, &state.bundle).spawn().map_err(start)?;
    let group = child.id();
    let after = limit(hook);
    let outcome = timeout(after, converse(&mut child, &input)).await;
    match outcome {
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, output))) => Err(HookError::Failed {
            path: path.clone(),
            status,
            output,
        }),
        Ok(Err(source)) => Err(start(source)),
        Err(_) => {
            kill(group, &mut child, path).await;
            Err(HookError::Slow {
                path: path.clone(),
                after,
            })
        }
    }
}

fn command(hook: &Hook, bundle: &Path) -> Command {
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    command.env_clear();
    for entry in hook.env().iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            command.env(name, value);
        }
    }
    command
        .current_dir(bundle)
        // A group of its own, so that a hook that hangs can be killed with its children, and a signal to
        // the shim's group does not reach it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Feeds the hook its input and reads its output until it exits.
async fn converse(child: &mut Child, input: &[u8]) -> io::Result<(ExitStatus, String)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A hook need not read: the pipe breaking is no error.
            stdin.write_all(input).await.ok();
        }
    };
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let status = {
        let read = async { tokio::join!(read_capped(stdout, &mut output), read_capped(stderr, &mut errors)) };
        tokio::pin!(read);
        let talk = async { tokio::join!(feed, child.wait()).1 };
        tokio::pin!(talk);
        tokio::select! {
            status = &mut talk => {
                timeout(OUTPUT_GRACE, read).await.ok();
                status?
            }
            _ = &mut read => talk.await?,
        }
    };
    output.extend_from_slice(b" ");
    output.append(&mut errors);
    Ok((status, String::from_utf8_lossy(&output).trim().to_owned()))
}

/// Reads to the end, keeping the first [`MAX_OUTPUT`] bytes.
async fn read_capped(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    // An error ends the output as its end does.
    (&mut pipe).take(MAX_OUTPUT).read_to_end(kept).await.ok();
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await.ok();
}

async fn kill(group: Option<u32>, child: &mut Child, path: &Path) {
    // Not reaped yet, so the group's number is still the hook's.
    if let Some(group) = group.and_then(|id| i32::try_from(id).ok()) {
        killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    if let Err(error) = child.wait().await {
        tracing::warn!("hook {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use oci_spec::runtime::HookBuilder;

    use super::*;

    fn shell(script: &str) -> Hook {
        HookBuilder::default()
            .path("/bin/sh")
            .args(["sh".to_owned(), "-c".to_owned(), script.to_owned()])
            .env(["NAME=value".to_owned()])
            .timeout(5i64)
            .build()
            .unwrap()
    }

    fn state(bundle: &Path) -> HookState {
        HookState {
            oci_version: "1.2.0".into(),
            id: "c1".into(),
            status: HookStatus::Creating,
            pid: Some(7),
            bundle: bundle.into(),
            annotations: HashMap::from([("a".into(), "b".into())]),
        }
    }

    #[tokio::test]
    async fn a_hook_gets_the_state_and_its_own_environment_alone() {
        let bundle = tempfile::tempdir().unwrap();
        let hook = shell("cat > state; /usr/bin/env > env; pwd > cwd");
        run(&[hook], &state(bundle.path())).await.unwrap();
        let read = |name| fs::read_to_string(bundle.path().join(name)).unwrap();
        let told: serde_json::Value = serde_json::from_str(&read("state")).unwrap();
        let expected = serde_json::json!({
            "ociVersion": "1.2.0", "id": "c1", "status": "creating", "pid": 7,
            "bundle": bundle.path(), "annotations": {"a": "b"},
        });
        assert_eq!(told, expected);
        // A shell adds PWD, SHLVL and _ by itself.
        let env = read("env");
        assert!(
            env.contains("NAME=value") && !env.contains("PATH=") && !env.contains("HOME="),
            "{env}"
        );
        assert_eq!(read("cwd").trim(), bundle.path().to_str().unwrap());
    }

    #[tokio::test]
    async fn the_first_failure_ends_the_run_and_is_quoted() {
        let bundle = tempfile::tempdir().unwrap();
        let hooks = [shell("echo out; echo why >&2; exit 3"), shell("touch later")];
        let error = run(&hooks, &state(bundle.path())).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "hook /bin/sh failed: exit status: 3, output: out\n why"
        );
        assert!(!bundle.path().join("later").exists());
        run_all(&hooks, &state(bundle.path())).await;
        assert!(bundle.path().join("later").exists());
    }

    #[tokio::test]
    async fn endless_output_is_capped() {
        let bundle = tempfile::tempdir().unwrap();
        let hook = shell("head -c 10000000 /dev/zero | tr '\\0' x; exit 1");
        let error = run(&[hook], &state(bundle.path())).await.unwrap_err().to_string();
        assert!(error.len() < (MAX_OUTPUT as usize) + 200, "{}", error.len());
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_pipe_holds_nothing_up() {
        let bundle = tempfile::tempdir().unwrap();
        let started = Instant::now();
        run(&[shell("sleep 30 & echo $! > pid")], &state(bundle.path()))
            .await
            .unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
        let pid: i32 = fs::read_to_string(bundle.path().join("pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_killed_with_its_children() {
        let bundle = tempfile::tempdir().unwrap();
        let mut hook = shell("sleep 60 & echo $! > pid; wait");
        hook.set_timeout(Some(1));
        let error = run(&[hook], &state(bundle.path())).await.unwrap_err();
        assert!(matches!(error, HookError::Slow { .. }), "{error}");
        let pid: i32 = fs::read_to_string(bundle.path().join("pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let alive = crate::process::ProcessIdentity::of(pid.unsigned_abs()).is_ok_and(|who| who.is_alive());
        assert!(!alive);
    }

    #[tokio::test]
    async fn a_hook_that_is_missing_is_named() {
        let hook = HookBuilder::default().path("/no/such/hook").build().unwrap();
        let error = run(&[hook], &state(Path::new("/")))
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "cannot run hook /no/such/hook: No such file or directory (os error 2)"
        );
    }
}
