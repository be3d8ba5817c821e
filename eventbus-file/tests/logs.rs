//! What a queue tells its callers and the log: no stored values, and each outage once when it begins and once when it ends.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "../../eventbus-redis/tests/common/log.rs"]
mod log;

use std::{error::Error, fs, path::Path};

use common::{another, fresh, next_work};
use eventbus::{
    EventFilter, Name,
    port::{EventBus, Subscriber},
    prelude::*,
};
use eventbus_file::{FileQueueError, Search};
use serde_json::{Value, json};

/// What no error and no line of a log may hold: a value that is stored.
const SECRET: &str = "secret-4711";

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "only read")]
struct Card {
    pin: u32,
}

/// Everything that an error says.
fn told(error: &FileQueueError) -> String {
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
        assert!(!told(&error).contains(SECRET), "{}", told(&error));
    }
    for (error, reason) in [
        (queue.try_claim("other", &[Refuses]).await.unwrap_err(), "field `[0]`: the type's own"),
        (queue.try_claim("other", &f64::NAN).await.unwrap_err(), "not a finite number"),
        (queue.publish(&[Refuses]).await.unwrap_err(), "field `[0]`: the type's own"),
    ] {
        assert!(error.source().unwrap().to_string().starts_with(reason), "{error:?}");
        assert!(!told(&error).contains(SECRET), "{}", told(&error));
    }
    assert_eq!(queue.get_claim("other").await.unwrap(), None, "nothing was claimed");
}

/// Puts a value into a file of the queue where another type belongs.
fn damage(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// Red if what `serde_json` says of a file goes into an error or the log as it is.
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
        assert!(!told(&error).contains(SECRET), "{}", told(&error));
    }
    let problems = serde_json::to_string(&reader.check().await.unwrap()).unwrap();
    assert!(problems.matches("invalid type: string").count() == 3 && !problems.contains(SECRET), "{problems}");

    // what passes over the file says so in the log
    assert_eq!(reader.events(&Search::default()).await.unwrap().items.len(), 1);
    let ignore = Subscriber::new(Name::from_static("ignore"), EventFilter::All, |_| Box::pin(async { Ok(()) }));
    reader.subscribers().add(Name::from_static("default"), ignore);
    let consuming = reader.clone();
    let consuming = tokio::spawn(async move { consuming.start_consuming().await });
    common::until("the damaged event is given up", async || !log::lines(&["delivery given up"]).is_empty()).await;
    reader.stop_consuming().await;
    consuming.await.unwrap().unwrap();
    assert!(!log::lines(&["passed over"]).is_empty());
    assert_eq!(log::lines(&[SECRET]), [""; 0]);
}
