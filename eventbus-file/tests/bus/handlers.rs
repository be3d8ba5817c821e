//! Handlers that get the events of a queue as jobs, and how their workers treat gaps, torn files and retries.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
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

/// The app with the store only publishes; the app with the queue alone handles.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_an_app_with_the_queue_alone_get_the_events_of_a_relay_as_jobs() {
    let (queue, thanked) = (fresh().await, Thanked::default());
    let publisher = App::builder().store(InMemoryEventStore::new()).bus(another(&queue).await).start().await.unwrap();
    let worker = App::builder().bus(queue.clone()).state(Thanked::clone(&thanked));
    let worker = worker.handler::<thank>().start().await.unwrap();
    let (accounts, ada) = (publisher.repository::<Account>(), "ada".parse().unwrap());
    for cents in [120, 80] {
        accounts.upsert(&ada, |_| Ok::<_, eventbus::Never>(Deposited { cents })).await.unwrap();
    }
    publisher.settled().await.unwrap();
    worker.settled().await.unwrap();
    assert_eq!(*thanked.lock().unwrap(), [("ada".to_owned(), 120), ("ada".to_owned(), 80)]);
    assert!(worker.health().await.connected);
    let first = queue.event(1).await.unwrap().unwrap();
    assert_eq!(first.record().decode::<Deposited>().unwrap().cents, 120);
    let result = queue.result(1).await.unwrap().unwrap();
    assert_eq!((result.success, result.worker_id.as_str()), (true, queue.worker_id()));
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
    until("no job is left", async || queue.progress(queue.default_group()).await.unwrap().is_settled()).await;
}

fn event_path(queue: &FileQueue, id: u64) -> std::path::PathBuf {
    queue.config().root_dir.join(format!("events/000000000/{id:012}.json"))
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
async fn a_torn_event_is_passed_over_and_left_alone() {
    let queue = fresh().await;
    EventBus::publish(&queue, &[deposited("a", 1), deposited("a", 2), deposited("a", 3)]).await.unwrap();
    fs::write(event_path(&queue, 2), "{").unwrap();
    let seen = watch(&queue);
    consume(&queue);
    settled(&queue).await;
    assert_eq!(*seen.lock().unwrap(), ["1", "3"]);
    assert_eq!(fs::read(event_path(&queue, 2)).unwrap(), b"{", "it is left alone");
    assert_eq!(queue.check().await.unwrap()[0].path(), event_path(&queue, 2));
}

/// One job for the handlers of all groups of a process: the queue has no groups.
#[tokio::test(flavor = "multi_thread")]
async fn every_handler_of_a_process_runs_for_a_job_whatever_its_group() {
    let queue = fresh().await;
    let ran = Arc::<Mutex<Vec<&str>>>::default();
    for (group, name) in [("mail", "thank"), ("audit", "note")] {
        let runs = Arc::clone(&ran);
        let subscriber = Subscriber::new(Name::from_static(name), EventFilter::All, move |_| {
            runs.lock().unwrap().push(name);
            Box::pin(async { Ok(()) })
        });
        queue.add_subscriber(Name::from_static(group), subscriber);
    }
    consume(&queue);
    EventBus::publish(&queue, &[deposited("a", 1), deposited("b", 2)]).await.unwrap();
    settled(&queue).await;
    assert_eq!(*ran.lock().unwrap(), ["thank", "note", "thank", "note"]);
    assert_eq!(queue.stats().events_consumed, 2);
}

/// The attempts of a job are in its claim: its next worker goes on with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_its_retry_is_run_by_any_worker_for_the_handlers_that_have_not_succeeded() {
    let first = fresh().await;
    let second = another(&first).await;
    let ran = Arc::<Mutex<Vec<(&str, u32)>>>::default();
    for queue in [&first, &second] {
        for name in ["good", "fails once"] {
            let runs = Arc::clone(&ran);
            let subscriber = Subscriber::new(Name::from_static(name), EventFilter::All, move |delivery| {
                runs.lock().unwrap().push((name, delivery.attempt()));
                let fails = name == "fails once" && delivery.attempt() == 1;
                let later = || HandlerError::retry_after(Duration::from_millis(300), "not yet");
                Box::pin(async move { if fails { Err(later()) } else { Ok(()) } })
            });
            queue.add_subscriber(queue.default_group().clone(), subscriber);
        }
    }
    let consuming = consume(&first);
    EventBus::publish(&first, &[deposited("a", 1)]).await.unwrap();
    until("it has failed", async || first.stats().events_processed_failed == 1).await;
    first.shutdown(Duration::from_secs(60)).await.unwrap();
    consuming.await.unwrap();
    assert!(second.try_claim_next().await.unwrap().is_none(), "it waits for its retry");
    consume(&second);
    settled(&second).await;
    assert_eq!(*ran.lock().unwrap(), [("good", 1), ("fails once", 1), ("fails once", 2)]);
    assert_eq!(second.result(1).await.unwrap().unwrap().epoch, 2);
}

/// Fails if a worker waits for ever for a folder that an operator removed to discard all dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_written_and_replayed_although_their_folder_was_removed() {
    let queue = fresh().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let got_well = Arc::clone(&is_well);
    let fails = Subscriber::new(Name::from_static("fails"), EventFilter::All, move |_| {
        let is_well = got_well.load(Ordering::Relaxed);
        Box::pin(async move { if is_well { Ok(()) } else { Err(HandlerError::permanent("not yet")) } })
    });
    queue.add_subscriber(queue.default_group().clone(), fails);
    fs::remove_dir(queue.config().root_dir.join("dead_letters")).unwrap();
    consume(&queue);
    EventBus::publish(&queue, &[deposited("a", 1)]).await.unwrap();
    settled(&queue).await;
    let letters = queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    is_well.store(true, Ordering::Relaxed);
    let result = queue.result(1).await.unwrap().unwrap();
    assert_eq!((result.success, result.details), (false, "not yet".into()));
    assert!(queue.replay(&letter.id).await.unwrap());
    settled(&queue).await;
    assert!(queue.result(2).await.unwrap().unwrap().success, "the replay is a new job");
    assert!(queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters.is_empty());
}

/// A queue that published more could not write the dead letter, which has the errors, too: the job would never end.
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

/// The claim of a job is long: the next worker would wait for it if this one had died.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_worker_receives_at_once_what_a_shutdown_aborts() {
    let config = FileQueueConfig { claim_expiration: Duration::from_secs(300), ..fresh().await.config().clone() };
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
