//! The queue as a bus of an application, and how its consumers treat gaps, torn files and dead workers.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{another, config, folder, fresh, text_of_bytes, until};
use eventbus::{
    InMemoryEventStore, Name, NewEvent, RecordedEvent, StreamId, Version,
    event::EventFilter,
    port::{DeadLetterFilter, DeadLetters as _, EventBus, PublishError, Subscriber},
    prelude::*,
};
use eventbus_file::{FileQueue, FileQueueConfig, FileQueueError, Search};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Deposited {
    cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited))]
struct Account {
    balance: u64,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Deposited(deposited): &AccountEvent) {
        self.balance += deposited.cents;
    }
}

type Thanked = Arc<Mutex<Vec<(String, u64)>>>;

#[handler]
async fn thank(event: &Deposited, meta: &Metadata, State(thanked): State<Thanked>) {
    thanked.lock().unwrap().push((meta.aggregate_id().to_string(), event.cents));
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_an_application_get_their_events_from_files() {
    let (queue, thanked) = (fresh().await, Thanked::default());
    let app = App::builder().store(InMemoryEventStore::new()).bus(queue.clone()).state(Thanked::clone(&thanked));
    let app = app.handler::<thank>().start().await.unwrap();
    let (accounts, ada) = (app.repository::<Account>(), "ada".parse().unwrap());
    for cents in [120, 80] {
        accounts.upsert(&ada, |_| Ok::<_, eventbus::Never>(Deposited { cents })).await.unwrap();
    }
    app.settled().await.unwrap();
    assert_eq!(*thanked.lock().unwrap(), [("ada".to_owned(), 120), ("ada".to_owned(), 80)]);
    assert!(app.health().await.connected);
    let first = queue.event(1).await.unwrap().unwrap();
    assert_eq!(first.record().decode::<Deposited>().unwrap().cents, 120);
    let group = queue.config().root_dir.join("subscriptions/default");
    let newest = fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let group = fs::read_to_string(newest).unwrap();
    assert!(group.contains("thank") && group.contains("\"read\": 2"), "{group}");
}

fn deposited(account: &str, cents: u64) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static("Deposited"), 1, format!(r#"{{"cents":{cents}}}"#));
    event.recorded_as(StreamId::parse("Account", account).unwrap(), Version::FIRST, None)
}

fn watch(queue: &FileQueue) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let sees = Arc::clone(&seen);
    let subscriber = Subscriber::new(Name::from_static("watch"), EventFilter::All, move |delivery| {
        sees.lock().unwrap().push(delivery.message_id().unwrap().to_string());
        Box::pin(async { Ok(()) })
    });
    queue.add_subscriber(queue.default_group().clone(), subscriber);
    seen
}

fn consume(queue: &FileQueue) -> tokio::task::JoinHandle<()> {
    let queue = queue.clone();
    tokio::spawn(async move { queue.start_consuming().await.unwrap() })
}

async fn settled(queue: &FileQueue) {
    until("the group has settled", async || queue.progress(queue.default_group()).await.unwrap().is_settled()).await;
}

