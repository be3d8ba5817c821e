//! A service in production: signals, recovery, health and alerts.
#![cfg(unix)]

mod common;

use common::{Process, Stream, printed, run};

const HEALTHY: &str = r#"{"status":"healthy","connected":true,"consuming":true,"pending_messages":0,"dlq_messages":0}"#;

fn production(arguments: &[&str], more: &[&str]) -> Process {
    let arguments = [arguments, &["--consumer", "service-1"], more].concat();
    Process::start(env!("CARGO_BIN_EXE_production"), &arguments, &[])
}

fn stops_after_the_event_in_hand(signal: &str) {
    let mut stream = Stream::new();
    let mut service = production(&stream.arguments(), &["--work-ms", "1000"]);
    service.until(&[HEALTHY]);
    let publish = [&stream.arguments()[..], &["--count", "1", "--event", "Slow"]].concat();
    printed(&run(env!("CARGO_BIN_EXE_publisher"), &publish));
    service.until(&["handling Slow"]);
    service.signal(signal);
    assert!(service.end().success(), "{:#?}", service.stderr());
    let said = service.stderr();
    assert!(said.iter().any(|line| line.starts_with("handled Slow ")), "{said:#?}");
    assert_eq!(said.iter().rfind(|line| line.starts_with("Shut")).unwrap(), "Shutdown complete");
    assert_eq!(said.iter().filter(|line| *line == "Shutting down...").count(), 1);
    assert_eq!(stream.pending("default"), 0, "it is acknowledged");
}

#[test]
fn sigterm_ends_it_after_the_event_in_hand() {
    stops_after_the_event_in_hand("-TERM");
}

#[test]
fn ctrl_c_ends_it_after_the_event_in_hand() {
    stops_after_the_event_in_hand("-INT");
}

#[test]
fn what_a_dead_consumer_left_is_recovered() {
    let mut stream = Stream::new();
    let publish = [&stream.arguments()[..], &["--count", "2", "--event", "Left"]].concat();
    printed(&run(env!("CARGO_BIN_EXE_publisher"), &publish));
    // a consumer of the group reads them and dies
    let () = stream.run("XGROUP CREATE {}:stream default 0");
    let _: redis::Value = stream.run("XREADGROUP GROUP default dead COUNT 2 STREAMS {}:stream >");
    assert_eq!(stream.pending("default"), 2);
    let mut service = production(&stream.arguments(), &["--recover-every-ms", "50", "--recover-idle-ms", "100"]);
    service.until(&["reprocessed, 0 to DLQ"]);
    assert!(common::until(|| stream.pending("default") == 0));
    service.signal("-TERM");
    assert!(service.end().success());
    let handled = service.stderr().iter().filter(|line| line.starts_with("handled Left ")).count();
    assert_eq!(handled, 2, "{:#?}", service.stderr());
}

#[test]
fn health_never_fails_though_redis_does() {
    let mut redis = eventbus_test::private_redis();
    let url = redis.url().to_owned();
    let mut service = production(&["--bus", &url], &["--check-every-ms", "50"]);
    service.until(&[HEALTHY]);
    redis.stop();
    service.until(&[
        r#"{"status":"unhealthy","connected":false,"consuming":true,"pending_messages":0,"dlq_messages":0,"error":""#,
        "ALERT: not connected: ",
    ]);
    redis.start();
    let before = service.stdout().len();
    assert!(common::until(|| service.stdout()[before..].iter().any(|line| line == HEALTHY)));
    service.signal("-TERM");
    assert!(service.end().success(), "{:#?}", service.stderr());
}

#[test]
fn alerts_are_those_of_the_tutorial() {
    let mut stream = Stream::new();
    let letters = |stream: &mut Stream, count: u32| {
        for _ in 0..count {
            let _: String = stream.run("XADD {}:stream_dlq * event_type Lost");
        }
    };
    letters(&mut stream, 10);
    let _: String = stream.run("XGROUP CREATE {}:stream slow 0 MKSTREAM");
    for _ in 0..1_000 {
        let _: String = stream.run("XADD {}:stream * event_type Unread");
    }
    let _: redis::Value = stream.run("XREADGROUP GROUP slow reader COUNT 1000 STREAMS {}:stream >");
    // the service's own group starts after these entries
    let _: String = stream.run("XGROUP CREATE {}:stream default $");
    let mut service = production(&stream.arguments(), &["--check-every-ms", "50"]);
    service.until(&[r#""pending_messages":1000,"dlq_messages":10,"unfinished":[{"group":"slow","#]);
    letters(&mut stream, 1);
    service.until(&["ALERT: 11 dead letters, more than 10"]);
    let _: String = stream.run("XADD {}:stream * event_type Unread");
    let _: redis::Value = stream.run("XREADGROUP GROUP slow reader COUNT 1 STREAMS {}:stream >");
    service.until(&["ALERT: 1001 pending messages, more than 1000"]);
    service.signal("-TERM");
    assert!(service.end().success());
    let said = service.stderr();
    let early = said.iter().filter(|line| line.contains("ALERT: 10 ") || line.contains("ALERT: 1000 ")).count();
    assert_eq!(early, 0, "{said:#?}");
}

#[test]
fn it_looks_once_a_minute() {
    let help = printed(&run(env!("CARGO_BIN_EXE_production"), &["--help"]));
    assert_eq!(help.matches("[default: 60000]").count(), 2, "{help}");
    assert!(help.contains("[default: 1000]") && help.contains("[default: 10]"), "{help}");
}
