//! Workers that share a queue of files.

mod common;

use common::{File, Process, printed};

fn queue(folder: &File, arguments: &[&str]) -> String {
    let arguments = [&["--dir", folder.path()], arguments].concat();
    printed(&common::run(env!("CARGO_BIN_EXE_file-queue"), &arguments))
}

#[test]
fn what_one_worker_publishes_another_processes_and_all_of_it_can_be_read() {
    let folder = File::new("shared_queue");
    assert_eq!(queue(&folder, &["publish", r#"{"message": "Hello World"}"#]), "published event 1\n");
    assert!(queue(&folder, &["claim", "task_1", "worker_data"]).starts_with("Claimed by worker: worker-"));
    let claim = ["--dir", folder.path(), "claim", "task_1", "worker_data"];
    let refused = common::run(env!("CARGO_BIN_EXE_file-queue"), &claim);
    assert!(String::from_utf8_lossy(&refused.stdout).starts_with("Claimed already, by worker: worker-"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(1), "a script can tell that it has not got the claim");
    assert_eq!(queue(&folder, &["work", "--once"]), "event 1 is done, in epoch 1 of its claim\n");
    assert_eq!(
        queue(&folder, &["publish", "--count", "2", r#"{"from": "worker_2"}"#]),
        "published event 2\npublished event 3\n"
    );
    let said = queue(&folder, &["show"]);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with(r#"event 1: {"message":"Hello World"} (done: {"processed_by":"worker-"#), "{said}");
    assert_eq!(lines[2], r#"event 3: {"from":"worker_2"} (open)"#);
    assert!(lines[3].starts_with(r#"claim task_1: "worker_data", worker worker-"#), "{said}");
    assert_eq!(lines[4..], ["coordination: alone"]);
}

#[test]
fn a_subscriber_gets_what_another_worker_publishes() {
    let (folder, url) = (File::new(&eventbus_test::unique_name("shared_queue")), eventbus_test::redis_url());
    let subscribing = ["--dir", folder.path(), "--redis", url, "subscribe"];
    let mut subscriber = Process::start(env!("CARGO_BIN_EXE_file-queue"), &subscribing, &[]);
    queue(&folder, &["--redis", url, "publish", r#"{"from": "worker_2"}"#]);
    subscriber.until(&[r#"received {"from":"worker_2"}"#]);
    subscriber.signal("-INT");
    assert!(subscriber.end().success());
}
