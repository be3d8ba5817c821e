//! Dead letters, from the failures to the replay.

mod common;

use std::process::Output;

use common::{Stream, printed};

fn dead_letters(stream: &Stream, arguments: &[&str]) -> Output {
    let arguments = [arguments, &stream.arguments()].concat();
    common::run(env!("CARGO_BIN_EXE_dead-letters"), &arguments)
}

fn monitored(stream: &Stream) -> (Option<i32>, String) {
    let output = dead_letters(stream, &["monitor"]);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn marked_tasks_are_given_up_noticed_replayed_and_done() {
    let stream = Stream::new();
    let said = printed(&dead_letters(&stream, &["run", "--tasks", "10", "--marked", "6"]));
    for number in 1..=10 {
        let attempts: Vec<_> =
            (1..=4).filter(|n| said.contains(&format!("task {number} fails at attempt {n}\n"))).collect();
        let marked = number <= 6;
        assert_eq!(attempts, if marked { vec![1, 2, 3] } else { vec![] }, "{said}");
        assert_eq!(said.contains(&format!("task {number} is done\n")), !marked, "{said}");
    }
    assert!(said.ends_with("4 tasks done, 6 given up\n"), "{said}");

    let (code, said) = monitored(&stream);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.ends_with("6 dead letters, 0 pending messages\nALERT: 6 dead letters, more than 5\n"), "{said}");
    for line in ["  Event type: TaskAssigned\n", "  Retry count: 2\n", "  Error: task 6 is marked\n"] {
        assert!(said.contains(line), "`{line}` is missing in {said}");
    }

    let id = said.lines().find_map(|line| line.strip_prefix("Message ID: ")).unwrap();
    assert_eq!(printed(&dead_letters(&stream, &["replay", id])), "replayed: 1\n");
    for unknown in [id, "1-1"] {
        let output = dead_letters(&stream, &["replay", unknown]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "it is not there any more: {said}");
        assert!(said.contains(&format!("there is no dead letter `{unknown}`")), "{said}");
    }
    let (code, said) = monitored(&stream);
    assert_eq!(code, Some(0), "five are not too many: {said}");
    assert!(!said.contains("ALERT"), "{said}");

    assert_eq!(printed(&dead_letters(&stream, &["replay"])), "replayed: 5\n");
    let said = printed(&dead_letters(&stream, &["run", "--tasks", "0", "--mended"]));
    assert!((1..=6).all(|number| said.contains(&format!("task {number} is done\n"))), "{said}");
    assert!(said.ends_with("6 tasks done, 0 given up\n"), "{said}");
    let (code, said) = monitored(&stream);
    assert_eq!((code, &*said), (Some(0), "0 dead letters, 0 pending messages\n"));
}

#[test]
fn a_monitor_that_cannot_ask_says_so() {
    let mut redis = eventbus_test::private_redis();
    let url = redis.url().to_owned();
    redis.stop();
    let output = common::run(env!("CARGO_BIN_EXE_dead-letters"), &["monitor", "--bus", &url]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1"), "{output:?}");
}
