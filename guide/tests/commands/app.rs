//! The commands in the binary of an application.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use eventbus::{ExpectedVersion, Name, NewEvent, StreamId, store::AppendEvents as _};
use eventstore_postgres::{
    PgConnection, PgEventStore,
    sqlx::{self, Connection as _},
};
use guide::bank::Deposited;
use serde_json::{Value, json};

use super::bank::{Bank, Ran};

/// Returns the one document of a command.
#[track_caller]
fn document(ran: &Ran) -> Value {
    let mut document: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    document.as_object_mut().unwrap().remove("as_of").unwrap();
    document
}

async fn balance(connection: &mut PgConnection) -> i64 {
    let read = "SELECT cents FROM balances WHERE account = 'ada'";
    sqlx::query_scalar(read).fetch_one(connection).await.unwrap()
}

async fn connect(bank: &Bank) -> PgConnection {
    PgConnection::connect(bank.database_url()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuild_replaces_the_rows_and_asks_before() {
    let bank = Bank::after_a_day();
    let mut connection = connect(&bank).await;
    assert_eq!(balance(&mut connection).await, 5_120);
    sqlx::query("UPDATE balances SET cents = 1").execute(&mut connection).await.unwrap();

    let unasked = bank.bank(&["rebuild", "balances"]);
    assert_eq!((unasked.code, unasked.out.as_str()), (4, ""), "{unasked:?}");
    assert!(unasked.err.starts_with("rebuild projection `balances` of "), "{}", unasked.err);
    let tried = bank.bank(&["rebuild", "balances", "--dry-run"]);
    assert_eq!(tried.code, 0, "{tried:?}");
    assert_eq!(balance(&mut connection).await, 1, "a dry run changes nothing");

    let mut rebuilt = document(&bank.bank(&["rebuild", "balances", "--yes", "--json"]));
    assert!(rebuilt.as_object_mut().unwrap().remove("took").is_some());
    let due = json!({ "version": 1, "projection": "balances", "events": 2, "skipped": 0, "position": "4" });
    assert_eq!(rebuilt, due);
    assert_eq!(balance(&mut connection).await, 5_120);

    for consent in ["--yes", "--dry-run"] {
        let unknown = bank.bank(&["rebuild", "balanses", consent]);
        assert_eq!((unknown.code, unknown.out.as_str()), (64, ""), "{unknown:?}");
        assert_eq!(unknown.err, "error: the app has no projection `balanses` (it has: balances)\n");
    }
}

#[test]
fn at_a_terminal_rebuild_and_replay_show_progress() {
    let bank = Bank::after_a_day();
    for (command, work) in [("rebuild balances --yes", "rebuilding "), ("replay thank --after 0 --yes", "replaying ")] {
        // the program of util-linux that makes terminals
        let line = format!("TERM=xterm script --quiet --return --command 'bank {command}' /dev/null");
        let shown = bank.shell(&line);
        if shown.contains("script: not found") {
            eprintln!("not run: `script` of util-linux is not installed");
            return;
        }
        assert!(shown.contains(work) && shown.contains(" positions "), "{command}: {shown:?}");
    }
}

/// A rebuild of rows that takes some time.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_interrupted_goes_on() {
    const DEPOSITS: i64 = 4_000;
    let bank = Bank::after_a_day();
    let store = PgEventStore::connect(bank.database_url()).await.unwrap();
    let deposits = (0..DEPOSITS).map(|_| NewEvent::from_event(&Deposited { cents: 1 }).unwrap()).collect();
    let bob = StreamId::parse("Account", "bob").unwrap();
    store.append(&bob, ExpectedVersion::NoStream, deposits).await.unwrap();
    let mut connection = connect(&bank).await;
    sqlx::query("UPDATE balances SET cents = 1").execute(&mut connection).await.unwrap();

    let mut rebuild = bank.start(&["rebuild", "balances", "--yes"]);
    // the copies of the rows stand beside the live ones, and have rows
    let copies = "SELECT schemaname::text FROM pg_tables WHERE tablename = 'balances' AND schemaname <> 'public'";
    let copy = loop {
        assert!(rebuild.try_wait().unwrap().is_none(), "the rebuild ended before the test could interrupt it");
        if let Some(schema) = sqlx::query_scalar::<_, String>(copies).fetch_optional(&mut connection).await.unwrap() {
            let rows = format!("SELECT count(*) FROM \"{schema}\".balances");
            if sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(rows)).fetch_one(&mut connection).await.unwrap() > 0 {
                break schema;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let interrupt = Command::new("kill").args(["-INT", &rebuild.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    assert_eq!(rebuild.wait().unwrap().code(), Some(130));
    assert_eq!(balance(&mut connection).await, 1, "the live rows stay as they were");
    // ada's events come first: a rebuild that begins anew would not keep this
    let mark = format!("UPDATE \"{copy}\".balances SET cents = 7 WHERE account = 'ada'");
    assert_eq!(sqlx::query(sqlx::AssertSqlSafe(mark)).execute(&mut connection).await.unwrap().rows_affected(), 1);

    let rebuilt = document(&bank.bank(&["rebuild", "balances", "--yes", "--json"]));
    assert_eq!(rebuilt["events"], 2 + DEPOSITS);
    assert_eq!(balance(&mut connection).await, 7);
    let of_bob = "SELECT cents FROM balances WHERE account = 'bob'";
    assert_eq!(sqlx::query_scalar::<_, i64>(of_bob).fetch_one(&mut connection).await.unwrap(), DEPOSITS);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_interrupted_says_where_to_go_on() {
    const DEPOSITS: usize = 20_000;
    let bank = Bank::after_a_day();
    let store = PgEventStore::connect(bank.database_url()).await.unwrap();
    let bob = StreamId::parse("Account", "bob").unwrap();
    for _ in 0..DEPOSITS / 1_000 {
        let deposits = (0..1_000).map(|_| NewEvent::from_event(&Deposited { cents: 1 }).unwrap()).collect();
        store.append(&bob, ExpectedVersion::Any, deposits).await.unwrap();
    }

    let mut replay = bank.start_read(&["replay", "thank", "--after", "4", "--yes"]);
    // it waits for its reader before the last one
    let mut shown = BufReader::new(replay.stdout.take().unwrap()).lines();
    assert_eq!(shown.next().unwrap().unwrap(), "thank you, bob, for 1 cents");
    let interrupt = Command::new("kill").args(["-INT", &replay.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let thanked = 1 + shown.count();
    let ended = replay.wait_with_output().unwrap();
    let errors = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{errors}");
    let after = errors.split("go on with `--after ").nth(1).unwrap_or_else(|| panic!("{errors}"));
    let after = after.split('`').next().unwrap();
    let rest = bank.bank(&["replay", "thank", "--after", after, "--yes"]);
    assert_eq!(rest.code, 0, "{rest:?}");
    // the event that was under way may have been handled
    let all = thanked + rest.out.lines().count() - 1;
    assert!((DEPOSITS..=DEPOSITS + 1).contains(&all), "{all} thanked: {errors}");
    store.close().await;
}

#[test]
fn replay_runs_one_handler_and_ends_at_the_first_failure() {
    let bank = Bank::after_a_day();
    let groups = || document(&bank.eventbus(&["groups", "--json"]));
    let before = groups();
    let failed = bank.bank(&["replay", "thank", "--after", "0", "--yes", "--json"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    let (thanks, shown) = failed.out.split_once('\n').unwrap();
    assert_eq!(thanks, "thank you, ada, for 120 cents");
    let shown: Value = serde_json::from_str(shown).unwrap();
    assert_eq!((&shown["events"], &shown["position"]), (&json!(1), &json!("2")));
    let error = shown["error"].as_str().unwrap();
    assert!(error.contains("at position 3: the form has no room for 5000 cents"), "{error}");

    // the failure counts although no process reads of it
    let mut unread = bank.start_read(&["replay", "thank", "--after", "2", "--yes"]);
    drop(unread.stdout.take());
    assert_eq!(unread.wait().unwrap().code(), Some(1));

    // the deposit before is not thanked for again
    let again = bank.shell("LONG_FORM=1 bank replay thank --after 2 --yes");
    assert_eq!(again, "thank you, ada, for 5000 cents\n`thank` handled 1 event, up to position 4\n");
    let dry = bank.bank(&["replay", "thank", "--after", "0", "--dry-run"]);
    assert_eq!((dry.code, dry.out.as_str()), (0, ""), "{dry:?}");
    let would = "dry run: run handler `thank` on its events after position 0 up to the end of ";
    assert!(dry.err.starts_with(would), "{}", dry.err);
    let recent = bank.bank(&["replay", "thank", "--since", "0s", "--yes"]);
    assert_eq!((recent.code, recent.out.as_str()), (0, "`thank` handled 0 events, up to position 4\n"), "{recent:?}");
    let none = bank.bank(&["replay", "thank", "--after", "0", "--through", "1", "--yes"]);
    assert_eq!((none.code, none.out.as_str()), (0, "`thank` handled 0 events, up to position 1\n"), "{none:?}");
    assert_eq!(groups(), before, "no group moves");

    assert_eq!(bank.bank(&["replay", "thank", "--yes"]).code, 64, "it does not guess where to begin");
    for consent in ["--yes", "--dry-run"] {
        let unknown = bank.bank(&["replay", "thanks", "--after", "0", consent]);
        assert_eq!((unknown.code, unknown.out.as_str()), (64, ""), "{unknown:?}");
        assert_eq!(unknown.err, "error: the app has no handler `thanks` (it has: thank)\n");
    }
}

/// Returns the one document of a command without times: how long an event has waited is a different time later.
fn without_times(ran: &Ran) -> String {
    let fields = document(ran).to_string();
    fields.split(',').filter(|field| !field.contains("seconds") && !field.contains("_ms")).collect()
}

#[test]
fn other_commands_work_with_the_store_and_the_bus_of_the_application() {
    let bank = Bank::after_a_day();
    for command in [&["status"][..], &["groups"], &["projections"], &["relay"], &["dead-letters", "list"], &["lag"]] {
        let arguments = [command, &["--json"]].concat();
        let by_urls = without_times(&bank.eventbus(&arguments));
        assert_eq!(without_times(&bank.bank(&arguments)), by_urls, "{command:?}");
        // a half that is named goes with the other half of the application
        let of_store = [("EVENTBUS_STORE", bank.database_url())];
        for named in [&of_store[..], &bank.bus_variables()] {
            assert_eq!(without_times(&bank.bank_with(&arguments, named)), by_urls, "{command:?} {named:?}");
        }
    }
    let refused = bank.bank_with(&["groups", "retire", "mail", "--yes"], &[("EVENTBUS_STORE", bank.database_url())]);
    assert!(refused.code == 64 && refused.err.contains("name the bus by `--bus URL`"), "{refused:?}");
}

/// The handlers and projections that only the builder names.
#[test]
fn manual_parts_of_the_application_are_in_its_catalog_and_are_not_rebuilt_in_memory() {
    let bank = Bank::after_a_day();
    let manual = [("BANK_MANUAL", "1")];
    let catalog = document(&bank.bank_with(&["catalog", "--app", "--json"], &manual));
    let names = |list: &str| {
        let rows = catalog[list].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("handlers"), ["audit", "thank"]);
    assert_eq!(names("projections"), ["balances", "counted"]);
    assert_eq!(
        catalog["groups"],
        json!([{ "name": "audit", "handlers": ["audit"] }, { "name": "mail", "handlers": ["thank"] }])
    );
    let described = bank.bank_with(&["catalog", "--app", "--format", "asyncapi"], &manual);
    let described: Value = serde_json::from_str(&described.out).unwrap();
    let [_, (_, prefix)] = bank.bus_variables();
    assert_eq!(described["channels"]["events"]["address"], format!("{prefix}:stream"));
    let linked = document(&bank.bank_with(&["catalog", "--json"], &manual));
    assert_eq!(linked["handlers"].as_array().unwrap().len(), 1, "{linked}");

    for consent in ["--yes", "--dry-run"] {
        let refused = bank.bank_with(&["rebuild", "counted", consent], &manual);
        assert_eq!((refused.code, refused.out.as_str()), (64, ""), "{refused:?}");
        assert!(
            refused.err.contains("keeps its state in memory: each start of the program folds it anew"),
            "{refused:?}"
        );
    }
}

/// The doctor of the command alone knows no types, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_knows_the_types_of_the_application() {
    let bank = Bank::after_a_day();
    let store = [("EVENTBUS_STORE", bank.database_url())];
    let doctor = ["doctor", "--only", "pg-event-types"];
    let healthy = bank.bank_with(&doctor, &store);
    assert_eq!(healthy.code, 0, "{healthy:?}");
    assert!(healthy.out.starts_with("1 check healthy"), "{healthy:?}");

    let events = PgEventStore::connect(bank.database_url()).await.unwrap();
    let closed = NewEvent::new(Name::from_static("Closed"), 1, "{}");
    let newer = NewEvent::new(Name::from_static("Deposited"), 2, r#"{"cents":1}"#);
    let bob = StreamId::parse("Account", "bob").unwrap();
    events.append(&bob, ExpectedVersion::NoStream, vec![closed, newer]).await.unwrap();
    events.close().await;
    let ill = bank.bank_with(&doctor, &store);
    assert_eq!(ill.code, 1, "{ill:?}");
    assert!(ill.out.contains("events of types that this program does not know are stored: `Closed`"), "{ill:?}");
    assert!(ill.out.contains("newer schema versions than this program knows are stored: `Deposited`"), "{ill:?}");
    let alone = bank.eventbus(&doctor);
    assert_eq!(alone.code, 1, "it was named, and cannot be made: {alone:?}");
    assert!(alone.out.contains("NOT CHECKED pg-event-types  no list of known event types was given"), "{alone:?}");
}

#[test]
fn the_catalog_needs_no_server_and_a_mistake_does_not_start_the_application() {
    let run = |arguments: &[&str]| {
        let mut bank = Command::new(env!("CARGO_BIN_EXE_bank"));
        let output = bank.args(arguments).env_clear().stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    };
    let catalog = document(&run(&["catalog", "--json"]));
    let names = |list: &str, field: &str| {
        let rows = catalog[list].as_array().unwrap().iter();
        rows.map(|row| row[field].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("events", "event_type"), ["Deposited", "Opened", "Withdrawn"]);
    assert_eq!(names("aggregates", "aggregate_type"), ["Account"]);
    assert_eq!(names("handlers", "name"), ["thank"]);
    assert_eq!(catalog["groups"], json!([{ "name": "mail", "handlers": ["thank"] }]));
    assert_eq!(names("projections", "name"), ["balances"]);
    let tables = run(&["catalog"]);
    assert!(tables.out.contains("\n\nGROUP  HANDLERS\nmail   thank\n\n"), "{tables:?}");
    let deposited = &catalog["events"][0];
    let schema = json!({
        "type": "object", "properties": { "cents": { "type": "integer" } }, "required": ["cents"],
    });
    assert_eq!(deposited["schema"], schema);
    assert!(deposited["examples"].as_array().unwrap().iter().all(|example| example["cents"].is_i64()), "{deposited}");

    let schemas: Value = serde_json::from_str(&run(&["catalog", "--format", "json-schema"]).out).unwrap();
    assert_eq!(schemas["definitions"]["Deposited"]["properties"], schema["properties"]);

    for help in [run(&["help"]), run(&["--help"])] {
        assert_eq!((help.code, help.err.as_str()), (0, ""));
        for command in ["catalog", "rebuild", "replay", "status", "doctor"] {
            assert!(help.out.contains(&format!("\n  {command} ")), "{command} in {}", help.out);
        }
    }
    for (arguments, named) in [
        (&["catalog", "--formal", "text"][..], "--formal"),
        (&["rebuld", "balances"][..], "'rebuild'"),
        (&["--json"][..], "subcommand"),
    ] {
        let wrong = run(arguments);
        assert_eq!((wrong.code, wrong.out.as_str()), (64, ""), "{wrong:?}");
        assert!(wrong.err.contains(named), "{wrong:?}");
    }
    assert!(run(&["completions", "bash"]).out.contains("bank"));
    // without arguments the application starts, which has no servers here
    let started = run(&[]);
    assert_eq!((started.code, started.out.as_str()), (1, ""), "{started:?}");
    // a command that needs the application reports why it cannot be made
    let status = run(&["status"]);
    let named = "error: the environment variable `DATABASE_URL` is not set; it names the database\n";
    assert_eq!((status.code, status.err.as_str()), (64, named), "{status:?}");
}
