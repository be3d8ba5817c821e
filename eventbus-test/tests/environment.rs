//! The variables of the environment take effect, and errors name a missing server.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // as in any test

mod common;

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use common::{Client, TempFolder, accepts, command, wait_until};

const INSTALL: &str = "TEST_SERVERS_INSTALL";

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
fn a_missing_server_is_installed_only_if_the_variable_allows_it() {
    let temp = TempFolder::new();
    let programs = temp.folder("programs");
    let id = ["/usr/bin/id", "/bin/id"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    symlink(id, programs.join("id")).unwrap();
    write_program(&programs, "apt-get", "echo \"$@\" >>\"$0.log\"");
    let log = programs.join("apt-get.log");
    for not_allowed in [None, Some("0"), Some("")] {
        let mut command = command(&temp, &["redis"]);
        command.env("PATH", &programs).env_remove(INSTALL).envs(not_allowed.map(|value| (INSTALL, value)));
        let text = failure(&mut command);
        assert!(
            text.contains(
                "eventbus-test: Redis is not installed (and tests install it only if TEST_SERVERS_INSTALL is 1): set \
                 REDIS_URL to the URL of a running server, or install it (Debian, Ubuntu: apt-get install \
                 redis-server; macOS: brew install redis)"
            ),
            "{text}"
        );
        assert!(!log.exists());
    }
    let mut command = command(&temp, &["redis"]);
    let text = failure(command.env("PATH", &programs).env(INSTALL, "1"));
    match fs::read_to_string(log) {
        Ok(log) => {
            assert!(log.ends_with("install -y --no-install-recommends redis-server\n"), "{log}");
            assert!(text.contains("(not found even after installing it)"), "{text}");
        }
        Err(_) => assert!(text.contains("(and only root could install it)"), "{text}"),
    }
}

#[test]
fn a_server_that_does_not_start_is_named_with_its_log() {
    let temp = TempFolder::new();
    let programs = temp.folder("programs");
    write_program(&programs, "redis-server", "echo no memory is left");
    let path = format!("{}:{}", programs.display(), env::var("PATH").unwrap());
    let text = failure(command(&temp, &["redis"]).env("PATH", path));
    let (_, after) = text.split_once("eventbus-test: Redis did not start; its log ").unwrap();
    let (log, end) = after.split_once(" ends with:\n").unwrap();
    assert!(end.starts_with("no memory is left\n"), "{text}");
    assert!(wait_until(|| temp.run_folders().is_empty()));
    assert_eq!(fs::read_to_string(log).unwrap(), "no memory is left\n");
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

#[test]
fn a_link_in_place_of_the_users_folder_is_not_followed() {
    let temp = TempFolder::new();
    let user = fs::metadata(&temp.0).unwrap().uid();
    symlink(temp.folder("elsewhere"), temp.0.join(format!("eventbus-test-{user}"))).unwrap();
    let text = failure(&mut command(&temp, &["redis"]));
    assert!(text.contains(&format!("eventbus-test-{user} is not a folder of this user")), "{text}");
}

#[test]
fn postgres_reaches_its_data_also_where_new_folders_are_hidden_from_other_users() {
    let temp = TempFolder::new();
    let asking = command(&temp, &["postgres"]);
    let mut hidden = Command::new("sh");
    hidden.args(["-c", "umask 077 && exec \"$0\" \"$@\""]).arg(asking.get_program()).args(asking.get_args());
    for (name, value) in asking.get_envs() {
        match value {
            Some(value) => hidden.env(name, value),
            None => hidden.env_remove(name),
        };
    }
    hidden.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = Client::spawn(hidden);
    client.read_answers(1);
    assert!(accepts(client.port(0)));
}

/// Writes a program for the shell into a folder.
fn write_program(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn failure(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn take(command: &mut Command) -> Command {
    std::mem::replace(command, Command::new("true"))
}
