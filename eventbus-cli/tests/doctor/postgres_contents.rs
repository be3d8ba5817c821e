//! What a store on PostgreSQL holds.

use std::time::Duration;

use eventbus_cli::doctor::{CheckFinding, DoctorConfig, Severity::*};

use super::common::{Store, config, expect_finding, expect_healthy, expect_only, run_sql};

#[tokio::test]
async fn missing_events_are_found() {
    let store = Store::new().await;
    let deep = store.doctor().deep(true);
    expect_healthy(&deep, "pg-missing-events-all").await;
    store.run("DELETE FROM events WHERE position = 2").await;
    let report = deep.run().await;
    let checks: Vec<_> = super::common::serious(&report).iter().map(|found| found.check).collect();
    assert_eq!(checks, ["pg-missing-events", "pg-missing-events-all"], "{report}");
    let missing = "Account ada (version 2: 1 of 2)";
    expect_finding(&deep, "pg-missing-events", Fault, missing).await;
    expect_finding(&deep, "pg-missing-events-all", Fault, missing).await;
    // the newest stream is whole
    let doctor = store.doctor().config(DoctorConfig { sampled_streams: 1, ..config() });
    expect_healthy(&doctor, "pg-missing-events").await;
    // events that were archived on purpose are not missing
    store.run("UPDATE streams SET archived_through = 2 WHERE aggregate_id = 'ada'").await;
    expect_healthy(&deep, "pg-missing-events").await;
    expect_healthy(&deep, "pg-missing-events-all").await;
    // events of a stream whose row came back from an older copy
    store.run("UPDATE streams SET version = 0 WHERE aggregate_id = 'bob'").await;
    expect_finding(&deep, "pg-missing-events-all", Fault, "Account bob (version 0: 1 of 0)").await;
}

#[tokio::test]
async fn a_reader_that_is_ahead_of_the_store_is_found() {
    let store = Store::new().await;
    // neither a move from a different store nor a relay that stopped on purpose is such a reader
    for name in ["import:7b3e", "relay-halted:bus"] {
        store.run(&format!("INSERT INTO checkpoints VALUES ('{name}', 999, now())")).await;
    }
    expect_healthy(&store.doctor(), "pg-checkpoint-ahead").await;
    let ahead = "INSERT INTO checkpoints VALUES ('projection:rows', 999, now())";
    let found = store.broken_by(ahead, "pg-checkpoint-ahead", Fault, "`projection:rows` is at position 999").await;
    assert_eq!(found.finding.observed["head"], "3");
    run_repair(&store, &found).await;
    store.run("INSERT INTO checkpoints VALUES ('projection:bob''s', 4, now())").await;
    let found = expect_only(&store.doctor(), "pg-checkpoint-ahead", Fault, "`projection:bob's`").await;
    run_repair(&store, &found).await;
    expect_healthy(&store.doctor(), "pg-checkpoint-ahead").await;
}

/// Runs the statement of a repair.
async fn run_repair(store: &Store, found: &CheckFinding) {
    let (_, statement) = found.finding.repair.split_once("to the head: ").unwrap();
    run_sql(store.url(), statement).await;
}

#[tokio::test]
async fn a_checkpoint_that_no_process_moves_is_found() {
    let store = Store::new().await;
    store.run("UPDATE events SET recorded_at = recorded_at - interval '3 days'").await;
    store.run("UPDATE events SET occurred_at = recorded_at").await;
    let orphaned = "INSERT INTO checkpoints VALUES ('projection:rows', 1, now() - interval '2 days')";
    store.broken_by(orphaned, "pg-orphaned-checkpoint", Warning, "`projection:rows` is at 1 of 3").await;
    // a process has the role
    store.run("INSERT INTO leases VALUES ('projection:rows', 'vm:1', 1, now(), now() + interval '1 minute')").await;
    expect_healthy(&store.doctor(), "pg-orphaned-checkpoint").await;
    // all events are handled
    store.run("DELETE FROM leases; UPDATE checkpoints SET position = 3").await;
    expect_healthy(&store.doctor(), "pg-orphaned-checkpoint").await;
}

#[tokio::test]
async fn a_role_without_an_owner_is_found_while_events_are_added() {
    let store = Store::new().await;
    let lost = "INSERT INTO leases VALUES
        ('relay:memory', 'vm:1', 1, now() - interval '3 days', now() - interval '2 days')";
    // of a command that has ended
    let rebuilt = "INSERT INTO leases VALUES
        ('rebuild:rows', 'vm:1', 1, now() - interval '3 days', now() - interval '2 days')";
    store.run(rebuilt).await;
    expect_healthy(&store.doctor(), "pg-abandoned-role").await;
    store.broken_by(lost, "pg-abandoned-role", Warning, "no process has had the role `relay:memory`").await;
    // `relay retire` had it last
    store.run("UPDATE leases SET owner = 'retired' WHERE role = 'relay:memory'").await;
    expect_healthy(&store.doctor(), "pg-abandoned-role").await;
    store.run("UPDATE leases SET owner = 'vm:1'").await;
    // the whole application rests since
    store
        .run("UPDATE events SET recorded_at = now() - interval '3 days', occurred_at = now() - interval '3 days'")
        .await;
    expect_healthy(&store.doctor(), "pg-abandoned-role").await;
}

#[tokio::test]
async fn event_types_that_the_program_does_not_know_are_found() {
    let store = Store::new().await;
    let report = store.doctor().only(["pg-event-types"]).unwrap().run().await;
    assert_eq!(report.not_checked()[0].reason, "no list of known event types was given");
    let knowing = |version: u32| store.doctor().known_types([("Deposited".to_owned(), version)]);
    expect_healthy(&knowing(1), "pg-event-types").await;
    store.run("INSERT INTO event_types VALUES ('Closed', 1, 4)").await;
    expect_finding(&knowing(1), "pg-event-types", Warning, "does not know are stored: `Closed`").await;
    store.run("DELETE FROM event_types WHERE event_type = 'Closed'").await;
    store.run("INSERT INTO event_types VALUES ('Deposited', 3, 4)").await;
    let found = expect_finding(&knowing(2), "pg-event-types", Warning, "newer schema versions").await;
    assert_eq!(found.finding.observed["types"][0]["stored_version"], 3);
    expect_healthy(&knowing(3), "pg-event-types").await;
}

#[tokio::test]
async fn a_dead_letter_that_the_inbox_has_forgotten_is_found() {
    let store = Store::new().await;
    let dead = "INSERT INTO handler_rows (handler, shard, position, attempts, dead_since, is_held)
                VALUES ('mail', 0, 1, '{}', now() - interval '31 days', false)";
    store.broken_by(dead, "pg-dead-letter-age", Warning, "31 days old, and the inbox remembers 30 days").await;
    let longer = DoctorConfig { inbox_retention: Duration::from_secs(90 * 24 * 3_600), ..config() };
    expect_healthy(&store.doctor().config(longer), "pg-dead-letter-age").await;
}

#[tokio::test]
async fn an_event_that_occurred_after_it_was_recorded_is_found() {
    let store = Store::new().await;
    let later = "UPDATE events SET occurred_at = recorded_at + interval '1 hour' WHERE position = 2";
    store.broken_by(later, "pg-event-times", Warning, "the event at position 2 occurred 3600.0 s after").await;
}
