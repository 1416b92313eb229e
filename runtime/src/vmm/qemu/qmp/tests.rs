use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": ["oob"]}}"#;

/// A scripted QEMU: says the greeting, then for each command it hears says the given lines.
fn qemu(answers: &'static [&'static str]) -> Qmp {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        let (input, mut output) = theirs.into_split();
        let mut commands = BufReader::new(input).lines();
        output
            .write_all(format!("{GREETING}\r\n").as_bytes())
            .await
            .unwrap();
        for answer in answers {
            commands.next_line().await.unwrap();
            output.write_all(answer.as_bytes()).await.unwrap();
            output.write_all(b"\r\n").await.unwrap();
        }
        commands.next_line().await.ok();
    });
    Qmp::start(ours)
}

const OK: &str = r#"{"return": {}}"#;

#[tokio::test]
async fn commands_are_answered_past_events() {
    let status = "{\"event\": \"RESUME\", \"timestamp\": {}}\r\n{\"return\": {\"running\": true}}";
    let qmp = qemu(Vec::leak(vec![OK, status]));
    let answer = qmp.execute("query-status", Value::Null).await.unwrap();
    assert_eq!(answer["running"], true);
}

#[tokio::test]
async fn a_refusal_keeps_its_words_and_the_channel() {
    let qmp = qemu(&[
        OK,
        r#"{"error": {"class": "GenericError", "desc": "no such device"}}"#,
        OK,
    ]);
    let error = qmp.execute("device_del", json!({ "id": "x" })).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the virtual machine refused device_del: no such device"
    );
    qmp.execute("stop", Value::Null).await.unwrap();
}

#[tokio::test]
async fn commands_given_at_once_are_answered_in_order() {
    let qmp = qemu(&[
        OK,
        r#"{"return": 1}"#,
        r#"{"error": {"desc": "no"}}"#,
        r#"{"return": 3}"#,
    ]);
    let steps = (0..3).map(|_| Step::new("query-status", Value::Null)).collect();
    let answers = qmp.execute_all(steps).await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap(), 1);
    assert!(answers[1].is_err());
    assert_eq!(answers[2].as_ref().unwrap(), 3);
}

#[tokio::test]
async fn the_end_of_a_device_is_waited_for_even_if_told_before() {
    let told = "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"disk-0-1\"}}\r\n{\"return\": {}}";
    let qmp = qemu(Vec::leak(vec![OK, told]));
    qmp.execute("device_del", Value::Null).await.unwrap();
    let disk = || HashSet::from(["disk-0-1".to_owned()]);
    qmp.wait_deleted(disk(), DEADLINE).await.unwrap();
    let again = qmp.wait_deleted(disk(), Duration::from_millis(1)).await;
    assert!(matches!(again, Err(VmmError::Slow { .. })));
}

#[tokio::test]
async fn the_first_reason_to_stop_is_kept() {
    let end = "{\"return\": {}}\r\n\
        {\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}, \"timestamp\": {}}\r\n\
        {\"event\": \"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": \"host-signal\"}, \"timestamp\": {}}";
    let qmp = qemu(Vec::leak(vec![OK, end]));
    qmp.execute("cont", Value::Null).await.unwrap();
    assert_eq!(qmp.last_words().await, Some(DeathReason::GuestShutdown));
}

#[tokio::test]
async fn a_closed_channel_is_an_error_at_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let qmp = Qmp::start(ours);
    assert!(matches!(
        qmp.execute("quit", Value::Null).await,
        Err(VmmError::Broken(_))
    ));
    assert_eq!(qmp.last_words().await, None);
}

#[tokio::test]
async fn nonsense_and_endless_lines_end_the_channel() {
    for said in ["{]\n".to_owned(), "x".repeat(MAX_LINE as usize + 1)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let qmp = Qmp::start(ours);
        // The channel may end while this is still being written.
        theirs.write_all(said.as_bytes()).await.ok();
        assert!(matches!(
            qmp.execute("quit", Value::Null).await,
            Err(VmmError::Broken(_))
        ));
    }
}

#[test]
fn reasons() {
    for (reason, expected) in [
        ("guest-reset", DeathReason::GuestShutdown),
        ("guest-shutdown", DeathReason::GuestShutdown),
        ("guest-panic", DeathReason::GuestPanic),
        ("host-qmp-quit", DeathReason::Requested),
        ("host-signal", DeathReason::Requested),
    ] {
        assert_eq!(stop_reason(&json!({ "reason": reason })), expected);
    }
}
