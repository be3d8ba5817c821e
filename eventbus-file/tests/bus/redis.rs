//! The additions of Redis: a counter, claims that expire, messages between workers; and the queue without it.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crate::common::{config, folder, next_work, until};
use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber, Subscription},
};
use eventbus_file::{CoordinationStatus, FileQueue, FileQueueConfig, RedisCoordination};
use redis::AsyncTypedCommands as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

async fn coordinated(config: FileQueueConfig, url: &str) -> FileQueue {
    FileQueue::open_with_redis(config, on(url)).await.unwrap()
}

fn on(url: &str) -> RedisCoordination {
    RedisCoordination {
        redis_url: url.into(),
        reconnect_interval: Duration::from_millis(50),
        ..RedisCoordination::default()
    }
}

async fn fresh() -> FileQueue {
    coordinated(config(folder()), eventbus_test::redis_url()).await
}

async fn another(queue: &FileQueue) -> FileQueue {
    let config = FileQueueConfig { worker_id: None, ..queue.config().clone() };
    coordinated(config, eventbus_test::redis_url()).await
}

crate::common::jobs_conformance!(files_and_redis, fresh(), async |queue: &FileQueue| another(queue).await);

async fn redis(url: &str) -> redis::aio::MultiplexedConnection {
    eventbus_test::internal::redis_connection(url).await
}

fn key(queue: &FileQueue, rest: &str) -> String {
    format!("eventy:{}:{rest}", queue.name())
}

/// The messages on the queue's channel from now on.
async fn listen(url: &str, queue_name: &str) -> mpsc::UnboundedReceiver<Value> {
    use futures_util::StreamExt as _;
    let mut messages = redis::Client::open(url).unwrap().get_async_pubsub().await.unwrap();
    messages.subscribe(format!("eventy:{queue_name}:events")).await.unwrap();
    let (said, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = messages.into_on_message();
        while let Some(message) = messages.next().await {
            let _ = said.send(serde_json::from_slice(message.get_payload_bytes()).unwrap());
        }
    });
    hears
}

