//! Errors and log lines of a queue: no stored values, and one line when an outage begins and one when it ends.

#[path = "../../../eventbus-redis/tests/common/log.rs"]
mod log;

use std::{error::Error, fs, path::Path, time::Duration};

use crate::common::{another, config, folder, fresh, next_work, until};
use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
    prelude::*,
};
use eventbus_file::{FileQueue, FileQueueConfig, FileQueueError, RedisCoordination, Search};
use serde_json::{Value, json};

/// A stored value, which no error and no log line may hold.
const SECRET: &str = "secret-4711";

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "only read")]
struct Card {
    pin: u32,
}

/// The texts of an error and of its causes.
fn said(error: &FileQueueError) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
    causes.fold(format!("{error} {error:?}"), |told, cause| format!("{told} {cause} {cause:?}"))
}

/// A value whose own `Serialize` quotes it.
struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(format!("`{SECRET}` is no card")))
    }
}

#[tokio::test]
async fn an_error_about_a_value_names_its_field_and_never_the_value() {
    let queue = fresh().await;
    let card = json!({ "pin": SECRET });
    let event = queue.publish(&card).await.unwrap();
    let claim = queue.try_claim("task", &card).await.unwrap().unwrap();
    next_work(&queue).await.succeed(&card).await.unwrap();
    let result = queue.result(1).await.unwrap().unwrap();
    for (error, whose) in [
        (event.payload::<Card>().unwrap_err(), "the payload of event 1 is not JSON of that type"),
        (claim.data::<Card>().unwrap_err(), "the data of claim `task` is not JSON of that type"),
        (result.details::<Card>().unwrap_err(), "the details of the result of event 1 is not JSON of that type"),
    ] {
        assert!(matches!(error, FileQueueError::Json { .. }), "{error:?}");
        assert_eq!(error.to_string(), whose);
        assert_eq!(error.source().unwrap().to_string(), "field `pin`: invalid type: string, expected u32");
        assert!(!said(&error).contains(SECRET), "{}", said(&error));
    }
    for (error, reason) in [
        (queue.try_claim("other", &[Refuses]).await.unwrap_err(), "field `[0]`: the type's own"),
        (queue.try_claim("other", &f64::NAN).await.unwrap_err(), "not a finite number"),
        (queue.publish(&[Refuses]).await.unwrap_err(), "field `[0]`: the type's own"),
    ] {
        assert!(error.source().unwrap().to_string().starts_with(reason), "{error:?}");
        assert!(!said(&error).contains(SECRET), "{}", said(&error));
    }
    assert_eq!(queue.get_claim("other").await.unwrap(), None, "nothing was claimed");
}

/// Changes the JSON of a file, so that a value has a different type than the queue expects.
fn damage(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Fails if a message of `serde_json` about a file gets into an error or the log unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_damaged_file_holds_is_in_no_error_and_no_log() {
    log::keep();
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    queue.publish_all(&[1, 2]).await.unwrap();
    queue.try_claim("task", &()).await.unwrap();
    next_work(&queue).await.succeed(&()).await.unwrap();
    let (event, claim, result) = (
        root.join("events/000000000/000000000002.json"),
        root.join("claims/task/000000000001.json"),
        root.join("results/000000000/000000000001.json"),
    );
    damage(&event, |json| json["event"]["version"] = SECRET.into());
    damage(&claim, |json| json["epoch"] = SECRET.into());
    damage(&result, |json| json["success"] = SECRET.into());
    let reader = another(&queue).await;
    for (error, field) in [
        (reader.event(2).await.unwrap_err(), "version"),
        (reader.get_claim("task").await.unwrap_err(), "epoch"),
        (reader.result(1).await.unwrap_err(), "success"),
    ] {
        let why = error.source().unwrap().to_string();
        assert!(why.contains(field) && why.contains("invalid type: string"), "{why}");
        assert!(!said(&error).contains(SECRET), "{}", said(&error));
    }
    let problems = serde_json::to_string(&reader.check().await.unwrap()).unwrap();
    assert!(problems.matches("invalid type: string").count() == 3 && !problems.contains(SECRET), "{problems}");

    // a reader that skips the file logs it
    assert_eq!(reader.events(&Search::default()).await.unwrap().items.len(), 1);
    let ignore = Subscriber::new(Name::from_static("ignore"), EventFilter::All, |_| Box::pin(async { Ok(()) }));
    reader.add_subscriber(reader.default_group().clone(), ignore);
    let consuming = reader.clone();
    let consuming = tokio::spawn(async move { consuming.start_consuming().await });
    told(&["torn event passed over", root.to_str().unwrap()]).await;
    reader.stop_consuming().await;
    consuming.await.unwrap().unwrap();
    assert!(!log::lines(&["passed over", root.to_str().unwrap()]).is_empty());
    assert_eq!(log::lines(&[SECRET]), [""; 0]);
}

/// Fails if a job whose dead letter the file system refuses is logged as given up, again at each try.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_logged_as_given_up_once_its_dead_letter_is_written() {
    log::keep();
    let queue = fresh().await;
    let fails = Subscriber::new(Name::from_static("fails"), EventFilter::All, |_| {
        Box::pin(async { Err(HandlerError::permanent("never")) })
    });
    queue.add_subscriber(queue.default_group().clone(), fails);
    let blocked = queue.config().root_dir.join("dead_letters/000000000001.json");
    fs::create_dir(&blocked).unwrap(); // the dead letter cannot replace a folder
    queue.publish(&1).await.unwrap();
    let consuming = queue.clone();
    tokio::spawn(async move { consuming.start_consuming().await });
    let name = &*format!("queue={}", queue.name());
    let given_up = || log::lines(&["job given up", name]);
    told(&["the outcome of a job cannot be written", name]).await;
    assert_eq!(given_up(), [""; 0]);
    fs::remove_dir(&blocked).unwrap();
    told(&["outcomes of jobs are written again", name]).await;
    assert_eq!(given_up().len(), 1, "{:?}", given_up());
    assert!(blocked.is_file());
}

