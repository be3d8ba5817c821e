//! The variables of the environment take effect, and errors name a missing server.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // as in any test

mod common;

use std::process::{Command, Stdio};

use common::{Client, TempFolder, accepts, command};

const POSTGRES: &str = "postgres://me:pw@db.invalid:1/mine?sslmode=disable";

#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn client_process() {
    common::serve();
}

#[test]
fn urls_from_the_environment_win() {
    let temp = TempFolder::new();
    let mut command = command(&temp, &["postgres", "redis", "database"]);
    let mut client = Client::spawn(take(command.env("DATABASE_URL", POSTGRES).env("REDIS_URL", "redis://r.invalid")));
    client.read_answers(3);
    let other = "postgres://me:pw@db.invalid:1/other?sslmode=disable";
    assert_eq!(client.answers, [POSTGRES, "redis://r.invalid", other]);
    assert!(temp.run_folders().is_empty());
}

#[test]
fn each_url_counts_on_its_own() {
    let temp = TempFolder::new();
    let mut command = command(&temp, &["postgres", "redis"]);
    let mut client = Client::spawn(take(command.env("DATABASE_URL", POSTGRES).env("REDIS_URL", "")));
    client.read_answers(2);
    assert_eq!(client.answers[0], POSTGRES);
    assert!(accepts(client.port(1)));
    assert_eq!(temp.run_folders().len(), 1);
}

#[test]
fn a_missing_redis_is_named_with_what_to_do() {
    let temp = TempFolder::new();
    let mut command = command(&temp, &["redis"]);
    let text = failure(command.env_remove("PATH").env("TEST_SERVERS_NO_INSTALL", "1"));
    assert!(
        text.contains(
            "test servers: Redis is not installed (and TEST_SERVERS_NO_INSTALL forbids to install it): set REDIS_URL \
             to the URL of a running server, or install it (Debian, Ubuntu: apt-get install redis-server; macOS: brew \
             install redis)"
        ),
        "{text}"
    );
}

#[test]
fn a_missing_postgres_is_named_with_where_it_was_looked_for() {
    let temp = TempFolder::new();
    let mut command = command(&temp, &["postgres"]);
    let text = failure(command.env("PG_BIN_DIR", "/nowhere"));
    assert!(text.contains("PG_BIN_DIR is /nowhere, which lacks initdb or postgres"), "{text}");
    assert!(text.contains("set DATABASE_URL") && text.contains("apt-get install postgresql"), "{text}");
    assert!(temp.run_folders().is_empty());
}

fn failure(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn take(command: &mut Command) -> Command {
    std::mem::replace(command, Command::new("true"))
}
