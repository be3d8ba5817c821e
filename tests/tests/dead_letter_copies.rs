//! Dead letters of the Redis bus are copied to the store, and put back when Redis has lost them.
//!
//! The clock of the buses is moved by hand: so they look as often as a test waits.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which say what they ran on")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    ExpectedVersion, HandlerError, Name, NewEvent, SharedClock, StreamId,
    port::{Append, DeadLetter, DeadLetterFilter, DeadLetters, EventStore},
    prelude::*,
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;
use redis::{FromRedisValue, aio::MultiplexedConnection};
use test_servers::PrivateRedis;

const STEM: Name = Name::from_static("dead-letter:");

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Invoice")]
struct Paid {}

/// What the handlers of a test do.
#[derive(Clone, Default)]
struct Fate {
    is_mended: Arc<AtomicBool>,
    /// Whether events wait before they fail.
    is_held: Arc<AtomicBool>,
    began: Arc<AtomicUsize>,
    handled: Arc<AtomicUsize>,
}

#[handler(manual)]
async fn book(_: &Paid, State(fate): State<Fate>) -> Result<(), HandlerError> {
    fate.began.fetch_add(1, Ordering::SeqCst);
    while fate.is_held.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if fate.is_mended.load(Ordering::SeqCst) {
        fate.handled.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    Err(HandlerError::permanent("the ledger is closed"))
}

/// A Redis, a stream on it, and what happens to its events.
struct Place {
    server: PrivateRedis,
    prefix: String,
    clock: ManualClock,
    fate: Fate,
}

impl Place {
    fn new() -> Self {
        let prefix = test_servers::unique_name("copies");
        Self { server: test_servers::private_redis(), prefix, clock: ManualClock::new(), fate: Fate::default() }
    }

    async fn bus(&self) -> RedisEventBus {
        let config = RedisEventBusConfig {
            redis_url: self.server.url().into(),
            stream_prefix: self.prefix.clone(),
            clock: SharedClock::new(self.clock.clone()),
            ..RedisEventBusConfig::default()
        };
        RedisEventBus::connect(config).await.unwrap()
    }

    async fn app(&self, store: &Arc<dyn EventStore>) -> App {
        let app = App::builder().store(Arc::clone(store)).bus(self.bus().await).state(self.fate.clone());
        app.handler::<book>().start().await.unwrap()
    }

    async fn connection(&self) -> MultiplexedConnection {
        test_servers::redis_connection(self.server.url()).await
    }

    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.connection().await).await.unwrap()
    }

    async fn flush(&self) {
        self.ask::<()>(&["FLUSHALL"]).await;
    }

    fn dead_letters(&self) -> String {
        format!("{}:stream_dlq", self.prefix)
    }

    fn record(&self) -> String {
        format!("{{{}}}:copies", self.dead_letters())
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let page = self.bus().await.dead_letters(&DeadLetterFilter::default(), None, 1_000).await.unwrap();
        page.letters
    }

    /// Waits until something holds, and has the buses look meanwhile.
    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !holds().await {
            assert!(began.elapsed() < Duration::from_secs(120), "waited in vain until {what}");
            self.clock.advance(Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the store has so many copies, all compared with so many dead letters.
    async fn settled(&self, store: &Arc<dyn EventStore>, count: usize) {
        let what = format!("{count} dead letters have a copy");
        self.until(&what, async || {
            // a server that has just come back may still refuse
            let names = store.notes().unwrap().list_note_names(&STEM, None, 1_000).await;
            names.is_ok_and(|names| names.len() == count) && self.is_compared(count).await
        })
        .await;
    }

    /// Whether the stream has so many dead letters, and was compared with the store since it changed.
    async fn is_compared(&self, count: usize) -> bool {
        let records: Vec<String> = self.ask(&["HVALS", &self.record()]).await;
        let words: Vec<&str> = records.first().map(|record| record.split(' ').collect()).unwrap_or_default();
        let length: usize = self.ask(&["XLEN", &self.dead_letters()]).await;
        let is_done = words.get(2) == Some(&"copied") && words.get(3) == Some(&&*length.to_string());
        is_done && length == count
    }

    /// Gives the handlers so many events, and waits until all are dead letters with a copy.
    async fn bury(&self, store: &Arc<dyn EventStore>, count: usize) {
        self.fate.is_mended.store(false, Ordering::SeqCst);
        save(store, count).await;
        self.settled(store, count).await;
    }
}

async fn save(store: &Arc<dyn EventStore>, count: usize) {
    let append = |number: usize| Append {
        stream: StreamId::parse("Invoice", &format!("invoice-{number}")).unwrap(),
        expected: ExpectedVersion::Any,
        events: vec![NewEvent::new(Name::from_static("Paid"), 1, "{}")],
    };
    for result in store.append_many((0..count).map(append).collect()).await {
        result.unwrap();
    }
}

async fn copies(store: &Arc<dyn EventStore>) -> Vec<Name> {
    store.notes().unwrap().list_note_names(&STEM, None, 1_000).await.unwrap()
}

/// What dead letters say, but for their ids, in their order.
fn said(letters: &[DeadLetter]) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for letter in letters {
        let mut json = serde_json::to_value(letter).unwrap();
        json.as_object_mut().unwrap().remove("id");
        said.push(json.to_string());
    }
    said
}