/// Fails if each search of a waiting worker logs the claim again.
#[tokio::test]
async fn an_event_with_a_torn_claim_is_logged_once() {
    log::keep();
    let queue = fresh().await;
    queue.publish(&1).await.unwrap();
    let claim = queue.config().root_dir.join("claims/event-1/000000000001.json");
    fs::create_dir_all(claim.parent().unwrap()).unwrap();
    fs::write(&claim, "").unwrap();
    for _ in 0..3 {
        assert!(queue.try_claim_next().await.unwrap().is_none());
    }
    let lines = log::lines(&["torn claim passed over", claim.to_str().unwrap()]);
    assert_eq!(lines.len(), 1, "{lines:?}");
}

/// Waits until the log has a line with these texts.
async fn told(texts: &[&str]) {
    until(texts[0], async || !log::lines(texts).is_empty()).await;
}

/// Fails unless the log has one line that the outage began, and one that says how long it lasted.
fn assert_told_once(about: &str, began: &str, over: &str) {
    let (began, over) = (log::lines(&[began, about]), log::lines(&[over, about]));
    assert_eq!((began.len(), over.len()), (1, 1), "{began:?} {over:?}");
    assert!(over[0].contains("lasted="), "{over:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_folder_that_is_away_everyone_who_needs_it_says_so_once_and_when_it_is_back() {
    log::keep();
    let queue = FileQueue::open(FileQueueConfig { claim_expiration: Duration::from_secs(12), ..config(folder()) });
    let queue = queue.await.unwrap();
    let root = queue.config().root_dir.clone();
    let away = root.with_extension("away");
    queue.publish_all(&[(); 77]).await.unwrap();
    for _ in 1..77 {
        next_work(&queue).await.succeed(&()).await.unwrap();
    }
    let work = next_work(&queue).await;
    let waits = another(&queue).await;

    fs::rename(&root, &away).unwrap();
    let waiting = waits.clone();
    let waiting = tokio::spawn(async move { waiting.claim_next().await.unwrap() });
    let path = &*format!("folder=\"{}\"", root.to_str().unwrap());
    told(&["the folder of the queue is gone", path]).await;
    told(&["claim not renewed", "claim=\"event-77\""]).await;
    fs::rename(&away, &root).unwrap();
    told(&["claim is renewed again", "claim=\"event-77\""]).await;
    work.release().await.unwrap();
    waiting.await.unwrap().succeed(&()).await.unwrap();
    assert_told_once(path, "the folder of the queue is gone", "the folder of the queue is there again");
    assert_told_once("claim=\"event-77\"", "claim not renewed", "claim is renewed again");
}

/// Fails if a worker forgets its outage when a different queue takes the place of the folder.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_folder_that_comes_back_as_another_queue_the_end_is_told_too() {
    log::keep();
    let queue = fresh().await;
    let root = queue.config().root_dir.clone();
    let ignore = Subscriber::new(Name::from_static("ignore"), EventFilter::All, |_| Box::pin(async { Ok(()) }));
    queue.add_subscriber(queue.default_group().clone(), ignore);
    let consuming = queue.clone();
    tokio::spawn(async move { consuming.start_consuming().await });
    queue.publish(&1).await.unwrap();
    until("it is handled", async || queue.result(1).await.unwrap().is_some()).await;
    fs::rename(&root, root.with_extension("away")).unwrap();
    let path = &*format!("folder=\"{}\"", root.to_str().unwrap());
    told(&["the folder of the queue is gone", path]).await;
    fs::create_dir(&root).unwrap();
    told(&["the folder of the queue is there again", path]).await;
    assert_told_once(path, "the folder of the queue is gone", "the folder of the queue is there again");
}

