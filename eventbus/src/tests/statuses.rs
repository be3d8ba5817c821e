//! The JSON of every status, in one place: operators and dashboards read it, so each name in it is deliberate.
//!
//! The tests build each status field by field: a new field does not compile until its JSON is added here.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

use crate::{
    EventContext, EventId, Name, NewEvent, Position, RecordedEvent, Saved, StreamId, Version,
    port::{
        DeadLetter, DeadLetterPage, GroupProgress, MessageId, PublishError, StoredEventType,
        health::{
            CatchingUp, CrowdedGroup, Health, HealthStatus, HealthThresholds, OldestUnfinished, RunningHandler,
            SilentConsumer, WaitingForServer,
        },
        stats::{BusStats, GroupInfo, StreamInfo, StreamSummary},
    },
    runtime::{
        app::Published,
        definition::ProjectionKind,
        follow::FollowStatus,
        projection::{ProjectionError, ProjectionOwner, ProjectionStatus, RebuildOwner, RebuildProgress, Rebuilt},
        relay::{RelayError, RelayStatus},
        repository::Publication,
        skip::SkippedEvent,
    },
};

const TIMESTAMP: OffsetDateTime = datetime!(2026-11-21 09:30:00.5 UTC);
const SECOND: Duration = Duration::from_millis(1_500);

fn assert_json<T: Serialize>(status: &T, expected: impl Borrow<Value>) {
    assert_eq!(serde_json::to_value(status).unwrap(), *expected.borrow(), "{}", std::any::type_name::<T>());
}