fn event_path(queue: &FileQueue, id: u64) -> std::path::PathBuf {
    queue.config().root_dir.join(format!("events/000000000/{id:012}.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_a_missing_id_and_sees_all_in_order() {
    let queue = FileQueue::open(FileQueueConfig { gap_timeout: Duration::from_secs(3_600), ..config(folder()) }).await;
    let queue = queue.unwrap();
    EventBus::publish(&queue, &[deposited("a", 1), deposited("b", 2), deposited("c", 3)]).await.unwrap();
    let slow = queue.config().root_dir.join("slow");
    fs::rename(event_path(&queue, 2), &slow).unwrap();
    let seen = watch(&queue);
    consume(&queue);
    until("the first is delivered", async || seen.lock().unwrap().len() == 1).await;
    EventBus::publish(&queue, &[deposited("d", 4)]).await.unwrap();
    fs::hard_link(&slow, event_path(&queue, 2)).unwrap();
    settled(&queue).await;
    assert_eq!(*seen.lock().unwrap(), ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_missing_ids_are_waited_for_once() {
    let patience = Duration::from_millis(400);
    let queue = FileQueue::open(FileQueueConfig { gap_timeout: patience, ..config(folder()) }).await.unwrap();
    let events: Vec<_> = (1..=102).map(|number| deposited("a", number)).collect();
    EventBus::publish(&queue, &events).await.unwrap();
    (2..=101).for_each(|id| fs::remove_file(event_path(&queue, id)).unwrap()); // as if their publisher had died
    let seen = watch(&queue);
    let began = std::time::Instant::now();
    consume(&queue);
    settled(&queue).await;
    assert_eq!(*seen.lock().unwrap(), ["1", "102"]);
    assert!(began.elapsed() < 20 * patience, "{:?}", began.elapsed());
    assert_eq!(queue.metrics().gaps_filled, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_event_is_a_dead_letter_of_the_group_and_the_others_go_on() {
    let queue = fresh().await;
    EventBus::publish(&queue, &[deposited("a", 1), deposited("a", 2), deposited("a", 3)]).await.unwrap();
    fs::write(event_path(&queue, 2), "{").unwrap();
    let seen = watch(&queue);
    consume(&queue);
    settled(&queue).await;
    assert_eq!(*seen.lock().unwrap(), ["1", "3"]);
    let letters = queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert!(letter.record.is_none());
    let error = letter.error.as_deref().unwrap();
    assert!(error.contains("000000000002.json") && error.contains("EOF"), "{error}");
    assert!(queue.replay(&letter.id).await.is_err(), "there is nothing to replay");
    assert_eq!(fs::read(event_path(&queue, 2)).unwrap(), b"{", "it is left alone");
}

/// Fails if the consumer waits for ever for a folder that an operator removed to discard all dead letters: the handler
/// would run again whenever the group's claim expires.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_written_and_replayed_although_their_folders_were_removed() {
    let queue = fresh().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let got_well = Arc::clone(&is_well);
    let fails = Subscriber::new(Name::from_static("fails"), EventFilter::All, move |_| {
        let is_well = got_well.load(Ordering::Relaxed);
        Box::pin(async move { if is_well { Ok(()) } else { Err(HandlerError::permanent("not yet")) } })
    });
    queue.add_subscriber(queue.default_group().clone(), fails);
    let remove = |folder: &str| fs::remove_dir(queue.config().root_dir.join(folder)).unwrap();
    remove("dead_letters");
    consume(&queue);
    EventBus::publish(&queue, &[deposited("a", 1)]).await.unwrap();
    settled(&queue).await;
    let letters = queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    is_well.store(true, Ordering::Relaxed);
    remove("replays");
    assert!(queue.replay(&letter.id).await.unwrap());
    settled(&queue).await;
    assert!(queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters.is_empty());
}

/// Fails if the group stops until its claim expires, because the file of a replay was damaged before its retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_whose_file_is_damaged_before_its_retry_holds_up_no_event() {
    let hour = Duration::from_secs(3_600);
    let queue = FileQueue::open(FileQueueConfig { group_expiration: hour, ..config(folder()) }).await.unwrap();
    let replay = queue.config().root_dir.join("replays/000000000001-default.json");
    let (handled, file) = (Arc::<AtomicUsize>::default(), replay.clone());
    let counted = Arc::clone(&handled);
    let damages = Subscriber::new(Name::from_static("damages"), EventFilter::All, move |delivery| {
        let outcome = match delivery.message_id().unwrap().as_str() {
            "1" if file.exists() => {
                fs::write(&file, "{").unwrap();
                Err(HandlerError::from("not yet"))
            }
            "1" => Err(HandlerError::permanent("never")),
            _ => {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        };
        Box::pin(async move { outcome })
    });
    queue.add_subscriber(queue.default_group().clone(), damages);
    consume(&queue);
    EventBus::publish(&queue, &[deposited("a", 1)]).await.unwrap();
    settled(&queue).await;
    let letters = queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    assert!(queue.replay(&letters[0].id).await.unwrap());
    until("the damaged replay is passed over", async || {
        let has_none = || queue.in_flight().get(queue.default_group()).is_some_and(|counts| counts.entries == 0);
        fs::read(&replay).unwrap() == b"{" && has_none()
    })
    .await;
    EventBus::publish(&queue, &[deposited("b", 2)]).await.unwrap();
    until("the next event is handled", async || handled.load(Ordering::Relaxed) == 1).await;
    assert_eq!(fs::read(&replay).unwrap(), b"{", "the file is left alone");
}

/// A queue that published more could not write the dead letter, which has the errors, too: its group would never go on.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_event_can_become_a_dead_letter() {
    let queue = FileQueue::open(FileQueueConfig { compress_from: Some(10), ..config(folder()) }).await.unwrap();
    let too_large = queue.publish(&text_of_bytes(128 << 20)).await.unwrap_err();
    let FileQueueError::TooLarge { most, .. } = too_large else { panic!("{too_large:?}") };
    let largest = text_of_bytes(usize::try_from(most).unwrap() - 1_000);
    queue.publish(&largest).await.unwrap();
    let fails = Subscriber::new(Name::from_static("fails"), EventFilter::All, |_| {
        Box::pin(async { Err(HandlerError::permanent("\u{1}".repeat(10_000))) })
    });
    queue.add_subscriber(queue.default_group().clone(), fails);
    consume(&queue);
    settled(&queue).await;
    let letters = queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let [letter] = &letters[..] else { panic!("{} dead letters", letters.len()) };
    assert!(
        letter.record.as_ref().unwrap().payload() == largest.get(),
        "the payload of the dead letter is another one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_worker_of_a_group_dies_another_takes_it_over() {
    let soon = FileQueueConfig { group_expiration: Duration::from_millis(300), ..config(folder()) };
    let dies = FileQueue::open(soon).await.unwrap();
    let stands_by = another(&dies).await;
    let (first, second) = (watch(&dies), watch(&stands_by));
    let death = consume(&dies);
    EventBus::publish(&dies, &[deposited("a", 1)]).await.unwrap();
    settled(&dies).await;
    consume(&stands_by);
    death.abort();
    EventBus::publish(&stands_by, &[deposited("a", 2)]).await.unwrap();
    until("the other one gets it", async || second.lock().unwrap().len() == 1).await;
    assert_eq!((first.lock().unwrap().clone(), second.lock().unwrap().clone()), (vec!["1".into()], vec!["2".into()]));
    let info = stands_by.stream_info().await;
    assert_eq!((info.consumer_groups[0].active_consumers, info.consumer_groups[0].lag), (1, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_called_the_same_after_a_restart_goes_on_at_once() {
    let hour = Duration::from_secs(3_600);
    let named = FileQueueConfig { worker_id: Some("worker-1".into()), group_expiration: hour, ..config(folder()) };
    let before = FileQueue::open(named.clone()).await.unwrap();
    let death = consume(&before);
    watch(&before);
    EventBus::publish(&before, &[deposited("a", 1)]).await.unwrap();
    settled(&before).await;
    death.abort();
    let after = FileQueue::open(named).await.unwrap();
    let seen = watch(&after);
    consume(&after);
    EventBus::publish(&after, &[deposited("a", 2)]).await.unwrap();
    settled(&after).await;
    assert_eq!(*seen.lock().unwrap(), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_removed_when_every_group_is_done_with_them() {
    let queue = fresh().await;
    let seen = watch(&queue);
    let consuming = consume(&queue);
    EventBus::publish(&queue, &[deposited("a", 1), deposited("a", 2)]).await.unwrap();
    settled(&queue).await;
    queue.stop_consuming().await;
    consuming.await.unwrap();
    EventBus::publish(&queue, &[deposited("a", 3)]).await.unwrap();
    let removed = queue.remove_through(3, eventbus_file::RemovalCondition::Groups).await.unwrap();
    assert_eq!((removed.events, removed.through), (2, 2), "the third is unread");
    consume(&queue);
    settled(&queue).await;
    assert_eq!(*seen.lock().unwrap(), ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_no_json_is_refused_whatever_its_size() {
    let queue = FileQueue::open(FileQueueConfig { compress_from: Some(10), ..config(folder()) }).await.unwrap();
    for payload in ["{", "{\"longer than ten\": "] {
        let event = NewEvent::new(Name::from_static("Deposited"), 1, payload);
        let event = event.recorded_as(StreamId::parse("Account", "a").unwrap(), Version::FIRST, None);
        let meant = event.metadata().event_id();
        let refused = EventBus::publish(&queue, &[deposited("a", 1), event]).await;
        assert!(
            matches!(refused, Err(PublishError::Refused { event_id: Some(named), .. }) if named == meant),
            "{refused:?}"
        );
    }
    assert_eq!(queue.count_events(&Search::default()).await.unwrap(), 0);
    assert!(queue.check().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_are_taken_as_far_as_there_is_room() {
    let two_at_once = FileQueueConfig { max_in_flight: 2, concurrency: 10, ..config(folder()) };
    let queue = FileQueue::open(two_at_once).await.unwrap();
    let (gate, started) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let is_well = Arc::new(AtomicBool::new(false));
    let (got_well, opened, counted) = (Arc::clone(&is_well), Arc::clone(&gate), Arc::clone(&started));
    let subscriber = Subscriber::new(Name::from_static("watch"), EventFilter::All, move |_| {
        let (is_well, gate, started) = (Arc::clone(&is_well), Arc::clone(&opened), Arc::clone(&counted));
        Box::pin(async move {
            if !is_well.load(Ordering::Relaxed) {
                return Err("not yet".into());
            }
            started.fetch_add(1, Ordering::Relaxed);
            gate.acquire().await?.forget();
            Ok(())
        })
    });
    queue.add_subscriber(queue.default_group().clone(), subscriber);
    consume(&queue);
    let events: Vec<_> = (0..8).map(|number| deposited(&number.to_string(), number)).collect();
    EventBus::publish(&queue, &events).await.unwrap();
    settled(&queue).await;
    got_well.store(true, Ordering::Relaxed);
    assert_eq!(queue.replay_all(&DeadLetterFilter::default()).await.unwrap(), 8);
    until("two are in hand", async || started.load(Ordering::Relaxed) == 2).await;
    fs::remove_file(queue.config().root_dir.join("replays/000000000008-default.json")).unwrap();
    gate.add_permits(8);
    settled(&queue).await;
    assert_eq!(started.load(Ordering::Relaxed), 7, "the last was not yet taken");
    assert!(queue.list_dead_letters(&DeadLetterFilter::default(), None, 1).await.unwrap().letters.is_empty());
}

/// The owner of a group holds no more of the events that its predecessor left than of new ones.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_the_owner_before_left_open_are_taken_as_far_as_there_is_room() {
    const EVENTS: usize = 200;
    const RETRY_AFTER: Duration = Duration::from_millis(200);
    let first = fresh().await;
    let failed = Arc::new(AtomicUsize::new(0));
    let failures = Arc::clone(&failed);
    let fails = Subscriber::new(Name::from_static("handle"), EventFilter::All, move |_| {
        failures.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err(HandlerError::retry_after(RETRY_AFTER, "not yet")) })
    });
    let group = Name::from_static("default");
    let _subscription = first.add_subscriber(group.clone(), fails);
    let consuming = consume(&first);
    let events: Vec<_> = (0..EVENTS).map(|number| deposited(&format!("a-{number:03}"), 1)).collect();
    EventBus::publish(&first, &events).await.unwrap();
    until("each has failed", async || failed.load(Ordering::Relaxed) >= EVENTS).await;
    first.shutdown(Duration::from_secs(60)).await.unwrap();
    consuming.await.unwrap();
    let due = Instant::now() + RETRY_AFTER;
    until("all are due", async || Instant::now() > due).await;

    let config = FileQueueConfig { worker_id: None, max_in_flight: 10, ..first.config().clone() };
    let second = FileQueue::open(config).await.unwrap();
    let (gate, handled) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (opens, done) = (Arc::clone(&gate), Arc::clone(&handled));
    let waits = Subscriber::new(Name::from_static("handle"), EventFilter::All, move |delivery| {
        let (gate, done, id) = (Arc::clone(&opens), Arc::clone(&done), delivery.metadata().aggregate_id().to_string());
        Box::pin(async move {
            gate.acquire().await?.forget();
            done.lock().unwrap().push(id);
            Ok(())
        })
    });
    let _subscription = second.add_subscriber(group.clone(), waits);
    consume(&second);
    EventBus::publish(&second, &[deposited("new", 1)]).await.unwrap();
    until("some are in flight", async || second.in_flight().get(&group).is_some_and(|counts| counts.entries > 0)).await;
    let counts = second.in_flight()[&group];
    assert!(counts.entries - counts.waiting <= 10, "{counts:?}");
    gate.add_permits(EVENTS + 1);
    until("all are handled", async || handled.lock().unwrap().len() > EVENTS).await;
    assert_eq!(handled.lock().unwrap().last().unwrap(), "new", "the open events come first");
    second.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// The claim of a group is long here: the next worker would wait for it if this one had died.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_shutdown_aborts_goes_to_the_next_worker_at_once() {
    let config = FileQueueConfig { group_expiration: Duration::from_secs(300), ..fresh().await.config().clone() };
    let first = FileQueue::open(config.clone()).await.unwrap();
    let began = Arc::new(AtomicUsize::new(0));
    let begins = Arc::clone(&began);
    let waits = Subscriber::new(Name::from_static("handle"), EventFilter::All, move |_| {
        begins.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    });
    let _subscription = first.add_subscriber(first.default_group().clone(), waits);
    consume(&first);
    EventBus::publish(&first, &[deposited("ada", 1)]).await.unwrap();
    until("it is being handled", async || began.load(Ordering::Relaxed) == 1).await;
    first.shutdown(Duration::from_millis(10)).await.unwrap_err();

    let second = FileQueue::open(FileQueueConfig { worker_id: None, ..config }).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    let handles = Subscriber::new(Name::from_static("handle"), EventFilter::All, move |delivery| {
        sees.lock().unwrap().push(delivery.metadata().aggregate_id().to_string());
        Box::pin(async { Ok(()) })
    });
    let _subscription = second.add_subscriber(second.default_group().clone(), handles);
    consume(&second);
    settled(&second).await;
    assert_eq!(*seen.lock().unwrap(), ["ada"]);
    second.shutdown(Duration::from_secs(60)).await.unwrap();
}
