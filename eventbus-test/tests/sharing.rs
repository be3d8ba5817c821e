//! Processes of one workspace share one server of each kind, and only of the kinds they ask for.
#![cfg(unix)]

mod common;

use std::{collections::HashSet, fs};

use common::{Client, TempFolder, accepts, command, kill, wait_until};

#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn client_process() {
    common::serve();
}

#[test]
fn both_servers_accept_connections() {
    let temp = TempFolder::new();
    let client = Client::ask(&temp, &["postgres", "redis"]);
    assert!(client.answers[0].starts_with("postgres://postgres@127.0.0.1:"), "{:?}", client.answers);
    assert!(client.answers[1].starts_with("redis://127.0.0.1:"), "{:?}", client.answers);
    assert!(accepts(client.port(0)) && accepts(client.port(1)));
}

#[test]
fn processes_that_ask_at_once_get_the_same_server() {
    let temp = TempFolder::new();
    let mut clients: Vec<_> = (0..6).map(|_| Client::spawn(command(&temp, &["postgres", "redis"]))).collect();
    clients.iter_mut().for_each(|client| client.read_answers(2));
    let answers: HashSet<_> = clients.iter().map(|client| &client.answers).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(temp.run_folders().len(), 2);
}

#[test]
fn packages_of_one_workspace_share_a_server_and_other_workspaces_have_another() {
    let temp = TempFolder::new();
    for workspace in ["shop", "bank"] {
        fs::write(temp.folder(workspace).join("Cargo.lock"), "").unwrap();
    }
    let of_package = |folder: &str| {
        let mut command = command(&temp, &["redis"]);
        command.env("CARGO_MANIFEST_DIR", temp.folder(folder));
        command
    };
    let started_by_hand = |folder: &str| {
        let mut command = of_package(folder);
        command.env_remove("CARGO_MANIFEST_DIR").current_dir(temp.folder(folder));
        command
    };
    let commands = [of_package("shop/orders"), of_package("shop/bills"), started_by_hand("shop/bills/src")];
    let mut clients = commands.map(Client::spawn);
    clients.iter_mut().for_each(|client| client.read_answers(1));
    let answers: HashSet<_> = clients.iter().map(|client| &client.answers).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let mut other = Client::spawn(of_package("bank"));
    other.read_answers(1);
    assert!(!answers.contains(&other.answers), "{answers:?}");
}

#[test]
fn a_server_nobody_asks_for_is_not_started() {
    for (server, other) in [("postgres", "redis"), ("redis", "postgres")] {
        let temp = TempFolder::new();
        let client = Client::ask(&temp, &[server]);
        assert!(accepts(client.port(0)));
        let runs: Vec<_> = temp.run_folders().iter().map(|run| run.display().to_string()).collect();
        assert!(runs.len() == 1 && !runs[0].contains(&format!("run_{other}")), "{runs:?}");
    }
}

#[test]
fn a_signal_to_the_group_of_the_starter_does_not_reach_the_servers() {
    let temp = TempFolder::new();
    let starter = Client::ask(&temp, &["postgres", "redis"]);
    let other = Client::ask(&temp, &["postgres", "redis"]);
    // not INT: a shell that runs the tests in the background has them ignore it
    kill("TERM", &format!("-{}", starter.process.id()));
    // the supervisors still do their work
    let registered = |pid: u32| move |run: &std::path::PathBuf| run.join(format!("clients/{pid}")).exists();
    assert!(wait_until(|| !temp.run_folders().iter().any(registered(starter.process.id()))));
    assert!(temp.run_folders().iter().all(registered(other.process.id())));
    assert!(accepts(other.port(0)) && accepts(other.port(1)));
}

#[test]
fn names_are_unique_across_processes() {
    let temp = TempFolder::new();
    let clients = [Client::ask(&temp, &["name", "name"]), Client::ask(&temp, &["name", "name"])];
    let names: HashSet<_> = clients.iter().flat_map(|client| &client.answers).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn a_notice_left_from_before_a_reboot_is_not_believed() {
    let temp = TempFolder::new();
    let first = Client::ask(&temp, &["redis"]);
    let run = temp.run_folders().remove(0);
    // as if the machine had restarted, and a foreign program now had the port
    let (workspace, name) = (run.parent().unwrap(), "run_redis_stale");
    let stale = workspace.join(name);
    fs::create_dir_all(stale.join("clients")).unwrap();
    fs::write(stale.join("ready"), first.port(0).to_string()).unwrap();
    let long_ago = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    fs::File::create(stale.join("beat")).unwrap().set_times(long_ago).unwrap();
    fs::write(workspace.join("redis.current"), name).unwrap();
    let second = Client::ask(&temp, &["redis"]);
    assert_ne!(first.answers, second.answers);
    assert!(wait_until(|| !stale.exists()), "nobody clears away what was abandoned");
}
