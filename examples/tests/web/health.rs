//! What probes are told, and what is answered, while store or bus are away.

use futures_util::future::join_all;

use crate::{
    common::Stream,
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
async fn while_redis_is_away_it_is_not_ready_and_registers_all_the_same() {
    let mut redis = test_servers::private_redis();
    let url = redis.url().to_owned();
    let web = Web::start(&["--store", "sqlite::memory:", "--bus", &url]);
    web.until_status("/health/ready", 200).await;
    redis.stop();
    let away = web.until_status("/health/ready", 503).await;
    assert!(away.body["status"] == "not ready" && alerts(&away).contains("not connected"), "{away:#?}");
    assert_eq!(web.get("/health/live").await.status, 200);
    let created = web.register("Ada", "ada@example.com").await;
    assert_eq!(created.status, 201);
    assert_eq!(web.get(&format!("/analytics?position={}", created.body["position"])).await.body["registered_users"], 1);
    redis.start();
    web.until_status("/health/ready", 200).await;
    web.process.until(&["a mail for ada@example.com"]);
}

#[tokio::test]
async fn while_postgres_is_away_it_is_not_ready_and_says_so_to_who_registers() {
    let mut postgres = test_servers::private_postgres();
    let (store, stream) = (postgres.url().to_owned(), Stream::new());
    let web = Web::start(&[&["--store", &store][..], &stream.arguments()].concat());
    web.until_status("/health/ready", 200).await;
    postgres.stop();
    let away = web.until_status("/health/ready", 503).await;
    assert!(alerts(&away).contains("the store cannot be read"), "{away:#?}");
    assert_eq!(web.get("/health/live").await.status, 200);
    let refused = web.register("Ada", "ada@example.com").await;
    assert_eq!((refused.problem().0, refused.header("retry-after")), (503, "1"));
    postgres.start();
    web.until_status("/health/ready", 200).await;
    let emails: Vec<_> = (0..20).map(|number| format!("ada-{number}@example.com")).collect();
    let answers = join_all(emails.iter().map(|email| web.register("Ada", email))).await;
    assert!(answers.iter().all(|answer| answer.status == 201), "it is ready: {answers:#?}");
    web.process.until(&emails.iter().map(String::as_str).collect::<Vec<_>>());
}
