//! No server outlives its clients, however they end.
#![cfg(unix)]

mod common;

use std::time::{Duration, Instant};

use common::{Client, TempFolder, accepts, command, wait_until};

#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn client_process() {
    common::serve();
}

#[test]
fn servers_go_after_their_only_client_was_killed() {
    let temp = TempFolder::new();
    let client = Client::ask(&temp, &["postgres", "redis", "private", "paused"]);
    let ports = [0, 1, 2, 3].map(|answer| client.port(answer));
    assert!(ports.into_iter().all(accepts));
    // the test reaps it at its end only: a zombie counts as dead
    client.kill();
    assert!(wait_until(|| !ports.into_iter().any(accepts)), "a server stayed");
    assert!(wait_until(|| temp.run_folders().is_empty()), "a folder stayed");
}

#[test]
fn servers_go_after_their_last_client_left() {
    let temp = TempFolder::new();
    let (first, last) = (Client::ask(&temp, &["redis"]), Client::ask(&temp, &["redis"]));
    let port = first.port(0);
    first.leave();
    assert!(accepts(port));
    last.leave();
    assert!(wait_until(|| !accepts(port) && temp.run_folders().is_empty()));
}

#[test]
fn nothing_stays_when_a_client_is_killed_while_it_starts_a_server() {
    for delay in [50, 400, 900].map(Duration::from_millis) {
        let temp = TempFolder::new();
        let client = Client::spawn(command(&temp, &["postgres"]));
        let moment = Instant::now() + delay;
        assert!(wait_until(|| Instant::now() > moment));
        client.kill();
        let mut next = Client::spawn(command(&temp, &["postgres"]));
        next.read_answers(1);
        assert!(accepts(next.port(0)), "killed after {delay:?}");
        next.kill();
        assert!(wait_until(|| temp.run_folders().is_empty()), "killed after {delay:?}");
    }
}
