//! How the command ends: exit codes, errors without passwords, and servers on which reading creates nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{OrderPlaced, Ran, Running, assert_json, eventbus, eventbus_unread, eventbus_with};
use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{AppendEvents as _, Checkpoints as _},
};
use eventbus_test::internal::closed_port;
use eventstore_postgres::PgEventStore;
use eventstore_sqlite::SqliteEventStore;
use rusqlite::Connection;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The commands that only read, with what they need.
const OF_STORE: &[&[&str]] = &[
    &["status"],
    &["streams", "list"],
    &["streams", "show", "Order", "o-1"],
    &["follow", "--after", "0"],
    &["projections"],
    &["relay"],
    &["groups"],
    &["lag"],
    &["dead-letters", "list"],
];
const OF_BUS: &[&[&str]] = &[&["status"], &["groups"], &["lag"], &["dead-letters", "list"]];

#[test]
fn a_server_that_refuses_the_connection_is_unreachable_and_its_password_is_not_shown() {
    let port = closed_port();
    for (option, url, shown, commands) in [
        (
            "--store",
            format!("postgres://app:s3cret@127.0.0.1:{port}/orders"),
            "PostgreSQL at `postgres://app@",
            OF_STORE,
        ),
        ("--store", format!("redis://app:s3cret@127.0.0.1:{port}"), "Redis at redis://app@", OF_STORE),
        ("--bus", format!("redis://app:s3cret@127.0.0.1:{port}"), "Redis at redis://app@", OF_BUS),
    ] {
        for command in commands {
            let ran = eventbus(&[&[option, &url], *command].concat());
            assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{command:?} {ran:?}");
            assert!(ran.err.starts_with(&format!("error: {shown}")), "{}", ran.err);
            assert!(!ran.err.contains("s3cret"), "{}", ran.err);
            assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for (file, says) in [
        ("bank.db", "it does not exist; the command `migrate` makes a new store"),
        ("no/such/folder/bank.db", "its directory does not exist"),
    ] {
        let missing = eventbus(&["--store", &format!("sqlite:{}", folder.path().join(file).display()), "status"]);
        assert!(missing.code == 3 && missing.err.contains(says), "{missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_tables_are_a_fault_and_stay_missing() {
    let database = eventbus_test::postgres();
    for command in OF_STORE.iter().copied().chain([&["--dry-run", "migrate"][..]]) {
        let ran = eventbus(&[&["--store", database.url()], command].concat());
        let code = if command.contains(&"migrate") { 0 } else { 2 };
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{command:?} {ran:?}");
        assert!(code == 0 || ran.err.contains("schema `eventbus` is at migration 0"), "{}", ran.err);
    }
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let find = "SELECT count(*) FROM pg_namespace WHERE nspname = 'eventbus'";
    assert_eq!(sqlx::query_scalar::<_, i64>(find).fetch_one(&mut connection).await.unwrap(), 0);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    Connection::open(&path).unwrap().execute_batch("VACUUM").unwrap();
    let before = fs::read(&path).unwrap();
    let url = format!("sqlite:{}", path.display());
    for command in OF_STORE {
        let ran = eventbus(&[&["--store", &url], *command].concat());
        assert_eq!(ran.code, 2, "{command:?} {ran:?}");
        assert!(ran.err.contains("is at migration 0"), "{}", ran.err);
    }
    assert!(fs::read(&path).unwrap() == before);

    let redis = eventbus_test::redis();
    for (options, commands) in [
        (["--store", redis.url(), "--store-prefix", redis.prefix()], OF_STORE),
        (["--bus", redis.url(), "--prefix", redis.prefix()], OF_BUS),
    ] {
        for command in commands {
            let ran = eventbus(&[&options[..], *command].concat());
            assert_eq!(ran.code, 2, "{command:?} {ran:?}");
            assert!(ran.err.contains("holds no"), "{}", ran.err);
        }
    }
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut list = redis::cmd("KEYS");
    let keys: Vec<String> = list.arg(format!("*{}*", redis.prefix())).query_async(&mut connection).await.unwrap();
    assert_eq!(keys, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_release_are_a_fault() {
    let database = eventbus_test::postgres();
    drop(PgEventStore::connect(database.url()).await.unwrap());
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let mut run = async |sql: &str| {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    };
    let status = || eventbus(&["--store", database.url(), "status"]);
    run("DELETE FROM eventbus.migrations WHERE version = 1").await;
    let older = status();
    assert_eq!(older.code, 2);
    assert!(older.err.contains("is at migration 0, this release needs 1"), "{}", older.err);
    run("INSERT INTO eventbus.migrations VALUES (99, 'future', 'breaking')").await;
    let newer = status();
    assert_eq!(newer.code, 2);
    assert!(newer.err.contains("has the breaking migration 99 `future`"), "{}", newer.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_asks_and_creates_the_tables() {
    let (database, folder) = (eventbus_test::postgres(), tempfile::tempdir().unwrap());
    let (file, redis) = (format!("sqlite:{}", folder.path().join("bank.db").display()), eventbus_test::redis());
    for (store, question) in [
        (vec!["--store", database.url()], "create or migrate: 1 initial (breaking)"),
        (vec!["--store", &file], "create or migrate: the file and its tables?"),
        (vec!["--store", redis.url(), "--store-prefix", redis.prefix()], "create or migrate: the key `"),
    ] {
        let run = |more: &[&str]| eventbus(&[&store[..], more].concat());
        let refused = run(&["migrate"]);
        assert_eq!(refused.code, 4, "{refused:?}");
        assert!(refused.err.starts_with(question), "{}", refused.err);
        assert_ne!(run(&["status"]).code, 0);
        assert_eq!(run(&["--yes", "migrate"]).code, 0);
        assert_eq!(run(&["status"]).code, 0);
        let again = run(&["migrate"]);
        assert_eq!((again.code, again.err.as_str()), (0, "the store is up to date\n"));
    }
    let table = "at migration 1 of 1
MIGRATION  NAME  KIND  APPLIED
  1  initial  breaking  yes\n";
    assert_eq!(eventbus(&["--store", &file, "schema"]).masked(), table);
    let initial = json!({ "number": 1, "name": "initial", "kind": "breaking", "applied": true });
    let wanted = json!({ "version": 1, "as_of": "TIME", "at": 1, "known": 1, "migrations": [initial] });
    assert_json(&eventbus(&["--json", "--store", database.url(), "schema"]).masked_json(), &wanted);
}

#[test]
fn wrong_arguments_are_usage() {
    for (arguments, part) in [
        (&["status"][..], "which bus? pass `--bus URL`"),
        (&["streams", "list"], "which store? pass `--store URL`"),
        (&["--store", "mysql://app:s3cret@db/orders", "status"], "`mysql://app@db/orders` names no store"),
        (&["--store", "postgres://app:s3cret@db/orders?ssl_mode=x", "status"], "`ssl_mode`"),
        (&["--store", "postgres://app:s3cret@db/orders?ssl_mode=x", "doctor"], "`ssl_mode`"),
        (&["--store", "postgres://db/a", "--schema", "A b", "status"], "invalid schema name `A b`"),
        (&["--bus", "localhost", "status"], "redis_url"),
        (&["lag", "--over", "many"], "invalid value 'many'"),
        (&["dead-letters", "list", "--older", "2w"], "`w` is no unit of time"),
        (&["unknown"], "unrecognized subcommand"),
        (&["--store", "sqlite:x", "streams", "list", "--limit", "0"], "0 is not in"),
        (&["--store", "sqlite:x", "streams", "show", "Order", "o-1", "--limit", "0"], "0 is not in"),
        // what a script passes of a variable that is not set
        (&["--store", "sqlite:x", "--yes", "dead-letters", "discard", "--error", ""], "required for '--error <TEXT>'"),
        (&["--store", "", "--bus", "redis://127.0.0.1:1", "groups"], "a value is required for '--store <URL>'"),
        (&["--store", "sqlite:x", "--bus", "", "groups"], "a value is required for '--bus <URL>'"),
        (&["--store", "sqlite:x", "dashboard", "--token", ""], "a value is required for '--token <TOKEN>'"),
        (&["--store", "sqlite:x", "dashboard", "--hide", ""], "a value is required for '--hide <FIELD>'"),
    ] {
        let ran = eventbus(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{arguments:?} {ran:?}");
        assert!(ran.err.contains(part) && !ran.err.contains("s3cret"), "{}", ran.err);
    }
}

#[test]
fn help_shows_no_password_of_the_environment() {
    let secret = [("EVENTBUS_STORE", "postgres://app:s3cret@db/orders"), ("EVENTBUS_BUS", "redis://:s3cret@db")];
    for arguments in [&["--help"][..], &["status", "--help"], &["lag", "--over", "many"]] {
        let ran = eventbus_with(arguments, &secret);
        assert!(!format!("{}{}", ran.out, ran.err).contains("s3cret"), "{ran:?}");
    }
}

/// The help, the README and the guide list the same exit codes.
#[test]
fn the_exit_codes_are_documented() {
    let help = eventbus(&["--help"]);
    assert_eq!(help.code, 0);
    let line = help.out.lines().find_map(|line| line.strip_prefix("Exit codes: ")).unwrap();
    let listed: Vec<_> = line.split(", ").map(|code| code.split(' ').next().unwrap()).collect();
    assert_eq!(listed, ["0", "1", "2", "3", "4", "64", "130"]);
    for file in ["README.md", "../guide/src/operating.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let table = text.split("| exit code | meaning |\n|---|---|\n").nth(1).unwrap().split("\n\n").next().unwrap();
        let documented: Vec<_> = table.lines().map(|row| row.split('|').nth(1).unwrap().trim()).collect();
        assert_eq!(documented, listed, "{file}");
    }
}

/// Returns the commands that a text names, from the word after the name of the program on.
fn commands_in(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (before, after) in [("`eventbus ", '`'), ("`bank ", '`'), ("$ eventbus ", '\n'), ("$ bank ", '\n')] {
        let found = text.split(before).skip(1).filter_map(|rest| rest.split(after).next());
        commands.extend(found.map(str::to_owned));
    }
    // in these blocks a command has no prompt
    for block in text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let found = block.lines().filter_map(|line| line.strip_prefix("eventbus ").or(line.strip_prefix("bank ")));
        commands.extend(found.map(str::to_owned));
    }
    commands
}

#[test]
fn commands_are_found_in_text_and_in_blocks_of_a_shell() {
    let text = "`eventbus lag` or\n\n```sh\ncargo run\neventbus dashboard --token x\nbank status\n```\n\n\
                ```console\n$ eventbus relay\neventbus is no command here\n```\n";
    assert_eq!(commands_in(text), ["lag", "relay", "dashboard --token x", "status"]);
}

/// README and guide name commands and options that exist.
#[test]
fn the_documented_commands_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files: Vec<_> = ["README.md", "eventbus-cli/README.md"].map(|file| root.join(file)).into();
    for folder in ["guide/src", "guide/src/moving"] {
        let listed = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.extend(listed.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut checked = 0;
    for file in files {
        for named in commands_in(&fs::read_to_string(&file).unwrap()) {
            let mut words: Vec<_> = named.split_whitespace().collect();
            // these need the types of an application, and are in its binary only
            if ["rebuild", "replay", "catalog", "help"].contains(&words[0]) {
                continue;
            }
            // the options of all commands may come first
            while words[0].starts_with("--") {
                words.drain(..2);
            }
            let options: Vec<_> = words.iter().filter(|word| word.starts_with("--")).collect();
            let subcommands = words
                .iter()
                .take(2)
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'));
            let help = eventbus(&subcommands.copied().chain(["--help"]).collect::<Vec<_>>());
            assert_eq!(help.code, 0, "{}: `eventbus {named}`: {}", file.display(), help.err);
            for option in options {
                let is_known = help.out.split_whitespace().any(|word| word.trim_end_matches(',') == *option);
                assert!(is_known, "{}: `eventbus {named}` has no option {option}", file.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
}

/// The table of the README has each command, and only these; its subcommands and options exist.
#[test]
fn the_readme_lists_each_command() {
    let help = eventbus(&["--help"]).out;
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands: BTreeSet<_> = commands.filter(|word| !["", "help"].contains(word)).collect();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let table = readme.split("| command | shows or does |\n|---|---|\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut found = BTreeSet::new();
    for row in table.lines() {
        let cell = row.split('|').nth(1).unwrap();
        let mut command = None;
        for named in cell.split('`').skip(1).step_by(2) {
            let words: Vec<_> = named.split([' ', '[', ']']).filter(|word| !word.is_empty()).collect();
            if commands.contains(words[0]) {
                command = Some(words[0]);
                found.insert(words[0]);
            }
            let of_command = command.unwrap_or_else(|| panic!("`{named}` is no command"));
            let is_lower =
                |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
            let mut path: Vec<_> = words.iter().take_while(is_lower).copied().collect();
            if path[0] != of_command {
                path.insert(0, of_command);
            }
            let help = eventbus(&[&path[..], &["--help"]].concat());
            assert_eq!(help.code, 0, "`{named}`: {}", help.err);
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.out.contains(option), "`{named}` has no option {option}");
            }
        }
    }
    assert_eq!(found, commands);
}

#[test]
fn the_environment_names_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("bank.db").display());
    let variables = [("EVENTBUS_STORE", url.as_str())];
    assert_eq!(eventbus_with(&["--yes", "migrate"], &variables).code, 0);
    assert_eq!(eventbus_with(&["status"], &variables).code, 0);
}

#[test]
fn an_empty_variable_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("bank.db").display());
    assert_eq!(eventbus(&["--store", &url, "--yes", "migrate"]).code, 0);
    let help = eventbus(&["--help"]).out;
    let named = help.split("[env:").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    let variables: Vec<_> = named.map(|name| (name.trim(), "")).collect();
    assert!(variables.len() >= 10, "{help}");
    for variable in &variables {
        let ran = eventbus_with(&["--store", &url, "status"], &[*variable]);
        assert_eq!(ran.code, 0, "{variable:?} {ran:?}");
    }
    let bus = format!("redis://127.0.0.1:{}", closed_port());
    let ran = eventbus_with(&["--bus", &bus, "groups"], &variables);
    assert_eq!(ran.code, 3, "the prefixes of the bus are the defaults: {ran:?}");
    let missing = eventbus_with(&["--store", &url, "copy"], &[("EVENTBUS_TO", "")]);
    assert!(missing.code == 64 && missing.err.contains("--to"), "{missing:?}");
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = eventbus(&["completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains("dead-letters"), "{shell}");
    }
    // what bash does with the script, and offers behind `eventbus dead-`
    let script = "eval \"$(\"$EVENTBUS\" completions bash)\"; COMP_WORDS=(eventbus dead-); COMP_CWORD=1; \
                  _eventbus eventbus dead- eventbus; echo \"${COMPREPLY[@]}\"";
    let bash =
        Command::new("bash").args(["-euc", script]).env("EVENTBUS", env!("CARGO_BIN_EXE_eventbus")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&bash.stdout), "dead-letters\n", "{bash:?}");
}

/// A file with many events.
async fn long_store(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("bank.db");
    let store = SqliteEventStore::open(&path).await.unwrap();
    let events = (0..5_000).map(|cents| NewEvent::from_event(&OrderPlaced { cents }).unwrap());
    let stream = StreamId::parse("Order", "o-1").unwrap();
    store.append(&stream, ExpectedVersion::NoStream, events.collect()).await.unwrap();
    format!("sqlite:{}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_output_may_go_away() {
    let folder = tempfile::tempdir().unwrap();
    let url = long_store(&folder).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_eventbus"))
        .args(["--store", &url, "--json", "streams", "show", "Order", "o-1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take()); // the pipe holds less than 5,000 events
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_over_the_limit_counts_although_no_process_reads_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let url = long_store(&folder).await;
    let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    store.save_checkpoint(&Name::from_static("projection:rows"), Position::new(4_990)).await.unwrap();
    for (over, code) in [("9", 1), ("10", 0)] {
        for options in [&[][..], &["--json"]] {
            let arguments = [&["--store", &url, "lag", "--over", over], options].concat();
            assert_eq!(eventbus_unread(&arguments), Some(code), "{arguments:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_following_and_the_next_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let url = long_store(&folder).await;
    let mut following = Running::start(&["--store", &url, "--json", "follow", "--after", "4998"]);
    let first: Value = serde_json::from_str(&following.line()).unwrap();
    assert_eq!(first["event"]["position"], "4999");
    following.line();
    following.interrupt();
    assert_eq!(following.child.wait().unwrap().code(), Some(130));
    assert_eq!(following.end(), [""; 0], "it ends without an error");
    let rest = eventbus(&["--store", &url, "--json", "follow", "--after", "4999", "--until", "head"]);
    assert_eq!(rest.documents()[0]["event"]["position"], "5000");
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_shows_the_lag_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let url = long_store(&folder).await;
    let watching = Running::start(&["--store", &url, "--json", "lag", "--watch", "100ms"]);
    let store = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    for behind in [10, 4, 0] {
        let at = Position::new(5_000 - behind);
        store.save_checkpoint(&Name::from_static("projection:rows"), at).await.unwrap();
        let shown = (0..600).any(|_| {
            let document: Value = serde_json::from_str(&watching.line()).unwrap();
            document["readers"][0]["events"] == json!(behind)
        });
        assert!(shown, "the lag of {behind} events is not shown");
    }
}

#[test]
fn the_doctor_ends_as_its_worst_finding_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.db");
    let store = format!("sqlite:{}", path.display());
    assert_eq!(eventbus(&["--store", &store, "migrate", "--yes"]).code, 0);
    let healthy = eventbus(&["--store", &store, "--json", "doctor", "--skip", "sqlite-disk"]);
    assert_eq!(healthy.code, 0, "{healthy:?}");
    let report: Value = serde_json::from_str(&healthy.out).unwrap();
    assert_eq!((&report["version"], &report["findings"]), (&json!(1), &json!([])), "{report}");

    Connection::open(&path)
        .unwrap()
        .execute("INSERT INTO eventbus_checkpoints VALUES ('projection:rows', 9, 0)", [])
        .unwrap();
    let broken = eventbus(&["--store", &store, "doctor", "--only", "sqlite-checkpoint-ahead"]);
    assert_eq!(broken.code, 2, "{broken:?}");
    assert!(broken.out.contains("sqlite-checkpoint-ahead"), "{}", broken.out);
    let skipped = eventbus(&["--store", &store, "doctor", "--skip", "sqlite-checkpoint-ahead,sqlite-disk"]);
    assert_eq!(skipped.code, 0, "{skipped:?}");
    // a caller that names a check relies on it
    let elsewhere = eventbus(&["--store", &store, "doctor", "--only", "pg-fsync"]);
    assert!(elsewhere.code == 1 && elsewhere.out.contains("NOT CHECKED pg-fsync"), "{elsewhere:?}");
    let long = eventbus(&["--store", &store, "--timeout", "1e19", "doctor", "--only", "sqlite-journal"]);
    assert!(long.code == 0 && long.out.contains("1 check healthy"), "{long:?}");
    let deep = eventbus(&["--store", &store, "doctor", "--only", "sqlite-integrity"]);
    assert!(deep.code == 0 && deep.out.contains("1 check healthy"), "{deep:?}");

    let listed: Value = serde_json::from_str(&eventbus(&["doctor", "--list", "--json"]).out).unwrap();
    let names = listed["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap());
    assert!(names.eq(eventbus_cli::doctor::checks().map(eventbus_cli::doctor::Check::name)), "{listed}");

    for (arguments, named) in [
        (&["doctor"][..], "pass `--store URL`"),
        (&["--store", &store, "doctor", "--only", "sqlite-indx"][..], "the nearest is `sqlite-index`"),
        (&["--store", "sqlite::memory:", "doctor"][..], "a database in memory"),
        (&["--store", "sqlite:bank.db?mode=ro", "doctor"][..], "parameters are not understood"),
        (&["--bus", "redis://app:s3cret@localhost:port", "doctor"][..], "is no Redis URL"),
    ] {
        let refused = eventbus(arguments);
        assert!(refused.code == 64 && refused.err.contains(named) && !refused.err.contains("s3cret"), "{refused:?}");
    }
    let bus = format!("redis://app:s3cret@127.0.0.1:{}", closed_port());
    let away = eventbus(&["--bus", &bus, "doctor"]);
    assert!(away.code == 3 && !away.err.contains("s3cret") && !away.out.contains("s3cret"), "{away:?}");
    // what can be examined is
    let half_away = eventbus(&["--store", &store, "--bus", &bus, "doctor", "--skip", "sqlite-checkpoint-ahead"]);
    assert!(half_away.code == 3 && half_away.out.contains("NOT CHECKED redis-"), "{half_away:?}");
    let database = format!("postgres://app:s3cret@127.0.0.1:{}/shop", closed_port());
    let away = eventbus(&["--store", &database, "doctor"]);
    assert!(away.code == 3 && !away.out.contains("s3cret"), "{away:?}");
    // at once, as the driver says, not after the timeout of a pool
    assert!(away.out.contains("NOT CHECKED pg-") && away.out.contains("Connection refused"), "{away:?}");
    let missing = format!("sqlite:{}", folder.path().join("missing.db").display());
    let away = eventbus(&["--store", &missing, "doctor"]);
    assert!(away.code == 3 && away.out.contains("NOT CHECKED sqlite-wal-size"), "{away:?}");
    let no_database = folder.path().join("text.db");
    fs::write(
        &no_database,
        "no database, but a text that is long enough to have a header of a hundred bytes ".repeat(20),
    )
    .unwrap();
    let damaged = eventbus(&["--store", &format!("sqlite:{}", no_database.display()), "doctor"]);
    assert!(damaged.code == 2 && damaged.out.contains("is damaged, or no database of SQLite"), "{damaged:?}");
}

/// Replies to each request of a connection after a delay that is longer than the driver waits by default.
fn reply_late(listener: &TcpListener) {
    for client in listener.incoming() {
        let mut client = client.unwrap();
        std::thread::spawn(move || {
            let mut request = [0; 4096];
            while client.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                std::thread::sleep(Duration::from_secs(1)); // the server that is slow
                let commands = String::from_utf8_lossy(&request).matches('*').count();
                if client.write_all("-NOPERM no rights\r\n".repeat(commands.max(1)).as_bytes()).is_err() {
                    return;
                }
                request.fill(0);
            }
        });
    }
}

#[test]
fn the_doctor_waits_for_a_slow_redis_as_long_as_it_may() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bus = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || reply_late(&listener));
    let slow = eventbus(&["--bus", &bus, "--timeout", "20s", "doctor", "--only", "redis-eviction"]);
    assert!(slow.out.contains("NOPERM") || slow.out.contains("rights"), "{slow:?}");
}

#[test]
fn a_new_crate_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let crate_folder = folder.path().join("two-banks").display().to_string();
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let made = eventbus(&["new", &crate_folder, "--path", checkout]);
    assert_eq!((made.code, made.out), (0, format!("made {crate_folder}: see its README.md\n")));
    assert!(made.err.starts_with(&format!("note: {crate_folder}/Cargo.toml takes eventbus from ../")), "{}", made.err);
    assert!(fs::read_to_string(folder.path().join("two-banks/src/lib.rs")).unwrap().contains("pub fn app()"));
    for options in [&[][..], &["--dry-run"]] {
        let again = eventbus(&[&["new", &crate_folder, "--path", checkout], options].concat());
        assert!(again.code == 64 && again.err.contains("exists already"), "{again:?}");
    }
    let of_repository = folder.path().join("of-git").display().to_string();
    let made = eventbus(&["new", &of_repository, "--git", "https://host/eventbus"]);
    assert_eq!((made.code, made.err.as_str()), (0, ""), "CI has what it needs");
}

/// The target folder of new crates, which stays for the next run.
const NEW_CRATE_TARGET: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/new-crate");

/// Runs cargo in a new crate, as its user does.
fn cargo_in(new: &Path, arguments: &[&str]) -> Ran {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).current_dir(new).env("CARGO_TARGET_DIR", NEW_CRATE_TARGET).stdin(Stdio::null());
    for variable in ["RUSTFLAGS", "DATABASE_URL", "REDIS_URL", "EVENTBUS_STORE", "EVENTBUS_BUS"] {
        cargo.env_remove(variable);
    }
    // a service that starts in place of a command ends at once
    cargo.env("LISTEN", "no address");
    let output = cargo.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// The last commit of this checkout, as a repository that a new crate takes eventbus from.
#[test]
#[ignore = "downloads all dependencies: `cargo test -p eventbus-cli --test exit_codes -- --ignored`"]
fn a_new_crate_takes_eventbus_from_a_repository() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    if !checkout.join(".git").exists() {
        // past the captured output of the test
        let _ = writeln!(std::io::stderr(), "skipped, not run: `new --git`, because the checkout is no git repository");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("of-git");
    let url = format!("file://{}", checkout.display());
    let made = eventbus(&["new", new.to_str().unwrap(), "--git", &url]);
    assert_eq!(made.code, 0, "{made:?}");
    let resolved = cargo_in(&new, &["metadata", "--format-version", "1"]);
    assert_eq!(resolved.code, 0, "{}", resolved.err);
    let metadata: Value = serde_json::from_str(&resolved.out).unwrap();
    for name in ["eventbus", "eventbus-cli", "eventbus-redis", "eventstore-postgres", "eventstore-sqlite"] {
        let of_name = |package: &&Value| package["name"] == name;
        let package = metadata["packages"].as_array().unwrap().iter().find(of_name);
        let source = package.unwrap_or_else(|| panic!("no {name}"))["source"].as_str();
        assert!(source.is_some_and(|source| source.starts_with(&format!("git+{url}"))), "{name}: {source:?}");
    }
}

/// A new crate, as its user has it: outside of this workspace, with the newest dependencies that fit.
#[test]
#[ignore = "compiles all dependencies: `cargo test -p eventbus-cli --test exit_codes -- --ignored`"]
fn a_new_crate_compiles_and_its_tests_pass() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("my_app2-order-service");
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let made = eventbus(&["new", new.to_str().unwrap(), "--path", checkout]);
    assert_eq!(made.code, 0, "{made:?}");
    let run = |arguments: &[&str]| cargo_in(&new, arguments);
    let cargo = |arguments: &[&str]| {
        let ran = run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?} {ran:?}");
        ran.out
    };
    cargo(&["build", "--quiet"]);
    let tested = cargo(&["test", "--quiet"]);
    let passed = |line: &str| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<u32>().ok();
    let passed: u32 = tested.lines().filter_map(passed).sum();
    assert!(passed >= 5, "{tested}");
    // the commands of operators in its own binary
    let command = |arguments: &[&str]| run(&[&["run", "--quiet", "--"], arguments].concat());
    let document = |arguments: &[&str]| {
        let ran = command(arguments);
        assert_eq!(ran.code, 0, "{arguments:?} {ran:?}");
        serde_json::from_str::<Value>(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"))
    };
    let catalog = document(&["catalog", "--json"]);
    let names = |list: &str, field: &str| {
        let entries = catalog[list].as_array().unwrap().iter();
        entries.map(|entry| entry[field].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("events", "event_type"), ["Deposited", "Withdrawn"]);
    assert_eq!(names("aggregates", "aggregate_type"), ["Account"]);
    assert_eq!(names("handlers", "name"), ["receipt"]);
    assert_eq!(names("projections", "name"), ["balances"]);
    let database = new.join("my_app2-order-service.db");
    assert!(!database.exists(), "the catalog needs no store");
    let readme = fs::read_to_string(new.join("README.md")).unwrap();
    let shown = readme.lines().filter_map(|line| line.strip_prefix("cargo run -- ")?.split('#').next());
    let shown: Vec<Vec<_>> = shown.map(|arguments| arguments.split_whitespace().collect()).collect();
    assert!(shown.contains(&vec!["dead-letters", "list"]) && shown.len() >= 5, "{shown:?}");
    for arguments in shown {
        let ran = command(&arguments);
        assert!(ran.code == 0 && !ran.out.is_empty(), "{arguments:?} {ran:?}");
    }
    let status = document(&["status", "--json"]);
    assert!(database.exists() && status["store"].as_str().unwrap().contains("my_app2-order-service.db"), "{status}");
    assert_eq!(document(&["dead-letters", "list", "--json"])["dead_letters"], json!([]));
    let in_memory = command(&["rebuild", "balances"]);
    assert!(in_memory.code == 64 && in_memory.err.contains("each start of the program folds it anew"), "{in_memory:?}");
    let mistyped = command(&["statos"]);
    assert!(mistyped.code == 64 && mistyped.err.contains("'status'"), "it does not start the service: {mistyped:?}");
    let program = Path::new(NEW_CRATE_TARGET).join("debug/my_app2-order-service");
    ask_service(Command::new(&program).current_dir(&new), &readme);
    let (database, redis) = (eventbus_test::postgres(), eventbus_test::private_redis());
    let mut on_servers = Command::new(&program);
    on_servers.current_dir(&new).env("DATABASE_URL", database.url()).env("REDIS_URL", redis.url());
    ask_service(&mut on_servers, &readme);
    // what its own CI runs
    let ci = fs::read_to_string(new.join(".github/workflows/ci.yml")).unwrap();
    let steps: Vec<_> = ci.lines().filter_map(|line| line.trim().strip_prefix("- run: cargo ")).collect();
    assert_eq!(steps, ["fmt --check", "clippy --all-targets -- -D warnings", "test"]);
    for step in steps {
        cargo(&step.split(' ').collect::<Vec<_>>());
    }
    // without the commands it serves all the same
    cargo(&["clippy", "--quiet", "--all-targets", "--no-default-features", "--", "-D", "warnings"]);
}

/// Starts a service, asks it as its README says, and ends it.
fn ask_service(program: &mut Command, readme: &str) {
    let mut service = program.env("LISTEN", "127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(service.stdout.take().unwrap()).lines();
    let address = shown.find_map(|line| Some(line.unwrap().strip_prefix("listening on http://")?.to_owned())).unwrap();
    let ask = |line: &str| {
        let line = line.replace("curl localhost:8000", &format!("curl --silent --show-error --fail {address}"));
        let asked = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert!(asked.status.success(), "{line}: {}", String::from_utf8_lossy(&asked.stderr));
        String::from_utf8(asked.stdout).unwrap()
    };
    let lines: Vec<_> = readme.lines().filter(|line| line.starts_with("curl ")).collect();
    let [deposit, balances] = lines[..] else { panic!("{lines:?}") };
    let deposited = ask(deposit);
    assert!(deposited.contains("\"position\":"), "{deposited}");
    let began = Instant::now();
    while ask(balances) != r#"{"cents":{"ada":120}}"# {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", ask(balances));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Command::new("kill").args(["-TERM", &service.id().to_string()]).status().unwrap().success());
    assert!(service.wait().unwrap().success());
}
