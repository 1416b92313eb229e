//! Opening what a request names.

use nix::sys::stat::Mode;

use super::*;

fn fifos(names: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let paths = names
        .iter()
        .map(|name| {
            let path = dir.path().join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    (dir, paths)
}

async fn open(stdin: &str, stdout: &str, stderr: &str, terminal: bool) -> Result<Stdio, StdioError> {
    let (stdin, stdout, stderr) = (stdin.into(), stdout.into(), stderr.into());
    Stdio::open(
        &Paths {
            stdin,
            stdout,
            stderr,
            terminal,
        },
        "ns",
        "c",
    )
    .await
}

#[tokio::test]
async fn only_named_streams_are_asked_for() {
    let (_dir, paths) = fifos(&["in", "out"]);
    assert_eq!(
        open("", "", "", false).await.unwrap().request(),
        StdioRequest::default()
    );
    let some = open(&paths[0], &paths[1], "", false).await.unwrap().request();
    assert_eq!(
        some,
        StdioRequest {
            stdin: true,
            stdout: true,
            stderr: false,
            terminal: false
        }
    );
}

#[tokio::test]
async fn a_terminals_stderr_need_not_exist() {
    let (_dir, paths) = fifos(&["out"]);
    let request = open("", &paths[0], "/nonexistent/stderr", true)
        .await
        .unwrap()
        .request();
    assert_eq!(
        request,
        StdioRequest {
            stdin: false,
            stdout: true,
            stderr: false,
            terminal: true
        }
    );
}

#[tokio::test]
async fn one_fifo_for_both_outputs() {
    let (_dir, paths) = fifos(&["out"]);
    let request = open("", &paths[0], &paths[0], false).await.unwrap().request();
    assert!(request.stdout && request.stderr);
}

#[tokio::test]
async fn a_missing_fifo_is_not_found_and_other_things_are_the_callers_fault() {
    let (dir, paths) = fifos(&["out"]);
    let missing = dir.path().join("missing").to_str().unwrap().to_owned();
    assert!(
        open("", &paths[0], &missing, false)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(
        open("file:///tmp/x", "", "", false)
            .await
            .unwrap_err()
            .is_callers_fault()
    );
    assert!(
        open("", "gopher:///x", "", false)
            .await
            .unwrap_err()
            .is_callers_fault()
    );
}