fn record() -> RecordedEvent {
    let id = Uuid::from_u128(7);
    let event = NewEvent::new(Name::from_static("Deposited"), 2, r#"{"cents": 12345678901234567890}"#)
        .with_event_id(EventId::from(id))
        .with_occurred_at(TIMESTAMP)
        .with_context(EventContext::default().with_correlation(id).with_actor("clerk"));
    let stream = StreamId::new(Name::from_static("Account"), "4711".parse().unwrap());
    event.recorded_as(stream, Version::FIRST, Some(Position::new(3))).with_recorded_at(Some(TIMESTAMP))
}

fn record_json() -> Value {
    let id = Uuid::from_u128(7);
    json!({
        "event_id": id, "event_type": "Deposited", "schema_version": 2, "aggregate_type": "Account",
        "aggregate_id": "4711", "version": 1, "position": 3, "occurred_at": "2026-11-21T09:30:00.5Z",
        "recorded_at": "2026-11-21T09:30:00.5Z", "original_recorded_at": null, "has_sealed_fields": false,
        "correlation_id": id, "causation_id": null, "tenant_id": null,
        "actor_id": "clerk", "metadata": {}, "payload": { "cents": 12_345_678_901_234_567_890_u64 },
    })
}

#[test]
fn an_event_is_shown_whole() {
    assert_json(&record(), record_json());
    let text = serde_json::to_string(&record()).unwrap();
    assert!(text.ends_with(r#""payload":{"cents": 12345678901234567890}}"#), "as it is stored: {text}");
    let damaged = RecordedEvent::new(record().metadata().clone(), "{\"cents\":");
    assert_eq!(serde_json::to_value(damaged).unwrap()["payload"], "{\"cents\":");
}

#[test]
fn dead_letters() {
    let dead_letter = DeadLetter {
        id: MessageId::new("9-0"),
        original_message_id: Some(MessageId::new("3-0")),
        record: Some(record()),
        fields: vec![("event".into(), "Deposited".into())],
        event_type: Some("Deposited".into()),
        aggregate_id: Some("4711".into()),
        error: Some("no such account".into()),
        handler: Some("book".into()),
        group: Some("billing".into()),
        attempts: Some(4),
        retry_count: Some(3),
        first_failed_at: Some(TIMESTAMP),
        last_failed_at: Some(TIMESTAMP),
        dead_lettered_at: None,
        done_handlers: vec!["mail".into()],
    };
    let expected = json!({
        "letters": [{
            "id": "9-0", "original_message_id": "3-0", "record": record_json(), "fields": [["event", "Deposited"]],
            "event_type": "Deposited", "aggregate_id": "4711", "error": "no such account", "handler": "book",
            "group": "billing", "attempts": 4, "retry_count": 3, "first_failed_at": "2026-11-21T09:30:00.5Z",
            "last_failed_at": "2026-11-21T09:30:00.5Z", "dead_lettered_at": null, "done_handlers": ["mail"],
        }],
        "next": "9-0",
    });
    assert_json(&DeadLetterPage { letters: vec![dead_letter], next: Some(MessageId::new("9-0")) }, expected);
}

fn in_flight() -> RunningHandler {
    RunningHandler {
        consumer: Some("host-1".into()),
        name: "book".into(),
        group: "billing".into(),
        event_type: "Deposited".into(),
        event_id: "7".into(),
        since: "2026-11-21T09:30:00Z".into(),
        seconds: 12,
        blocks_its_thread: false,
    }
}

fn silent() -> SilentConsumer {
    SilentConsumer { consumer: "host-2".into(), group: "billing".into(), entry_id: "3-0".into(), seconds: 70 }
}

fn unfinished() -> OldestUnfinished {
    OldestUnfinished {
        group: "billing".into(),
        handler: Some("book".into()),
        since: "2026-11-21T09:30:00Z".into(),
        seconds: 400,
        unfinished: 3,
    }
}

fn unfinished_json() -> Value {
    json!({ "group": "billing", "handler": "book", "since": "2026-11-21T09:30:00Z", "seconds": 400, "unfinished": 3 })
}

#[test]
fn health_of_an_app() {
    let waiting =
        WaitingForServer { name: "book".into(), fault: "SQLSTATE 53100".into(), since: "2026-11-21T09:30:00Z".into() };
    let crowded = CrowdedGroup { group: "billing".into(), waiting: 100_000, since: "2026-11-21T09:30:00Z".into() };
    let mut health = Health::disconnected(false, "cannot connect")
        .with_store_problem("no connection".into())
        .with_oldest_unfinished([unfinished()]);
    health.relay = Some("no connection".into());
    health.lag_seconds = BTreeMap::from([("relay".into(), 40)]);
    health.catching_up = vec![CatchingUp { name: "totals".into(), position: Position::new(3) }];
    health.projections = vec!["stopped".into()];
    health.in_flight = vec![in_flight()];
    health.silent = vec![silent()];
    health.lost_through = Some(Position::new(3));
    health.waiting = vec![waiting];
    health.crowded = vec![crowded];
    health.paused = BTreeSet::from(["mail".into()]);
    let expected = json!({
        "status": "unhealthy", "connected": false, "consuming": false, "pending_messages": 0, "dlq_messages": 0,
        "error": "cannot connect", "store": "no connection", "relay": "no connection", "projections": ["stopped"],
        "catching_up": [{ "name": "totals", "position": 3 }],
        "in_flight": [in_flight_json()], "silent": [silent_json()],
        "lost_through": 3,
        "waiting": [{ "name": "book", "fault": "SQLSTATE 53100", "since": "2026-11-21T09:30:00Z" }],
        "unfinished": [unfinished_json()],
        "lag_seconds": { "relay": 40 },
        "paused": ["mail"],
        "crowded": [{ "group": "billing", "waiting": 100_000, "since": "2026-11-21T09:30:00Z" }],
    });
    assert_json(&health, expected);
    assert_json(&HealthStatus::Healthy, json!("healthy"));
}

#[test]
fn an_unfinished_event_of_a_paused_group_is_no_alert() {
    let mut health = Health::connected(true, 0, 0).with_oldest_unfinished([unfinished()]);
    assert_eq!(health.alerts(&HealthThresholds::default()), [unfinished().to_string()]);
    health.paused.insert(unfinished().group);
    assert_eq!(health.alerts(&HealthThresholds::default()), [""; 0]);
}

fn in_flight_json() -> Value {
    json!({
        "consumer": "host-1", "name": "book", "group": "billing", "event_type": "Deposited", "event_id": "7",
        "since": "2026-11-21T09:30:00Z", "seconds": 12, "blocks_its_thread": false,
    })
}

fn silent_json() -> Value {
    json!({ "consumer": "host-2", "group": "billing", "entry_id": "3-0", "seconds": 70 })
}

#[test]
fn what_a_bus_counts_and_knows() {
    let group = GroupInfo {
        name: "billing".into(),
        consumers: 2,
        pending: 3,
        active_consumers: 1,
        last_delivered_id: Some("3-0".into()),
        lag: Some(4),
        oldest_pending_id: Some("2-0".into()),
        oldest_unread_age_ms: Some(6),
        oldest_pending_age_ms: Some(5),
        in_flight: vec![in_flight()],
        silent: Some(silent()),
        oldest_unfinished: Some(unfinished()),
    };
    let stream = StreamSummary {
        name: "events".into(),
        length: 8,
        first_entry_id: Some("1-0".into()),
        last_entry_id: Some("8-0".into()),
    };
    let info = StreamInfo {
        connected: true,
        stream,
        consumer_groups: vec![group],
        pending_messages: 3,
        dlq_messages: 1,
        is_dlq_unknown: false,
        active_consumers: 1,
        stats: BusStats::default(),
    };
    let stats = json!({
        "events_published": 0, "events_consumed": 0, "events_processed_success": 0, "events_processed_failed": 0,
        "messages_recovered": 0, "messages_sent_to_dlq": 0, "handler_errors": 0, "reconnections": 0,
        "events_skipped": 0, "messages_exhausted": 0, "messages_deleted": 0,
    });
    let expected = json!({
        "connected": true,
        "stream": { "name": "events", "length": 8, "first_entry_id": "1-0", "last_entry_id": "8-0" },
        "consumer_groups": [{
            "name": "billing", "consumers": 2, "pending": 3, "active_consumers": 1, "last_delivered_id": "3-0",
            "lag": 4, "oldest_unread_age_ms": 6, "oldest_pending_id": "2-0", "oldest_pending_age_ms": 5, "in_flight": [in_flight_json()],
            "silent": silent_json(), "oldest_unfinished": unfinished_json(),
        }],
        "pending_messages": 3, "dlq_messages": 1, "active_consumers": 1, "stats": stats,
    });
    assert_json(&info, expected);
    let progress = GroupProgress { unread: 1, pending: 2, exhausted: 3, is_paused: false };
    assert_json(&progress, json!({ "unread": 1, "pending": 2, "exhausted": 3 }));
    let stored = StoredEventType {
        event_type: Name::from_static("Deposited"),
        schema_version: 2,
        first_position: Position::new(5),
    };
    assert_json(&stored, json!({ "event_type": "Deposited", "schema_version": 2, "first_position": 5 }));
}

#[test]
fn relay_and_followers() {
    let stopped = RelayError::StoreBehindBus {
        destination: Name::from_static("bus"),
        published: Position::new(9),
        fork: Position::new(5),
    };
    let text = stopped.to_string();
    let relay = RelayStatus {
        position: Position::new(3),
        head: Some(Position::new(5)),
        is_owner: true,
        lag: Some(SECOND),
        trouble: Some("no connection".into()),
        stopped: Some(stopped),
        since: Some(TIMESTAMP),
        skipped: Some(1),
        lost_through: Some(Position::new(2)),
    };
    let expected = json!({
        "position": 3, "head": 5, "is_owner": true, "lag": 1.5, "trouble": "no connection", "stopped": text,
        "since": "2026-11-21T09:30:00.5Z", "skipped": 1, "lost_through": 2,
    });
    assert_json(&relay, expected);
    let follow = FollowStatus { position: Position::new(3), is_live: true, trouble: None };
    assert_json(&follow, json!({ "position": 3, "is_live": true, "trouble": null }));
    let published = Published { position: Position::new(3), message_id: Some(MessageId::new("3-0")) };
    assert_json(&published, json!({ "position": 3, "message_id": "3-0" }));
}

#[test]
fn projections() {
    let stopped = ProjectionError::Stopped { name: "balances", position: Position::new(4), error: "full".into() };
    let text = stopped.to_string();
    let owner = Name::from_static("host:1:abc");
    let status = ProjectionStatus {
        name: "balances",
        kind: ProjectionKind::Transactional,
        position: Position::new(3),
        lag: 2,
        owner: ProjectionOwner::Stopped,
        rebuilding: Some(RebuildOwner { owner, since: Some(TIMESTAMP) }),
        skipped: 1,
        stopped: Some(stopped),
        trouble: None,
        trouble_since: None,
        stopped_since: Some(TIMESTAMP),
    };
    let expected = json!({
        "name": "balances", "kind": "transactional", "position": 3, "lag": 2, "owner": "stopped",
        "rebuilding": { "owner": "host:1:abc", "since": "2026-11-21T09:30:00.5Z" }, "skipped": 1, "stopped": text,
        "trouble": null, "trouble_since": null, "stopped_since": "2026-11-21T09:30:00.5Z",
    });
    assert_json(&status, expected);
    let progress = RebuildProgress {
        name: "balances",
        events: 5,
        position: Position::new(6),
        target: Position::new(12),
        took: SECOND,
        resumed: 2,
        resumed_at: Position::new(3),
    };
    assert_json(&progress, json!({ "name": "balances", "events": 5, "position": 6, "target": 12, "took": 1.5 }));
    let rebuilt = Rebuilt { events: 10, skipped: 1, position: Position::new(12), took: SECOND };
    assert_json(&rebuilt, json!({ "events": 10, "skipped": 1, "position": 12, "took": 1.5 }));
    let skipped = SkippedEvent {
        reader: Name::from_static("projection:balances"),
        position: Position::new(4),
        reason: "full".into(),
        by: "host:1:abc".into(),
        at: TIMESTAMP,
    };
    let expected = json!({
        "reader": "projection:balances", "position": 4, "reason": "full", "by": "host:1:abc",
        "at": "2026-11-21T09:30:00.5Z",
    });
    assert_json(&skipped, expected);
}

#[test]
fn saves() {
    let saved = |publication| Saved {
        version: Version::FIRST,
        position: Some(Position::new(3)),
        events: vec![record()],
        publication,
    };
    let expected =
        |publication| json!({ "version": 1, "position": 3, "events": [record_json()], "publication": publication });
    let refused = PublishError::ShutDown { destination: Name::from_static("bus") };
    let text = refused.to_string();
    assert_json(&saved(Publication::None), expected(json!("none")));
    assert_json(&saved(Publication::ByRelay), expected(json!("by_relay")));
    assert_json(&saved(Publication::Published(vec![MessageId::new("3-0")])), expected(json!({ "published": ["3-0"] })));
    assert_json(&saved(Publication::Failed(refused)), expected(json!({ "failed": text })));
}

/// Suffixes of the names of statuses; `NO_STATUS` lists the files with such a name that is no status, with the reason.
const ENDINGS: &[&str] = &[
    "Status",
    "Stats",
    "Health",
    "Info",
    "Progress",
    "Metrics",
    "Summary",
    "Owner",
    "Letter",
    "LetterPage",
    "Warning",
    "Durability",
    "TrimBlocker",
    "TrimBlockReason",
    "UnfinishedGroup",
    "Problem",
    "Trimmed",
    "RemovalReport",
    "Applied",
    "RetiredGroup",
];
const NO_STATUS: &[(&str, &str)] = &[
    ("eventbus/src/axum/problem.rs", "a response of a web service, which serializes itself"),
    ("eventbus/src/runtime/metrics/families.rs", "metrics, which have the text format of Prometheus"),
];

/// Collects the Rust files of a folder that are no tests.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("testkit") && !path.ends_with("tests") {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_status_of_every_crate_is_serialize() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for name in [
        "eventbus",
        "eventbus-file",
        "eventbus-redis",
        "eventbus-redis-core",
        "eventstore-postgres",
        "eventstore-redis",
        "eventstore-sqlite",
    ] {
        sources(&workspace.join(name).join("src"), &mut files);
    }
    let mut statuses = 0;
    for (path, text) in &files {
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let line = line.trim_start();
            let Some(rest) = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum ")) else {
                continue;
            };
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            let is_listed = NO_STATUS.iter().any(|(place, _)| path.ends_with(place));
            if is_listed || !ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            statuses += 1;
            let attributes = lines[..at].iter().rev().take_while(|line| !line.is_empty() && !line.contains("///"));
            let derives = attributes.into_iter().any(|line| line.contains("derive(") && line.contains("Serialize"));
            assert!(derives, "`{name}` in {path} is a status and does not derive `Serialize`");
        }
    }
    assert!(statuses > 25, "{statuses} statuses found");
}
