use super::*;

/// Generous: only a broken implementation reaches it.
const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Launch {
    Launch::new("/bin/sh").arg("-c").arg(script)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

/// Says when it is dropped.
struct Witness(std::sync::mpsc::Sender<()>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.send(()).ok();
    }
}

#[tokio::test]
async fn an_exit_code_is_seen_by_every_waiter() {
    let process = shell("exit 7").spawn().unwrap();
    let (one, other) = (process.watch(), process.watch());
    let (a, b, c) = within(async { tokio::join!(one.wait(), other.wait(), process.wait()) }).await;
    assert_eq!([a, b, c], [Exit::Code(7); 3]);
    assert_eq!(process.try_wait(), Some(Exit::Code(7)));
    process.kill().unwrap();
}

#[tokio::test]
async fn kill_kills() {
    let process = shell("exec sleep 600").spawn().unwrap();
    assert_eq!(process.try_wait(), None);
    process.kill().unwrap();
    assert_eq!(within(process.wait()).await, Exit::Signal(9));
    process.kill().unwrap();
}

#[tokio::test]
async fn a_dropped_handle_leaves_nothing() {
    let process = shell("exec sleep 600").spawn().unwrap();
    let (identity, watch) = (process.identity(), process.watch());
    drop(process);
    assert_eq!(within(watch.wait()).await, Exit::Signal(9));
    assert!(!identity.is_alive());
}

#[tokio::test]
async fn a_dropped_watchdog_lets_the_process_end_by_itself() {
    let process = shell("read line <&4; exit 3").watchdog().spawn().unwrap();
    let watch = process.watch();
    drop(process);
    assert_eq!(within(watch.wait()).await, Exit::Code(3));
}

#[tokio::test]
async fn a_process_that_ignores_its_watchdog_is_killed_after_a_while() {
    let process = shell("exec sleep 600").watchdog().spawn().unwrap();
    let watch = process.watch();
    drop(process);
    assert_eq!(within(watch.wait()).await, Exit::Signal(9));
}

#[tokio::test]
async fn drain_is_a_byte_and_needs_a_watchdog() {
    let process = shell("head -c 1 <&4 | od -An -tu1 | grep -q 2 && exit 4")
        .watchdog()
        .spawn()
        .unwrap();
    process.drain().unwrap();
    assert_eq!(within(process.wait()).await, Exit::Code(4));

    let deaf = shell("exec sleep 600").spawn().unwrap();
    assert!(matches!(
        deaf.drain(),
        Err(ProcessError::Control { action: "drain", .. })
    ));
}

#[tokio::test]
async fn resources_are_released_before_the_exit_is_told_and_not_earlier() {
    let (sender, dropped) = std::sync::mpsc::channel();
    let process = shell("read line <&4")
        .watchdog()
        .resource(Witness(sender))
        .spawn()
        .unwrap();
    let watch = process.watch();
    assert!(dropped.try_recv().is_err());
    drop(process);
    within(watch.wait()).await;
    dropped.try_recv().expect("released by then");
}

#[tokio::test]
async fn a_start_that_is_given_up_is_killed() {
    let mut process = shell("exec sleep 600").watchdog().reports().spawn().unwrap();
    let watch = process.watch();
    let given_up = tokio::time::timeout(Duration::from_millis(10), process.ready(SOON)).await;
    assert!(given_up.is_err());
    drop(process);
    assert_eq!(within(watch.wait()).await, Exit::Signal(9));
}