/// Waits for a message of a kind; returns its data.
async fn heard(hears: &mut mpsc::UnboundedReceiver<Value>, kind: &str) -> Value {
    let waiting = async {
        loop {
            let message = hears.recv().await.unwrap();
            assert!(message["timestamp"].is_string() && message["data"]["worker_id"].is_string(), "{message}");
            if message["type"] == kind {
                return message["data"].clone();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("no message `{kind}`"))
}

/// Waits for the whole state; returns the lists in its pages.
async fn heard_state(hears: &mut mpsc::UnboundedReceiver<Value>) -> BTreeMap<String, Vec<Value>> {
    let (mut state, mut page) = (BTreeMap::<String, Vec<Value>>::new(), 0);
    while !state.contains_key("end") {
        page += 1;
        let told = heard(hears, "state").await;
        assert_eq!(told["page"], page);
        assert!(told.to_string().len() < 64_000, "{}", told.to_string().len());
        let told = told.as_object().unwrap().clone();
        for (what, listed) in told.into_iter().filter(|(what, _)| what != "page" && what != "worker_id") {
            let listed = if let Value::Array(listed) = listed { listed } else { vec![listed] };
            state.entry(what).or_default().extend(listed);
        }
    }
    state
}

fn subscribe(queue: &FileQueue, name: &'static str) -> (Subscription, mpsc::UnboundedReceiver<String>) {
    let (got, gets) = mpsc::unbounded_channel();
    let subscriber = Subscriber::new(Name::from_static(name), EventFilter::All, move |delivery| {
        let got = got.clone();
        Box::pin(async move { Ok(got.send(delivery.record().payload().to_owned())?) })
    });
    (queue.add_subscriber(queue.default_group().clone(), subscriber), gets)
}

/// The document's first sample.
#[tokio::test(flavor = "multi_thread")]
async fn the_documents_keys_hold_the_counter_and_the_claims() {
    let queue = fresh().await;
    assert_eq!(queue.coordination(), CoordinationStatus::Connected);
    let mut redis = redis(eventbus_test::redis_url()).await;
    let event = queue.publish(&json!({"message": "Hello World"})).await.unwrap();
    assert_eq!(event.id(), 1);
    assert_eq!(redis.get(key(&queue, "next_event_id")).await.unwrap().as_deref(), Some("2"));
    assert!(queue.create_claim("task_1", "worker_data").await.unwrap());
    let claim = queue.get_claim("task_1").await.unwrap().unwrap();
    assert_eq!((claim.worker_id.as_str(), &claim.data), (queue.worker_id(), &json!("worker_data")));
    let held: Value = serde_json::from_str(&redis.get(key(&queue, "claim:task_1")).await.unwrap().unwrap()).unwrap();
    assert_eq!((&held["worker_id"], &held["data"]), (&json!(queue.worker_id()), &json!("worker_data")));
    let left = redis.pttl(key(&queue, "claim:task_1")).await.unwrap();
    assert!(format!("{left:?}").contains("29") || format!("{left:?}").contains("300000"), "of 300 s: {left:?}");
    assert!(!another(&queue).await.create_claim("task_1", "worker_data").await.unwrap());
    queue.release_claim(claim).await.unwrap();
    assert_eq!(redis.get(key(&queue, "claim:task_1")).await.unwrap(), None, "a claim that was given back is gone");
    assert!(another(&queue).await.create_claim("task_1", "worker_data").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_claims_results_and_subscribers_are_told_to_the_others() {
    let queue = fresh().await;
    let mut hears = listen(eventbus_test::redis_url(), queue.name()).await;
    let (subscription, _gets) = subscribe(&queue, "greet");
    assert_eq!(heard(&mut hears, "create_subscriber").await["subscriber_id"], "greet");
    queue.publish(&"Hello World").await.unwrap();
    assert_eq!(heard(&mut hears, "add_event").await["event_id"], 1);
    let work = next_work(&queue).await;
    assert_eq!(heard(&mut hears, "add_claim").await["claim_id"], "event-1");
    work.succeed(&()).await.unwrap();
    let result = heard(&mut hears, "add_result").await;
    assert_eq!((&result["event_id"], &result["worker_id"]), (&json!(1), &json!(queue.worker_id())));
    subscription.cancel();
    assert_eq!(heard(&mut hears, "remove_subscriber").await["subscriber_id"], "greet");
    assert_eq!(queue.metrics().broadcasts_received, 0, "own messages are passed over");
    until("all are counted", async || queue.metrics().broadcasts_sent == 5).await;
}

/// The document's second sample: worker 1 subscribes, worker 2 publishes. Workers scan the folder once an hour only.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_worker_publishes_reaches_the_subscribers_of_another_at_once() {
    let hour = Duration::from_secs(3_600);
    let config = FileQueueConfig { poll_interval: hour, ..config(folder()) };
    let worker_1 = Arc::new(coordinated(config, eventbus_test::redis_url()).await);
    let worker_2 = another(&worker_1).await;
    let (_subscription, mut gets) = subscribe(&worker_1, "my_subscriber");
    let consuming = Arc::clone(&worker_1);
    tokio::spawn(async move { consuming.start_consuming().await });
    for number in 1..=5 {
        worker_2.publish(&json!({"from": "worker_2", "number": number})).await.unwrap();
        let got = tokio::time::timeout(Duration::from_secs(20), gets.recv()).await.expect("it is told").unwrap();
        assert_eq!(got, format!(r#"{{"from":"worker_2","number":{number}}}"#));
    }
    until("all are counted", async || worker_1.metrics().broadcasts_received >= 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_really_expires() {
    let config = FileQueueConfig { claim_expiration: Duration::from_millis(300), ..config(folder()) };
    let one = coordinated(config, eventbus_test::redis_url()).await;
    let two = another(&one).await;
    let claim = one.try_claim("task_1", "one").await.unwrap().unwrap();
    let mut tries = 0;
    until("it is free", async || {
        tries += 1;
        two.create_claim("task_1", "two").await.unwrap()
    })
    .await;
    assert!(tries > 1, "it was held for a while");
    assert_eq!(two.get_claim("task_1").await.unwrap().unwrap().epoch, 2);
    assert!(one.renew_claim(&claim).await.is_err());
    let mut redis = redis(eventbus_test::redis_url()).await;
    until("Redis forgets it, too", async || redis.get(key(&one, "claim:task_1")).await.unwrap().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_only_redis_has_keeps_nobody_away() {
    let queue = fresh().await;
    let mut redis = redis(eventbus_test::redis_url()).await;
    let claim = queue.try_claim("task_1", "one").await.unwrap().unwrap();
    let held = redis.get(key(&queue, "claim:task_1")).await.unwrap().unwrap();
    queue.release_claim(claim).await.unwrap();
    redis.set(key(&queue, "claim:task_1"), held).await.unwrap(); // as if Redis had not answered then
    assert!(another(&queue).await.create_claim("task_1", "two").await.unwrap());
    assert!(!queue.create_claim("task_1", "one").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counter_comes_again_from_the_files() {
    let queue = fresh().await;
    let mut redis = redis(eventbus_test::redis_url()).await;
    queue.publish_all(&[1, 2, 3]).await.unwrap();
    redis.del(key(&queue, "next_event_id")).await.unwrap();
    assert_eq!(queue.publish(&4).await.unwrap().id(), 4, "Redis was emptied");
    for stale in ["1", "-7", "nonsense"] {
        redis.set(key(&queue, "next_event_id"), stale).await.unwrap();
        let next = queue.publish_all(&[5, 6]).await.unwrap();
        assert_eq!(next[1].id(), next[0].id() + 1, "an older copy came back: {stale}");
    }
    let ids: Vec<u64> = queue.events(&Default::default()).await.unwrap().items.iter().map(|event| event.id()).collect();
    assert_eq!(ids, (1..=10).collect::<Vec<_>>());
    assert_eq!(redis.get(key(&queue, "next_event_id")).await.unwrap().as_deref(), Some("11"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_far_ahead_of_the_files_is_wrong_and_is_put_right() {
    let queue = fresh().await;
    let mut redis = redis(eventbus_test::redis_url()).await;
    queue.publish(&1).await.unwrap();
    redis.set(key(&queue, "next_event_id"), "1000000000").await.unwrap();
    let ids: Vec<u64> = queue.publish_all(&[2, 3]).await.unwrap().iter().map(|event| event.id()).collect();
    assert_eq!(ids, [2, 3]);
    assert_eq!(queue.publish(&4).await.unwrap().id(), 4);
    assert_eq!(redis.get(key(&queue, "next_event_id")).await.unwrap().as_deref(), Some("5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_with_and_without_redis_share_one_sequence_without_gaps() {
    let with = fresh().await;
    let without = FileQueue::open(FileQueueConfig { worker_id: None, ..with.config().clone() }).await.unwrap();
    let workers = [with.clone(), another(&with).await, without];
    let mut publishing = tokio::task::JoinSet::new();
    for queue in workers {
        publishing.spawn(async move {
            let mut ids = Vec::new();
            for round in 0..40 {
                ids.extend(queue.publish_all(&[round, round]).await.unwrap().iter().map(|event| event.id()));
            }
            assert!(ids.is_sorted(), "{ids:?}");
            ids
        });
    }
    let mut ids = publishing.join_all().await.concat();
    ids.sort_unstable();
    assert_eq!(ids, (1..=240).collect::<Vec<_>>());
}

async fn status(queue: &FileQueue, connected: bool) {
    let is = || queue.coordination() == CoordinationStatus::Connected;
    until(if connected { "it is connected" } else { "Redis is away" }, async || is() == connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_files_decide_and_when_it_is_back_it_is_put_right() {
    let mut server = eventbus_test::private_redis();
    let url = server.url().to_owned();
    let queue = coordinated(config(folder()), &url).await;
    queue.publish(&1).await.unwrap();
    server.stop();
    assert_eq!(queue.publish(&2).await.unwrap().id(), 2);
    assert!(queue.create_claim("task_1", "worker_data").await.unwrap());
    assert!(!queue.create_claim("task_1", "worker_data").await.unwrap());
    next_work(&queue).await.succeed(&()).await.unwrap();
    status(&queue, false).await;
    assert!(matches!(queue.coordination(), CoordinationStatus::Away { error } if !error.is_empty()));
    server.start_empty();
    status(&queue, true).await;
    let mut redis = redis(&url).await;
    until("the counter is there again", async || {
        redis.get(key(&queue, "next_event_id")).await.unwrap().as_deref() == Some("3")
    })
    .await;
    until("the claim is there again", async || redis.exists(key(&queue, "claim:task_1")).await.unwrap()).await;
    until("the lock is gone", async || !redis.exists(key(&queue, "resync_lock")).await.unwrap()).await;
    assert!(!redis.exists(key(&queue, "claim:event-1")).await.unwrap(), "it was given back");
    assert_eq!(queue.publish(&3).await.unwrap().id(), 3);
    let metrics = queue.metrics();
    assert!(metrics.redis_reconnections >= 1 && metrics.resyncs >= 1, "{metrics:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_costs_one_timeout() {
    let server = eventbus_test::private_redis();
    let queue = coordinated(config(folder()), server.url()).await;
    server.pause();
    let began = std::time::Instant::now();
    for id in 1..=20 {
        assert_eq!(queue.publish(&id).await.unwrap().id(), id);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server.resume();
    status(&queue, true).await;
    assert!(queue.publish(&21).await.unwrap().id() >= 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_messages_that_is_lost_is_made_anew_once() {
    let server = eventbus_test::private_redis();
    let one = coordinated(config(folder()), server.url()).await;
    let mut redis = redis(server.url()).await;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec_async(&mut redis).await.unwrap();
    until("it is connected again", async || one.metrics().redis_reconnections > 0).await;
    let two = coordinated(FileQueueConfig { worker_id: None, ..one.config().clone() }, server.url()).await;
    for _ in 0..30 {
        let heard = one.metrics().broadcasts_received;
        two.publish(&1).await.unwrap();
        until("it is told", async || one.metrics().broadcasts_received > heard).await;
    }
    assert_eq!(one.metrics().redis_reconnections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_never_was_there_is_no_error() {
    let url = format!("redis://127.0.0.1:{}", eventbus_test::internal::closed_port());
    let queue = coordinated(config(folder()), &url).await;
    assert!(matches!(queue.coordination(), CoordinationStatus::Away { .. }));
    assert_eq!(queue.publish(&1).await.unwrap().id(), 1);
}

/// Fails if the queue reports a refusal as an outage.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_the_worker_is_not_called_away() {
    let server = eventbus_test::private_redis();
    let mut admin = redis(server.url()).await;
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("secret").exec_async(&mut admin).await.unwrap();
    let with = |password: &str| server.url().replacen("redis://", &format!("redis://:{password}@"), 1);
    let wrong = coordinated(config(folder()), &with("wr0ng")).await;
    let status = wrong.coordination();
    let CoordinationStatus::Refused { error } = &status else { panic!("{status:?}") };
    assert!(status.to_string().starts_with("refused: ") && !error.contains("wr0ng"), "{status}");
    assert_eq!(wrong.publish(&1).await.unwrap().id(), 1, "the files decide");
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("wr0ng").exec_async(&mut admin).await.unwrap();
    until("it is let in", async || wrong.coordination() == CoordinationStatus::Connected).await;
}

async fn asking(queue: &FileQueue) -> FileQueue {
    let config = FileQueueConfig { worker_id: None, ..queue.config().clone() };
    let redis = RedisCoordination { resync: true, ..on(eventbus_test::redis_url()) };
    FileQueue::open_with_redis(config, redis).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_state_is_told_under_a_lock_when_a_worker_asks() {
    let queue = fresh().await;
    let (_subscription, _gets) = subscribe(&queue, "greet");
    queue.publish_all(&[1, 2]).await.unwrap();
    next_work(&queue).await.succeed(&()).await.unwrap();
    queue.create_claim("task_1", "worker_data").await.unwrap();
    let mut redis = redis(eventbus_test::redis_url()).await;
    redis.set(key(&queue, "resync_lock"), "another worker").await.unwrap();
    let mut hears = listen(eventbus_test::redis_url(), queue.name()).await;
    let one = asking(&queue).await;
    heard(&mut hears, "resync").await;
    // the worker handles messages one after the other
    one.publish(&3).await.unwrap();
    until("it was asked", async || queue.metrics().broadcasts_received >= 2).await;
    assert_eq!(queue.metrics().resyncs, 0, "another worker is at it");
    assert_eq!(heard(&mut hears, "create_subscriber").await["subscriber_id"], "greet", "each worker announces its own");
    redis.del(key(&queue, "resync_lock")).await.unwrap();
    let _two = asking(&queue).await;
    let state = heard_state(&mut hears).await;
    let claims: Vec<_> = state["claims"].iter().map(|claim| (&claim["claim_id"], &claim["epoch"])).collect();
    assert_eq!(claims, [(&json!("task_1"), &json!(1))]);
    assert!(
        state["claims"][0]["worker_id"] == json!(queue.worker_id()) && state["claims"][0]["expires_at"].is_string()
    );
    assert_eq!((&state["events"], &state["results"]), (&vec![json!([1, 3])], &vec![json!([1, 1])]));
    assert_eq!(state["end"], [json!({"next_event_id": 4})]);
    until("the lock is gone", async || !redis.exists(key(&queue, "resync_lock")).await.unwrap()).await;
}

/// Fails if the claims, which take longest to read, keep a resync from telling the ids before its lock ends.
#[tokio::test(flavor = "multi_thread")]
async fn the_claims_come_last_in_a_state() {
    let queue = fresh().await;
    queue.publish(&1).await.unwrap();
    assert!(queue.create_claim("task_1", "data").await.unwrap());
    let mut hears = listen(eventbus_test::redis_url(), queue.name()).await;
    let _asks = asking(&queue).await;
    let mut parts: Vec<String> = Vec::new();
    while parts.last().is_none_or(|part| part != "end") {
        let told = heard(&mut hears, "state").await;
        let mut names = told.as_object().unwrap().keys().filter(|name| *name != "page" && *name != "worker_id");
        parts.push(names.next().unwrap().clone());
    }
    assert_eq!(parts, ["events", "results", "claims", "end"]);
}

/// Fails if a resync lists the results of all events that ever were.
#[tokio::test(flavor = "multi_thread")]
async fn results_of_removed_events_stay_and_are_not_told() {
    let queue = fresh().await;
    queue.publish_all(&[1, 2, 3]).await.unwrap();
    for _ in 0..2 {
        next_work(&queue).await.succeed(&()).await.unwrap();
    }
    assert_eq!(queue.remove_through(1).await.unwrap().through, 1);
    let mut hears = listen(eventbus_test::redis_url(), queue.name()).await;
    let _asks = asking(&queue).await;
    let state = heard_state(&mut hears).await;
    assert_eq!((&state["events"], &state["results"]), (&vec![json!([2, 3])], &vec![json!([2, 2])]));
    assert!(queue.result(1).await.unwrap().is_some(), "a caller may still ask for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_is_told_in_pages_and_who_hears_it_finds_it_in_the_files() {
    let queue = fresh().await;
    queue.publish_all(&(0..1_200).collect::<Vec<_>>()).await.unwrap();
    let results = queue.config().root_dir.join("results/000000000");
    std::fs::create_dir_all(&results).unwrap();
    for id in (1..=999).step_by(2) {
        std::fs::write(results.join(format!("{id:012}.json")), "{}").unwrap();
    }
    for task in 0..210 {
        assert!(queue.create_claim(&format!("task {task:03} {}", "x".repeat(60)), "data").await.unwrap());
    }
    let mut hears = listen(eventbus_test::redis_url(), queue.name()).await;
    let asks = asking(&queue).await;
    let state = heard_state(&mut hears).await;
    assert_eq!((&state["events"], state["claims"].len()), (&vec![json!([1, 1_200])], 210));
    assert_eq!(state["results"], (1..=999).step_by(2).map(|id| json!([id, id])).collect::<Vec<_>>());
    // the worker handles messages one after the other: two pages of claims, one of events, three of results, the end
    queue.publish(&"the last").await.unwrap();
    until("all was taken in", async || asks.metrics().broadcasts_received == 8).await;
    assert_eq!(asks.metrics().files_unseen, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_do_not_share_their_folder_are_told() {
    let queue = fresh().await;
    queue.publish_all(&[1, 2, 3]).await.unwrap();
    next_work(&queue).await.succeed(&()).await.unwrap();
    let elsewhere = FileQueueConfig { queue_name: Some(queue.name().to_string()), ..config(folder()) };
    let elsewhere = coordinated(elsewhere, eventbus_test::redis_url()).await;
    let mut redis = redis(eventbus_test::redis_url()).await;
    let asks = json!({"type": "resync", "data": {"worker_id": elsewhere.worker_id()}, "timestamp": ""});
    redis.publish(format!("eventy:{}:events", queue.name()), asks.to_string()).await.unwrap();
    until("three events and a result are missed", async || elsewhere.metrics().files_unseen == 4).await;
    assert_eq!(queue.metrics().files_unseen, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_share_the_queues() {
    let (one, two) = (eventbus_test::private_redis(), eventbus_test::private_redis());
    let all =
        RedisCoordination { redis_urls: vec![one.url().into(), two.url().into()], ..RedisCoordination::default() };
    for _ in 0..6 {
        let queue = FileQueue::open_with_redis(config(folder()), all.clone()).await.unwrap();
        queue.publish(&1).await.unwrap();
        for url in [one.url(), two.url()] {
            let counter = redis(url).await.get(key(&queue, "next_event_id")).await.unwrap();
            assert_eq!(counter.is_some(), all.url_for(queue.name()) == url);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_and_prefix_may_be_named() {
    let server = eventbus_test::private_redis();
    let named = RedisCoordination { redis_db: Some(1), redis_prefix: "myapp".into(), ..on(server.url()) };
    let config = FileQueueConfig { queue_name: Some("orders".into()), ..config(folder()) };
    let queue = FileQueue::open_with_redis(config, named).await.unwrap();
    queue.publish(&1).await.unwrap();
    let mut redis = redis(&format!("{}/1", server.url())).await;
    assert_eq!(redis.get("myapp:orders:next_event_id").await.unwrap().as_deref(), Some("2"));
    assert!(Path::new(&queue.config().root_dir).exists());
}
