//! The run itself: selection, reports, servers that do not answer.

use std::time::{Duration, Instant};

use eventbus_cli::doctor::{Check, Doctor, DoctorConfig, Severity::*, checks};
use eventstore_postgres::sqlx::postgres::PgPoolOptions;

use super::common::{Store, bus, command, config, redis, send};

#[tokio::test]
async fn checks_are_selected_by_name() {
    let store = Store::new().await;
    let names = ["pg-index", "pg-sequence"];
    let report = store.doctor().only(names).unwrap().run().await;
    assert_eq!(report.healthy(), ["pg-sequence", "pg-index"], "in the order of all checks");
    let report = store.doctor().only(names).unwrap().skip(["pg-index"]).unwrap().run().await;
    assert_eq!((report.healthy(), report.skipped()), (&["pg-sequence"][..], &[][..]));
    let error = store.doctor().only(["pg-indexes"]).unwrap_err();
    assert_eq!((error.name.as_str(), error.nearest), ("pg-indexes", "pg-index"));
    assert!(store.doctor().skip(["x"]).is_err());
}

#[tokio::test]
async fn a_check_of_whole_tables_is_made_on_request_only() {
    let store = Store::new().await;
    let is_made = async |doctor: Doctor| {
        let report = doctor.run().await;
        let skipped = report.skipped().iter().find(|skipped| skipped.check == "pg-missing-events-all");
        assert!(skipped.is_none_or(|skipped| skipped.reason.starts_with("made with `--deep`, or named")), "{report}");
        assert_eq!(skipped.is_none(), report.healthy().contains(&"pg-missing-events-all"), "{report}");
        skipped.is_none()
    };
    assert!(!is_made(store.doctor()).await);
    assert!(is_made(store.doctor().deep(true)).await);
    assert!(is_made(store.doctor().only(["pg-missing-events-all"]).unwrap()).await, "named");
}

#[tokio::test]
async fn a_report_is_text_and_json_with_the_worst_first() {
    let store = Store::new().await;
    store
        .run(
            "ALTER TABLE notes SET (autovacuum_enabled = off); ALTER SEQUENCE events_position_seq CACHE 9;
             DROP TABLE snapshots",
        )
        .await;
    let names = ["pg-sequence", "pg-autovacuum", "pg-tables", "pg-release", "pg-superuser", "pg-unlogged", "redis-tls"];
    let others = checks().map(Check::name).filter(|name| !names.contains(name));
    let report = store.doctor().skip(others).unwrap().run().await;
    let severities: Vec<_> = report.findings().iter().map(|found| found.finding.severity).collect();
    assert_eq!((severities, report.worst()), (vec![Fault, Fault, Warning, Note], Some(Fault)));
    let text = report.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "FAULT       pg-tables      schema `eventbus` lacks tables: `snapshots`");
    assert!(lines[1].starts_with("                           so the store cannot work"), "{text}");
    assert!(lines[2].starts_with("                           to repair: run the migrations"), "{text}");
    assert!(lines[6].starts_with("WARNING     pg-autovacuum  "), "{text}");
    assert!(lines[9].starts_with("NOTE        pg-superuser   "), "{text}");
    let end =
        ["2 checks healthy, 2 faults, 1 warning, 1 note, 1 skipped", "SKIPPED     1 check: no Redis server was given"];
    assert_eq!(lines[12..], end);

    let json = serde_json::to_value(&report).unwrap();
    let finding = &json["findings"][1];
    assert_eq!(finding["check"], "pg-sequence");
    assert_eq!(finding["severity"], "fault");
    assert_eq!(finding["observed"], serde_json::json!({ "cache": 9, "increment": 1, "cycle": false }));
    for field in ["finding", "consequence", "repair"] {
        assert!(finding[field].as_str().is_some_and(|text| !text.is_empty()), "{json}");
    }
    assert_eq!(json["healthy"], serde_json::json!(["pg-release", "pg-unlogged"]));
    assert_eq!(json["skipped"][0]["reason"], "no Redis server was given");
    assert!(json["as_of"].as_str().is_some_and(|time| time.ends_with('Z')), "{json}");
}

#[tokio::test]
async fn servers_that_do_not_answer_are_reported_for_each_check_and_waited_for_once() {
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", eventbus_test::internal::closed_port());
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(300)).connect_lazy(&url).unwrap();
    let server = eventbus_test::private_redis();
    let connection = redis(server.url()).await;
    server.pause();
    let config = DoctorConfig { statement_timeout: Duration::from_millis(100), ..config() };
    let began = Instant::now();
    let doctor = Doctor::new().config(config).postgres(pool, "eventbus").redis(connection);
    let doctor = doctor.bus(bus(server.url(), "orders"));
    let report = doctor.run().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((report.findings(), report.healthy()), (&[][..], &[][..] as &[&str]));
    let reason = |check: &str| {
        let not_checked = report.not_checked().iter().find(|not_checked| not_checked.check == check);
        not_checked.unwrap_or_else(|| panic!("{check}: {report}")).reason.clone()
    };
    assert!(reason("pg-index").starts_with("PostgreSQL gave no answer"), "{report}");
    assert_eq!(reason("pg-index"), reason("pg-fsync"));
    assert_eq!(reason("redis-aof"), "Redis gave no answer");
    assert_eq!(reason("relay-ahead"), "Redis gave no answer");
    server.resume();
}

/// A table that a different session has locked is waited for for a second.
#[tokio::test]
async fn a_check_that_waits_for_a_lock_is_reported_as_not_made() {
    use eventstore_postgres::sqlx::{Connection as _, Executor as _, PgConnection};
    let store = Store::new().await;
    let mut holder = PgConnection::connect(store.url()).await.unwrap();
    holder.execute("BEGIN; LOCK TABLE eventbus.checkpoints").await.unwrap();
    let report = store.doctor().only(["pg-checkpoint-ahead"]).unwrap().run().await;
    assert!(report.not_checked()[0].reason.contains("lock timeout"), "{report}");
    drop(holder);
}

/// Redis counts every change of a key.
#[tokio::test]
async fn no_check_changes_a_key() {
    let server = eventbus_test::private_redis();
    let admin = redis(server.url()).await;
    for text in
        ["XADD orders:stream 1-0 type A", "XGROUP CREATE orders:stream mail 0", "XADD orders:stream_dlq 1-0 a b"]
    {
        send(&admin, text).await;
    }
    let changes = async || {
        let info: String = command(&admin, "INFO persistence").await;
        let line = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:")).unwrap();
        line.trim().to_owned()
    };
    let before = changes().await;
    let report = Doctor::new()
        .redis(admin.clone())
        .bus(bus(server.url(), "orders"))
        .redis_store("orders")
        .deep(true)
        .run()
        .await;
    for check in ["redis-rights-few", "redis-store-rights-few"] {
        assert!(report.healthy().contains(&check), "{report}");
    }
    assert_eq!(changes().await, before);
}