#[tokio::test]
async fn a_failed_start_tells_why() {
    let mut process = shell(r#"echo '{"failed":{"message":"no kernel"}}' >&5"#)
        .reports()
        .spawn()
        .unwrap();
    let error = within(process.ready(SOON)).await.unwrap_err();
    assert_eq!(error.to_string(), "/bin/sh could not start its work: no kernel");

    let mut process = shell("exit 5").reports().spawn().unwrap();
    let error = within(process.ready(SOON)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "/bin/sh ended before it was ready: exit code 5"
    );
}

#[tokio::test]
async fn a_reported_child_is_checked_and_killed_with_its_parent() {
    let script = r#"sleep 600 & echo "{\"ready\":{\"child\":$!}}" >&5; wait"#;
    let mut process = shell(script).reports().spawn().unwrap();
    let child = within(process.ready(SOON)).await.unwrap().unwrap();
    assert!(child.is_alive());
    process.kill().unwrap();
    within(process.wait()).await;
    assert!(!child.is_alive());

    // The shell has reaped it, and stays.
    let script = r#"true & gone=$!; wait; echo "{\"ready\":{\"child\":$gone}}" >&5; sleep 600"#;
    let mut bereft = shell(script).reports().spawn().unwrap();
    assert_eq!(within(bereft.ready(SOON)).await.unwrap(), None);

    let mut liar = shell(r#"echo '{"ready":{"child":1}}' >&5; sleep 600"#)
        .reports()
        .spawn()
        .unwrap();
    let error = within(liar.ready(SOON)).await.unwrap_err();
    assert!(matches!(error, ProcessError::NotItsChild { child: 1, .. }));
}

#[tokio::test]
async fn a_disarmed_process_lives_on() {
    let script = r#"echo '{"ready":{"child":null}}' >&5; head -c 1 <&4 >/dev/null; echo '"detached"' >&5; exec sleep 600"#;
    let mut process = shell(script).watchdog().reports().spawn().unwrap();
    within(process.ready(SOON)).await.unwrap();
    let watch = process.watch();
    let detached = within(process.disarm())
        .await
        .map_err(|(_, error)| error)
        .unwrap();
    assert!(detached.identity.is_alive());
    assert_eq!(watch.try_wait(), None);
    let pidfd = detached.identity.pidfd().unwrap().unwrap();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(within(watch.wait()).await, Exit::Signal(9));
}

#[tokio::test]
async fn a_helper_that_does_not_confirm_stays_owned() {
    let process = shell("read line <&4").watchdog().reports().spawn().unwrap();
    let (process, error) = within(process.disarm()).await.unwrap_err();
    assert!(
        matches!(error, ProcessError::Ended { .. } | ProcessError::Slow { .. }),
        "{error}"
    );
    drop(process);
}

#[tokio::test]
async fn a_child_has_its_config_and_no_other_descriptors() {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let script = "cat <&3; echo; ls /proc/self/fd | tr '\\n' ' '; (echo x >&3) 2>/dev/null || echo sealed";
    let process = shell(script)
        .stdout(write)
        .config(b"secret".to_vec())
        .spawn()
        .unwrap();
    within(process.wait()).await;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut said).unwrap();
    // `ls` has one more: the directory it lists.
    assert_eq!(said.lines().collect::<Vec<_>>(), ["secret", "0 1 2 3 4 sealed"]);
}

#[tokio::test]
async fn signals_start_at_their_defaults() {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let process = Launch::new("/bin/grep")
        .arg("-E")
        .arg("^Sig(Blk|Ign)")
        .arg("/proc/self/status");
    let process = process.stdout(write).spawn().unwrap();
    within(process.wait()).await;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut said).unwrap();
    // glibc keeps signals 32 and 33 for itself.
    let own = 3 << 31;
    for line in said.lines() {
        let signals = line.split_whitespace().last().unwrap();
        assert_eq!(u64::from_str_radix(signals, 16).unwrap() & !own, 0, "{line}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let error = Launch::new("/nonexistent/helper").spawn().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot start /nonexistent/helper: No such file or directory (os error 2)"
    );
}

#[test]
fn the_end_of_the_runtime_ends_its_processes_and_then_releases_what_they_used() {
    let (sender, dropped) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let process = runtime.block_on(async {
        let process = shell("exec sleep 600")
            .watchdog()
            .resource(Witness(sender))
            .spawn()
            .unwrap();
        tokio::task::yield_now().await;
        process
    });
    drop(runtime);
    dropped.try_recv().expect("released by then");
    assert!(!process.identity().is_alive());
}
