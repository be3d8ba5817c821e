//! Copies of the Redis bus's dead letters in the store: they follow the dead letters, and restore those that Redis
//! lost.
//!
//! The test moves the clock of the buses, which compare dead letters with copies as often as the test waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    ExpectedVersion, HandlerError, Name, NewEvent, StreamId,
    clock::SharedClock,
    port::{Append, DeadLetter, DeadLetterFilter, DeadLetters, EventStore},
    prelude::*,
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::PrivateRedis;
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;
use redis::{FromRedisValue, aio::MultiplexedConnection};

const STEM: Name = Name::from_static("dead-letter:");

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Invoice")]
struct Paid {}

/// The behavior of the handlers of a test.
#[derive(Clone, Default)]
struct Fate {
    is_mended: Arc<AtomicBool>,
    /// Set while events wait before they fail.
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

/// A Redis server, a stream on it, and the behavior of its handlers.
struct Place {
    server: PrivateRedis,
    prefix: String,
    clock: ManualClock,
    fate: Fate,
}

impl Place {
    fn new() -> Self {
        let prefix = eventbus_test::unique_name("copies");
        Self { server: eventbus_test::private_redis(), prefix, clock: ManualClock::new(), fate: Fate::default() }
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
        eventbus_test::internal::redis_connection(self.server.url()).await
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

    /// The note with the state of the comparison.
    fn role(&self) -> Name {
        Name::new("note", format!("dead-letters:{}", self.dead_letters())).unwrap()
    }

    fn record(&self) -> String {
        format!("{{{}}}:dead_letter_copies", self.dead_letters())
    }

    async fn list_dead_letters(&self) -> Vec<DeadLetter> {
        let page = self.bus().await.list_dead_letters(&DeadLetterFilter::default(), None, 1_000).await.unwrap();
        page.letters
    }

    /// Waits until `holds` returns `true`; advances the clock meanwhile, so that the buses compare.
    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !holds().await {
            assert!(began.elapsed() < Duration::from_secs(120), "timed out waiting until {what}");
            self.clock.advance(Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the store has `count` copies, and the bus has compared them with `count` dead letters.
    async fn settled(&self, store: &Arc<dyn EventStore>, count: usize) {
        let what = format!("{count} dead letters have a copy");
        self.until(&what, async || {
            // a server that has just restarted may still refuse
            let names = store.notes().unwrap().list_note_names(&STEM, None, 1_000).await;
            names.is_ok_and(|names| names.len() == count) && self.is_compared(count).await
        })
        .await;
    }

    /// Returns `true` if the bus has `count` dead letters, and has compared them with the store since the last change.
    async fn is_compared(&self, count: usize) -> bool {
        let records: Vec<String> = self.ask(&["HVALS", &self.record()]).await;
        let words: Vec<&str> = records.first().map(|record| record.split(' ').collect()).unwrap_or_default();
        let length: usize = self.ask(&["XLEN", &self.dead_letters()]).await;
        let is_done = words.get(2) == Some(&"copied") && words.get(3) == Some(&&*length.to_string());
        is_done && length == count
    }

    /// Publishes `count` events, and waits until all are dead letters with a copy.
    async fn move_to_dead_letters(&self, store: &Arc<dyn EventStore>, count: usize) {
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

/// Returns the contents of dead letters without their ids, in order.
fn said(dead_letters: &[DeadLetter]) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for dead_letter in dead_letters {
        let mut json = serde_json::to_value(dead_letter).unwrap();
        json.as_object_mut().unwrap().remove("id");
        said.push(json.to_string());
    }
    said
}

async fn sqlite() -> Arc<dyn EventStore> {
    Arc::new(SqliteEventStore::in_memory().await.unwrap())
}

async fn postgres_at(database_url: &str) -> Arc<dyn EventStore> {
    let config = PgEventStoreConfig {
        database_url: database_url.to_owned(),
        schema: eventbus_test::unique_name("copies"),
        ..Default::default()
    };
    Arc::new(PgEventStore::connect_with(config).await.unwrap())
}

async fn postgres() -> Arc<dyn EventStore> {
    postgres_at(eventbus_test::postgres_url()).await
}

/// The store has a copy of each dead letter until an application or a different tool replays or discards it.
async fn copies_follow_the_dead_letters(store: Arc<dyn EventStore>) {
    let place = Place::new();
    let app = place.app(&store).await;
    place.move_to_dead_letters(&store, 4).await;
    assert_eq!(store.count_dead_deliveries(u64::MAX).await.unwrap(), 0, "the rows of the in-process bus are its own");
    // dead letters without a store's event stay in Redis only
    let foreign = ["event_id", "1", "payload", "{}", "original_message_id", "1-0", "group", "default"];
    place.ask::<String>(&[&["XADD", &place.dead_letters(), "*"], &foreign[..]].concat()).await;
    place.until("it is compared", async || place.is_compared(5).await).await;
    assert_eq!(copies(&store).await.len(), 4);

    place.fate.is_mended.store(true, Ordering::SeqCst);
    let dead_letters = place.list_dead_letters().await;
    let ours: Vec<_> = dead_letters
        .iter()
        .filter(|dead_letter| dead_letter.record.is_some())
        .map(|dead_letter| dead_letter.id.clone())
        .collect();
    let without_store = place.bus().await;
    assert!(without_store.replay(&ours[0]).await.unwrap());
    place.until("the copy of a replayed one is gone", async || copies(&store).await.len() == 3).await;
    place.ask::<u64>(&["XDEL", &place.dead_letters(), ours[1].as_str()]).await;
    place.until("the copy of a deleted one is gone", async || copies(&store).await.len() == 2).await;
    assert!(app.bus().dead_letters().unwrap().discard(&ours[2]).await.unwrap());
    place.until("the copy of a discarded one is gone", async || copies(&store).await.len() == 1).await;
    assert!(app.bus().dead_letters().unwrap().replay(&ours[3]).await.unwrap());
    place.until("no copy is left", async || copies(&store).await.is_empty()).await;
    place.until("both are handled", async || place.fate.handled.load(Ordering::SeqCst) == 2).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Dead letters lost by Redis are restored once, under a running app and between two starts, and can be replayed.
async fn a_flush_loses_no_dead_letter(store: Arc<dyn EventStore>) {
    const DEAD_LETTERS: usize = 130; // more than one batch of restored ones
    let place = Place::new();
    let app = place.app(&store).await;
    place.move_to_dead_letters(&store, DEAD_LETTERS).await;
    let before = place.list_dead_letters().await;
    // the relay publishes some events twice: the second delivery must not make a second dead letter
    place.fate.is_mended.store(true, Ordering::SeqCst);
    place.flush().await;
    place.settled(&store, DEAD_LETTERS).await;
    let mut expected = said(&before);
    let mut found = said(&place.list_dead_letters().await);
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "under a running app");
    app.shutdown(Duration::from_secs(60)).await.unwrap();

    place.flush().await;
    let app = place.app(&store).await;
    place.settled(&store, DEAD_LETTERS).await;
    let mut found = said(&place.list_dead_letters().await);
    found.sort();
    assert_eq!(found, expected, "between two starts");

    let died: Vec<_> = place.list_dead_letters().await.iter().map(|dead_letter| dead_letter.dead_lettered_at).collect();
    assert!(died.is_sorted_by_key(|at| at.map(|at| at.unix_timestamp_nanos() / 1_000_000)), "oldest first");
    app.settled().await.unwrap();
    let handled = place.fate.handled.load(Ordering::SeqCst);
    assert_eq!(
        app.bus().dead_letters().unwrap().replay_all(&DeadLetterFilter::default()).await.unwrap(),
        DEAD_LETTERS as u64
    );
    place.settled(&store, 0).await;
    place.until("they are handled", async || place.fate.handled.load(Ordering::SeqCst) >= handled + DEAD_LETTERS).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// An older copy of Redis has the record of dead letters, with a lower number in it.
async fn what_an_older_copy_of_redis_lacks_is_put_back(store: Arc<dyn EventStore>) {
    let place = Place::new();
    let app = place.app(&store).await;
    place.move_to_dead_letters(&store, 1).await;
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
    let mut events: Vec<_> = place
        .list_dead_letters()
        .await
        .iter()
        .map(|dead_letter| dead_letter.record.as_ref().unwrap().metadata().event_id())
        .collect();
    events.sort();
    events.dedup();
    assert_eq!(events.len(), 4, "each once");
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// A store that was restored from a backup lacks later copies, and has copies of dead letters that are gone.
async fn a_restored_store_gets_its_copies_again(store: Arc<dyn EventStore>) {
    let place = Place::new();
    let app = place.app(&store).await;
    place.move_to_dead_letters(&store, 2).await;
    let notes = store.notes().unwrap();
    let mut backup = Vec::new();
    for name in [copies(&store).await, vec![place.role()]].concat() {
        let text = notes.load_note(&name).await.unwrap().unwrap();
        backup.push((name, text));
    }
    let discarded = place.list_dead_letters().await.remove(0).id;
    assert!(app.bus().dead_letters().unwrap().discard(&discarded).await.unwrap());
    place.settled(&store, 1).await;
    save(&store, 3).await;
    place.settled(&store, 4).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    let expected = copies(&store).await;

    for name in &expected {
        notes.delete_note(name).await.unwrap();
    }
    for (name, text) in &backup {
        notes.save_note(name, text).await.unwrap();
    }
    let app = place.app(&store).await;
    place.until("the copies are those of the dead letters", async || copies(&store).await == expected).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Two processes that both find Redis empty restore each dead letter once.
async fn two_processes_put_each_back_once(store: Arc<dyn EventStore>) {
    let place = Place::new();
    let (one, other) = (place.app(&store).await, place.app(&store).await);
    place.move_to_dead_letters(&store, 20).await;
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
async fn a_restored_sqlite_store_gets_its_copies_again() {
    a_restored_store_gets_its_copies_again(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_store_gets_its_copies_again() {
    a_restored_store_gets_its_copies_again(postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_put_each_back_once_from_sqlite() {
    two_processes_put_each_back_once(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_put_each_back_once_from_postgres() {
    two_processes_put_each_back_once(postgres().await).await;
}

/// A store that is down while events become dead letters gets their copies when it is back; meanwhile the bus consumes,
/// and adds dead letters, without waiting for it.
#[tokio::test(flavor = "multi_thread")]
async fn copies_follow_when_the_store_is_back() {
    let place = Place::new();
    let mut server = eventbus_test::private_postgres();
    let store = postgres_at(server.url()).await;
    let app = place.app(&store).await;
    place.fate.is_held.store(true, Ordering::SeqCst);
    save(&store, 2).await;
    place.until("the first one runs", async || place.fate.began.load(Ordering::SeqCst) > 0).await;
    let pending = async || app.bus().progress(app.bus().default_group()).await.unwrap();
    place.until("both are published", async || pending().await.unread + pending().await.pending == 2).await;
    server.stop();
    place.fate.is_held.store(false, Ordering::SeqCst);
    place.until("both are dead letters", async || place.list_dead_letters().await.len() == 2).await;
    server.start();
    place.settled(&store, 2).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Without a store in the app, Redis holds no records beside the dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_dead_letters_live_in_redis_only() {
    let (place, store) = (Place::new(), sqlite().await);
    let publisher = App::builder().store(Arc::clone(&store)).bus(place.bus().await).start().await.unwrap();
    save(&store, 2).await;
    app_published(&publisher, 2).await;
    publisher.shutdown(Duration::from_secs(60)).await.unwrap();
    let consumer = App::builder().bus(place.bus().await).state(place.fate.clone()).handler::<book>();
    let consumer = consumer.start().await.unwrap();
    place.until("both are dead letters", async || place.list_dead_letters().await.len() == 2).await;
    place.clock.advance(Duration::from_secs(60));
    consumer.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(place.ask::<u64>(&["EXISTS", &place.record()]).await, 0);
    assert_eq!(copies(&store).await.len(), 0);
    // an app with the store catches up
    let app = place.app(&store).await;
    place.settled(&store, 2).await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

async fn app_published(app: &App, count: u64) {
    app.published(Some(eventbus::Position::new(count))).await.unwrap();
}