async fn sqlite() -> Arc<dyn EventStore> {
    let folder = tempfile();
    Arc::new(SqliteEventStore::open(folder.join("events.db")).await.unwrap())
}

fn tempfile() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(test_servers::unique_name("dead-letter-copies"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

async fn postgres_at(database_url: &str) -> Arc<dyn EventStore> {
    let config = PgEventStoreConfig {
        database_url: database_url.to_owned(),
        schema: test_servers::unique_name("copies"),
        ..Default::default()
    };
    Arc::new(PgEventStore::connect_with(config).await.unwrap())
}

async fn postgres() -> Arc<dyn EventStore> {
    postgres_at(test_servers::postgres_url()).await
}

/// The store has a copy of each dead letter until an application or another tool replays or discards it.
async fn copies_follow_the_dead_letters(store: Arc<dyn EventStore>) {
    let place = Place::new();
    let app = place.app(&store).await;
    place.bury(&store, 4).await;
    assert_eq!(store.count_dead_deliveries().await.unwrap(), 0, "the rows of the in-process bus are its own");
    // what no store holds stays in Redis
    let foreign = ["event_id", "1", "payload", "{}", "original_message_id", "1-0", "group", "default"];
    place.ask::<String>(&[&["XADD", &place.dead_letters(), "*"], &foreign[..]].concat()).await;
    place.until("it is compared", async || place.is_compared(5).await).await;
    assert_eq!(copies(&store).await.len(), 4);

    place.fate.is_mended.store(true, Ordering::SeqCst);
    let letters = place.letters().await;
    let ours: Vec<_> =
        letters.iter().filter(|letter| letter.record.is_some()).map(|letter| letter.id.clone()).collect();
    let without_store = place.bus().await;
    assert!(without_store.replay(&ours[0]).await.unwrap());
    place.until("the copy of a replayed one is gone", async || copies(&store).await.len() == 3).await;
    place.ask::<u64>(&["XDEL", &place.dead_letters(), ours[1].as_str()]).await;
    place.until("the copy of a deleted one is gone", async || copies(&store).await.len() == 2).await;
    assert!(app.bus().discard(&ours[2]).await.unwrap());
    place.until("the copy of a discarded one is gone", async || copies(&store).await.len() == 1).await;
    assert!(app.bus().replay(&ours[3]).await.unwrap());
    place.until("no copy is left", async || copies(&store).await.is_empty()).await;
    place.until("both are handled", async || place.fate.handled.load(Ordering::SeqCst) == 2).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// What Redis has lost comes back once, under a running app and between two starts, and can be replayed.
async fn a_flush_loses_no_dead_letter(store: Arc<dyn EventStore>) {
    const LETTERS: usize = 130; // more than are put back at once
    let place = Place::new();
    let app = place.app(&store).await;
    place.bury(&store, LETTERS).await;
    let before = place.letters().await;
    // what is delivered again, as the relay publishes some events twice, does not die again
    place.fate.is_mended.store(true, Ordering::SeqCst);
    place.flush().await;
    place.settled(&store, LETTERS).await;
    let mut expected = said(&before);
    let mut found = said(&place.letters().await);
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "under a running app");
    app.shutdown(Duration::from_secs(60)).await.unwrap();

    place.flush().await;
    let app = place.app(&store).await;
    place.settled(&store, LETTERS).await;
    let mut found = said(&place.letters().await);
    found.sort();
    assert_eq!(found, expected, "between two starts");

    let died: Vec<_> = place.letters().await.iter().map(|letter| letter.dead_lettered_at).collect();
    assert!(died.is_sorted_by_key(|at| at.map(|at| at.unix_timestamp_nanos() / 1_000_000)), "oldest first");
    app.settled().await.unwrap();
    let handled = place.fate.handled.load(Ordering::SeqCst);
    assert_eq!(app.bus().replay_all(&DeadLetterFilter::default()).await.unwrap(), LETTERS as u64);
    place.settled(&store, 0).await;
    place.until("they are handled", async || place.fate.handled.load(Ordering::SeqCst) >= handled + LETTERS).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// An older copy of Redis has the record, and a lower number in it.
async fn what_an_older_copy_of_redis_lacks_is_put_back(store: Arc<dyn EventStore>) {
    let place = Place::new();
    let app = place.app(&store).await;
    place.bury(&store, 1).await;
    let mut connection = place.connection().await;
    let keys = [place.record(), place.dead_letters()];
    let mut older: Vec<Vec<u8>> = Vec::new();
    for key in &keys {
        older.push(redis::cmd("DUMP").arg(key).query_async(&mut connection).await.unwrap());
    }
    save(&store, 3).await;
    place.settled(&store, 4).await;
    let mut restore = redis::pipe();
    restore.atomic();
    for (key, dump) in keys.iter().zip(older) {
        restore.cmd("RESTORE").arg(key).arg(0).arg(dump).arg("REPLACE").ignore();
    }
    let () = restore.query_async(&mut connection).await.unwrap();
    place.settled(&store, 4).await;
    let mut events: Vec<_> =
        place.letters().await.iter().map(|letter| letter.record.as_ref().unwrap().metadata().event_id()).collect();
    events.sort();
    events.dedup();
    assert_eq!(events.len(), 4, "each once");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Two processes that both find Redis empty put each dead letter back once.
async fn two_processes_put_each_back_once(store: Arc<dyn EventStore>) {
    let place = Place::new();
    let (one, other) = (place.app(&store).await, place.app(&store).await);
    place.bury(&store, 20).await;
    place.fate.is_mended.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        place.flush().await;
        place.settled(&store, 20).await;
    }
    for app in [one, other] {
        app.shutdown(Duration::from_secs(60)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_follow_the_dead_letters_to_sqlite() {
    copies_follow_the_dead_letters(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_follow_the_dead_letters_to_postgres() {
    copies_follow_the_dead_letters(postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_loses_no_dead_letter_with_sqlite() {
    a_flush_loses_no_dead_letter(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_loses_no_dead_letter_with_postgres() {
    a_flush_loses_no_dead_letter(postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_copy_of_redis_lacks_is_put_back_from_sqlite() {
    what_an_older_copy_of_redis_lacks_is_put_back(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_copy_of_redis_lacks_is_put_back_from_postgres() {
    what_an_older_copy_of_redis_lacks_is_put_back(postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_put_each_back_once_from_sqlite() {
    two_processes_put_each_back_once(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_put_each_back_once_from_postgres() {
    two_processes_put_each_back_once(postgres().await).await;
}

/// A store that is away while events die gets their copies when it is back; consumption and burial do not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn copies_follow_when_the_store_is_back() {
    let place = Place::new();
    let mut server = test_servers::private_postgres();
    let store = postgres_at(server.url()).await;
    let app = place.app(&store).await;
    place.fate.is_held.store(true, Ordering::SeqCst);
    save(&store, 2).await;
    place.until("the first one runs", async || place.fate.began.load(Ordering::SeqCst) > 0).await;
    let pending = async || app.bus().progress(app.bus().default_group()).await.unwrap();
    place.until("both are published", async || pending().await.unread + pending().await.pending == 2).await;
    server.stop();
    place.fate.is_held.store(false, Ordering::SeqCst);
    place.until("both are dead letters", async || place.letters().await.len() == 2).await;
    server.start();
    place.settled(&store, 2).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Where the app has no store, nothing is noted beside the dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_dead_letters_live_in_redis_only() {
    let (place, store) = (Place::new(), sqlite().await);
    let publisher = App::builder().store(Arc::clone(&store)).bus(place.bus().await).start().await.unwrap();
    save(&store, 2).await;
    app_published(&publisher, 2).await;
    publisher.shutdown(Duration::from_secs(60)).await.unwrap();
    let consumer = App::builder().bus(place.bus().await).state(place.fate.clone()).handler::<book>();
    let consumer = consumer.start().await.unwrap();
    place.until("both are dead letters", async || place.letters().await.len() == 2).await;
    place.clock.advance(Duration::from_secs(60));
    consumer.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(place.ask::<u64>(&["EXISTS", &place.record()]).await, 0);
    assert_eq!(copies(&store).await.len(), 0);
    // an app that has the store catches up
    let app = place.app(&store).await;
    place.settled(&store, 2).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

async fn app_published(app: &App, count: u64) {
    app.published(Some(eventbus::Position::new(count))).await.unwrap();
}
