//! Answers to probes and requests while store or bus are unavailable.

use eventstore_sqlite::rusqlite::Connection;
use futures_util::future::join_all;

use crate::{
    common::{File, Stream},
    web::{Answer, Web},
};

fn alerts(answer: &Answer) -> String {
    answer.body["alerts"].to_string()
}

#[tokio::test]
async fn embedded_it_is_ready_at_once() {
    let web = Web::start(&[]);
    let ready = web.get("/health/ready").await;
    assert_eq!((ready.status.as_u16(), ready.body.to_string().as_str()), (200, r#"{"alerts":[],"status":"ready"}"#));
    let live = web.get("/health/live").await;
    assert_eq!((live.status.as_u16(), live.body.to_string().as_str()), (200, r#"{"alerts":[],"status":"alive"}"#));
}

#[tokio::test]
async fn while_redis_is_away_it_is_ready_says_so_and_registers() {
    let mut redis = eventbus_test::private_redis();
    let url = redis.url().to_owned();
    let web = Web::start(&["--store", "sqlite::memory:", "--bus", &url]);
    web.until_status("/health/ready", 200).await;
    redis.stop();
    let away = web.until("/health/ready", |answer| alerts(answer).contains("not connected")).await;
    assert_eq!((away.status.as_u16(), away.body["status"].as_str().unwrap()), (200, "ready"));
    assert_eq!(web.get("/health/live").await.status, 200);
    let created = web.register("Ada", "ada@example.com").await;
    assert_eq!(created.status, 201);
    assert_eq!(web.get(&format!("/analytics?position={}", created.body["position"])).await.body["registered_users"], 1);
    redis.start();
    web.process.until(&["a mail for ada@example.com"]);
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_told_from_the_store() {
    let redis = eventbus_test::private_redis();
    let url = redis.url().to_owned();
    let web = Web::start(&["--store", "sqlite::memory:", "--bus", &url]);
    web.until_status("/health/ready", 200).await;
    redis.pause();
    let silent = web.until("/health/ready", |answer| alerts(answer).contains("not connected")).await;
    assert_eq!(silent.status, 200);
    let alerts = alerts(&silent);
    assert!(alerts.contains("not connected: it does not answer within 2s") && !alerts.contains("store"), "{alerts}");
    redis.resume();
    web.until("/health/ready", |answer| !answer.body["alerts"].to_string().contains("not connected")).await;
}

#[tokio::test]
async fn it_starts_while_redis_is_away() {
    let mut redis = eventbus_test::private_redis();
    let url = redis.url().to_owned();
    redis.stop();
    let web = Web::start(&["--store", "sqlite::memory:", "--bus", &url]);
    let away = web.get("/health/ready").await;
    assert!(away.status == 200 && alerts(&away).contains("not connected"), "{away:?}");
    assert_eq!(web.register("Ada", "ada@example.com").await.status, 201);
    redis.start();
    web.process.until(&["a mail for ada@example.com"]);
}

#[tokio::test]
async fn while_postgres_is_away_it_is_not_ready_and_says_so_to_who_registers() {
    let mut postgres = eventbus_test::private_postgres();
    let (store, stream) = (postgres.url().to_owned(), Stream::new());
    let web = Web::start(&[&["--store", &store][..], &stream.arguments()].concat());
    web.until_status("/health/ready", 200).await;
    postgres.stop();
    let away = web.until("/health/ready", |answer| alerts(answer).contains("the store cannot be read")).await;
    assert_eq!((away.status.as_u16(), away.body["status"].as_str().unwrap()), (503, "not ready"));
    assert_eq!(web.get("/health/live").await.status, 200);
    let refused = web.register("Ada", "ada@example.com").await;
    assert_eq!((refused.problem().0, refused.header("retry-after")), (503, "1"), "{refused:#?}");
    postgres.start();
    web.until_status("/health/ready", 200).await;
    let emails: Vec<_> = (0..20).map(|number| format!("ada-{number}@example.com")).collect();
    let answers = join_all(emails.iter().map(|email| web.register("Ada", email))).await;
    assert!(answers.iter().all(|answer| answer.status == 201), "it is ready: {answers:#?}");
    web.process.until(&emails.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The event stops the projection in every process: the service must not report all of them as unready.
#[tokio::test]
async fn a_projection_that_stopped_is_an_alert_and_the_rest_goes_on() {
    let file = File::new("users.db");
    let store = format!("sqlite:{}", file.path());
    let start = || Web::start(&["--store", &store, "--workers", "0"]);
    let set_payload = |payload: &str| {
        let changed = Connection::open(file.path()).unwrap();
        changed.execute("UPDATE eventbus_events SET payload = ?1 WHERE position = 1", [payload]).unwrap();
    };
    let mut web = start();
    let ada = web.register("Ada", "ada@example.com").await;
    assert!(web.end("-TERM"));
    set_payload("{}");

    web = start();
    let read = web.get("/analytics?position=1").await;
    assert_eq!((read.problem().0, read.body["detail"].as_str().unwrap()), (500, "internal error"));
    let shown = web.get(ada.header("location")).await;
    assert_eq!((shown.problem().0, shown.body["detail"].as_str().unwrap()), (500, "internal error"));
    let ready = web.get("/health/ready").await;
    assert!(ready.status == 200 && alerts(&ready).contains("`analytics` stopped at"), "{ready:#?}");
    assert_eq!(web.register("Grace", "grace@example.com").await.status, 201);
    assert!(web.end("-TERM"));
    set_payload(r#"{"name": "Ada", "email": "ada@example.com"}"#);

    web = start();
    assert_eq!(web.get("/analytics?position=2").await.body["registered_users"], 2);
    assert_eq!(alerts(&web.get("/health/ready").await), "[]");
}