/// A queue of a folder of its own on this Redis.
async fn coordinated(url: &str) -> FileQueue {
    let coordination = RedisCoordination {
        redis_url: url.into(),
        reconnect_interval: Duration::from_millis(50),
        ..RedisCoordination::default()
    };
    FileQueue::open_with_redis(config(folder()), coordination).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_redis_that_is_away_it_is_told_once_that_it_is_and_once_that_it_is_back() {
    log::keep();
    let mut server = eventbus_test::private_redis();
    let queue = coordinated(server.url()).await;
    queue.publish(&1).await.unwrap();
    server.stop();
    // of several concurrent publishers and the connection for messages, one logs the outage
    let publishing = (0..20).map(|number| {
        let queue = queue.clone();
        async move { queue.publish(&number).await.unwrap() }
    });
    futures_util::future::join_all(publishing).await;
    let name = &*format!("queue=\"{}\"", queue.name());
    told(&["the files decide alone", name]).await;
    server.start();
    told(&["Redis is back", name]).await;
    queue.publish(&2).await.unwrap();
    assert_told_once(name, "the files decide alone", "Redis is back");
}

/// Fails if each refusal is logged, or if a command that Redis accepts ends the refusal of a different one.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_redis_refuses_is_logged_once_and_when_it_is_accepted_again() {
    log::keep();
    let server = eventbus_test::private_redis();
    let queue = coordinated(server.url()).await;
    let admin = eventbus_test::internal::redis_connection(server.url()).await;
    let set_right = async |right: &str| {
        redis::cmd("ACL").arg(&["SETUSER", "default", right]).exec_async(&mut admin.clone()).await.unwrap();
    };
    set_right("-publish").await;
    queue.publish(&1).await.unwrap();
    let name = &*format!("queue=\"{}\"", queue.name());
    told(&["Redis refuses a command", name, "what=\"publishing messages\""]).await;
    for number in 2..=4 {
        queue.publish(&number).await.unwrap(); // Redis reserves the ids
    }
    assert_eq!(queue.metrics().redis_failures, 4);
    set_right("+publish").await;
    queue.publish(&5).await.unwrap();
    assert_told_once(name, "Redis refuses a command", "Redis accepts the command again");
}

/// Fails if the worker takes a connection to a server that refuses all writes for the end of the outage: then it logs
/// both again and again.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_redis_that_became_a_replica_it_is_told_once_that_it_is_away_and_once_that_it_is_back() {
    log::keep();
    let server = eventbus_test::private_redis();
    let queue = coordinated(server.url()).await;
    let admin = eventbus_test::internal::redis_connection(server.url()).await;
    let replicate = async |host: &str, port: &str| {
        redis::cmd("REPLICAOF").arg(&[host, port]).exec_async(&mut admin.clone()).await.unwrap();
    };
    let connections = async || {
        let stats: String = redis::cmd("INFO").arg("stats").query_async(&mut admin.clone()).await.unwrap();
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    replicate("127.0.0.1", &eventbus_test::internal::closed_port().to_string()).await;
    queue.publish(&1).await.unwrap();
    let name = &*format!("queue=\"{}\"", queue.name());
    told(&["the files decide alone", name]).await;
    let before = connections().await;
    until("the worker has connected again and again", async || connections().await >= before + 6).await;
    replicate("NO", "ONE").await;
    told(&["Redis is back", name]).await;
    queue.publish(&2).await.unwrap();
    assert_told_once(name, "the files decide alone", "Redis is back");
}

/// Fails unless all queues together log one warning about the server.
#[tokio::test]
async fn coordination_by_a_redis_on_another_machine_without_tls_is_warned_of_once() {
    log::keep();
    let urls = ["redis://:secret@plain.example:6390", "redis://:secret@plain.example:6390", "redis://localhost:1"];
    for url in urls {
        let response_timeout = Duration::from_millis(50);
        let coordination =
            RedisCoordination { redis_url: url.into(), response_timeout, ..RedisCoordination::default() };
        FileQueue::open_with_redis(config(folder()), coordination).await.unwrap();
    }
    let warned = log::lines(&["the connection to Redis has no TLS"]);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("plain.example:6390") && !warned[0].contains("secret"), "{warned:?}");
}
