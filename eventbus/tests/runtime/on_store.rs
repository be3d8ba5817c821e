//! Handlers that read the store: shared by apps, paused, replayed, and taken over.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, InMemoryEventStore, Name, Never, NewEvent, Position, StreamId,
    health::HealthThresholds,
    port::{
        AppendEvents as _, DeadLetterFilter, EventBus as _, HandlerProgress as _,
        handler_progress::{Member, ShardId},
    },
    prelude::*,
};

use crate::{
    gated::GatedStore,
    orders::{Order, OrderCreated, created},
    wait::until,
};

/// The customers whose orders were handled, and by which app.
#[derive(Clone, Default)]
struct Handled {
    by: &'static str,
    log: Arc<Mutex<Vec<(&'static str, String)>>>,
    refuses: Arc<AtomicBool>,
}

impl Handled {
    fn by(&self, by: &'static str) -> Self {
        Self { by, ..self.clone() }
    }

    fn take(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

#[handler(manual, group = "mail")]
async fn greet(event: &OrderCreated, State(handled): State<Handled>) -> Result<(), HandlerError> {
    if handled.refuses.load(Ordering::SeqCst) {
        return Err(HandlerError::permanent("no such customer"));
    }
    handled.log.lock().unwrap().push((handled.by, event.customer_id.clone()));
    Ok(())
}

async fn app(store: &InMemoryEventStore, handled: Handled) -> App {
    let builder = App::builder().store(store.clone()).state(handled);
    builder.handler::<greet>().start().await.unwrap()
}

async fn save(app: &App, customer: &str) {
    let order = AggregateId::new();
    app.repository::<Order>().upsert(&order, |_| Ok::<_, Never>(created(customer, 1.0))).await.unwrap();
}

#[tokio::test]
async fn two_apps_on_one_store_handle_each_event_once_and_one_goes_on_for_the_other() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let one = app(&store, handled.by("one")).await;
    until("it owns the handler", async || {
        store.list_handlers().await.unwrap().iter().any(|listed| listed.shards[0].owner.is_some())
    })
    .await;
    let other = app(&store, handled.by("other")).await;
    save(&other, "ada").await;
    other.settled().await.unwrap();
    assert_eq!(handled.take(), [("one", "ada".to_owned())], "the first app has the only shard");
    one.shutdown(Duration::from_secs(60)).await.unwrap();
    save(&one, "bob").await;
    other.settled().await.unwrap();
    assert_eq!(handled.take(), [("other", "bob".to_owned())]);
    other.shutdown(Duration::from_secs(60)).await.unwrap();
    let again = app(&store, handled.by("again")).await;
    again.settled().await.unwrap();
    assert_eq!(handled.take(), [], "what was handled is handled for good");
}

/// Less than the second between two heartbeats.
const AT_ONCE: Duration = Duration::from_millis(200);

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_at_once_when_the_owner_ends() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let owner = app(&store, handled.by("owner")).await;
    save(&owner, "ada").await;
    owner.settled().await.unwrap();
    let standby = app(&store, handled.by("standby")).await;
    let is_owned = async || store.list_handlers().await.unwrap()[0].shards[0].owner.is_some();
    // the next heartbeat of the standby is far
    tokio::time::sleep(Duration::from_millis(1_250)).await;
    owner.shutdown(Duration::from_secs(60)).await.unwrap();
    let ended = tokio::time::Instant::now();
    while !is_owned().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(ended.elapsed() < AT_ONCE, "the standby owns the handler after {:?}", ended.elapsed());
    standby.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Health and metrics show the pause, which is no alert.
async fn assert_pause(app: &App, is_paused: bool) {
    let (health, metrics) = (app.health().await, app.metrics().await);
    assert_eq!(health.paused.contains("mail"), is_paused, "{health:?}");
    assert_eq!(health.alerts(&HealthThresholds::default()), [""; 0]);
    let flag = metrics.number("eventbus_group_paused", &[("group", "mail")]);
    assert_eq!(flag, Some(f64::from(u8::from(is_paused))));
}

#[tokio::test]
async fn a_paused_group_begins_nothing_until_it_is_resumed() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let mail = Name::from_static("mail");
    store.set_paused(&mail, true).await.unwrap();
    let app = app(&store, handled.by("app")).await;
    save(&app, "ada").await;
    until("it owns the handler", async || {
        store.list_handlers().await.unwrap().iter().any(|listed| listed.shards[0].owner.is_some())
    })
    .await;
    assert_eq!(handled.take(), []);
    assert_pause(&app, true).await;
    assert!(app.resume_group(&mail).await.unwrap());
    app.settled().await.unwrap();
    assert_eq!(handled.take(), [("app", "ada".to_owned())]);
    assert_pause(&app, false).await;
    assert!(!app.pause_group(&Name::from_static("post")).await.unwrap(), "an unknown group");
    assert!(app.pause_group(&mail).await.unwrap());
    until("the pause is known", async || app.health().await.paused.contains("mail")).await;
    save(&app, "bob").await;
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(handled.take(), []);
}

#[tokio::test]
async fn a_running_app_takes_a_dead_letter_that_is_replayed() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let app = app(&store, handled.by("app")).await;
    handled.refuses.store(true, Ordering::SeqCst);
    save(&app, "ada").await;
    app.settled().await.unwrap_err();
    let dead_letters = app.bus().dead_letters().unwrap();
    let found = dead_letters.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].handler.as_deref(), found[0].group.as_deref()), (Some("greet"), Some("mail")));
    handled.refuses.store(false, Ordering::SeqCst);
    assert!(dead_letters.replay(&found[0].id).await.unwrap());
    until("it is handled", async || !handled.log.lock().unwrap().is_empty()).await;
    app.settled().await.unwrap();
    assert_eq!(store.count_dead_rows(10).await.unwrap(), 0);
    assert_eq!(store.list_handlers().await.unwrap()[0].waiting_rows, 0);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Handlers whose progress has options of their own.
mod options {
    use super::*;

    #[handler(manual, when_dead = "hold")]
    pub(super) async fn greet_in_order(
        event: &OrderCreated,
        State(handled): State<Handled>,
    ) -> Result<(), HandlerError> {
        greet(event, State(handled)).await
    }

    #[handler(manual, shards = 4)]
    pub(super) async fn greet_in_shards(event: &OrderCreated, State(handled): State<Handled>) {
        if handled.by == "one" && handled.refuses.load(Ordering::SeqCst) {
            std::future::pending().await
        }
        handled.log.lock().unwrap().push((handled.by, event.customer_id.clone()));
    }

    #[handler(manual, max_waiting = 10)]
    pub(super) async fn greet_later(event: &OrderCreated, State(handled): State<Handled>) -> Result<(), HandlerError> {
        if handled.refuses.load(Ordering::SeqCst) && event.customer_id == "ada" {
            return Err(HandlerError::retry_after(Duration::from_millis(20), "not yet"));
        }
        handled.log.lock().unwrap().push((handled.by, event.customer_id.clone()));
        Ok(())
    }
}

async fn save_to(app: &App, order: &AggregateId, customer: &str) {
    app.repository::<Order>().upsert(order, |_| Ok::<_, Never>(created(customer, 1.0))).await.unwrap();
}

#[tokio::test]
async fn a_held_dead_letter_keeps_later_events_of_its_aggregate_until_it_is_replayed() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let builder = App::builder().store(store.clone()).state(handled.by("app"));
    let app = builder.handler::<options::greet_in_order>().start().await.unwrap();
    let order = AggregateId::new();
    handled.refuses.store(true, Ordering::SeqCst);
    save_to(&app, &order, "ada").await;
    until("it is held", async || store.dead_rows(None, 10).await.unwrap().iter().any(|row| row.is_held)).await;
    handled.refuses.store(false, Ordering::SeqCst);
    save_to(&app, &order, "bob").await;
    save(&app, "eve").await;
    until("another aggregate goes on", async || !handled.log.lock().unwrap().is_empty()).await;
    assert_eq!(handled.take(), [("app", "eve".to_owned())]);
    let held = store.dead_rows(None, 10).await.unwrap().remove(0);
    assert!(store.replay_dead(&held.handler, held.position).await.unwrap());
    app.settled().await.unwrap_err(); // names the delivery that was given up
    app.settled().await.unwrap();
    assert_eq!(handled.take(), [("app", "ada".to_owned()), ("app", "bob".to_owned())]);
    assert_eq!(store.count_dead_rows(10).await.unwrap(), 0);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn two_apps_share_the_shards_of_a_handler() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let start = async |by| {
        let builder = App::builder().store(store.clone()).state(handled.by(by));
        builder.handler::<options::greet_in_shards>().start().await.unwrap()
    };
    let (one, other) = (start("one").await, start("other").await);
    until("each owns two of the four shards", async || {
        let listed = store.list_handlers().await.unwrap().remove(0);
        let mut owners: Vec<_> = listed.shards.iter().filter_map(|shard| shard.owner.clone()).collect();
        owners.sort_unstable();
        owners.len() == 4 && owners[0] == owners[1] && owners[2] == owners[3] && owners[1] != owners[2]
    })
    .await;
    let customers: Vec<_> = (10..50).map(|number| format!("customer {number}")).collect();
    for customer in &customers {
        save(&one, customer).await;
    }
    one.settled().await.unwrap();
    other.settled().await.unwrap();
    let (apps, mut greeted): (Vec<_>, Vec<_>) = handled.take().into_iter().unzip();
    greeted.sort_unstable();
    assert_eq!(greeted, customers, "each once");
    assert!(apps.contains(&"one") && apps.contains(&"other"), "{apps:?}");

    // the other app has read past the events of shards that it takes over
    handled.refuses.store(true, Ordering::SeqCst);
    for customer in &customers {
        save(&other, customer).await;
    }
    let is_over = |handled: &Handled| handled.log.lock().unwrap().len() >= customers.len() / 4;
    until("the other app has handled its share", async || is_over(&handled)).await;
    one.shutdown(Duration::ZERO).await.unwrap_err();
    other.settled().await.unwrap();
    let mut greeted: Vec<_> = handled.take().into_iter().map(|(_, customer)| customer).collect();
    greeted.sort_unstable();
    assert_eq!(greeted, customers, "each once");
    other.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_handler_with_too_many_waiting_events_reads_no_more_and_is_an_alert() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    let builder = App::builder().store(store.clone()).state(handled.by("app"));
    let app = builder.handler::<options::greet_later>().start().await.unwrap();
    let order = AggregateId::new();
    handled.refuses.store(true, Ordering::SeqCst);
    for _ in 0..1_000 {
        save_to(&app, &order, "ada").await;
    }
    until("it is an alert", async || {
        let alerts = app.health().await.alerts(&HealthThresholds::default());
        alerts.iter().any(|alert| alert.contains("greet_later"))
    })
    .await;
    save(&app, "bob").await;
    let read = app.bus().in_flight()[&Name::from_static("greet_later")].entries;
    assert!(read < 1_000, "it reads on: {read}");
    assert_eq!(handled.take(), []);
    handled.refuses.store(false, Ordering::SeqCst);
    app.settled().await.unwrap();
    assert_eq!(handled.take().len(), 1_001);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_shard_that_an_app_acquires_while_it_stops_is_released_without_a_run() {
    let (store, handled) = (InMemoryEventStore::new(), Handled::default());
    handled.refuses.store(true, Ordering::SeqCst);
    let first = app(&store, handled.by("first")).await;
    save(&first, "ada").await;
    first.settled().await.unwrap_err();
    first.shutdown(Duration::from_secs(60)).await.unwrap();
    let greet = Name::from_static("greet");
    assert!(store.replay_dead(&greet, Position::new(1)).await.unwrap());
    handled.refuses.store(false, Ordering::SeqCst);

    // the next owner reads the replayed event, which waits for a permit
    let gated = GatedStore::over(store.clone());
    let permits = gated.events.forget_permits(usize::MAX);
    let builder = App::builder().store(gated.clone()).state(handled.by("second"));
    let second = builder.handler::<self::greet>().start().await.unwrap();
    until("it has acquired the shard", async || store.list_handlers().await.unwrap()[0].shards[0].owner.is_some())
        .await;
    let mut stopping = std::pin::pin!(second.shutdown(Duration::from_secs(60)));
    assert!(futures_util::poll!(&mut stopping).is_pending());
    // all tasks have seen the stop
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gated.events.add_permits(permits);
    stopping.await.unwrap();

    let next = Member { name: Name::from_static("next"), handlers: BTreeMap::new() };
    let _guard = store.join(&next).await.unwrap();
    let shard = ShardId { handler: greet, number: 0 };
    let acquired = store.acquire_shards(&next.name, &[shard], Duration::from_secs(60)).await.unwrap();
    assert!(!acquired[0].has_crashed, "the app has released the shard: {acquired:?}");
    assert_eq!(handled.take(), []);
}

/// Two releases of a service: the second one changes an event.
mod releases {
    use super::*;

    pub(super) type Prices = Arc<Mutex<Vec<u64>>>;

    pub(super) mod first {
        use super::*;

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Offer")]
        pub(crate) struct Priced {
            pub(crate) euros: u64,
        }

        #[handler(manual)]
        pub(crate) async fn note_price(event: &Priced, State(prices): State<Prices>) {
            prices.lock().unwrap().push(event.euros * 100);
        }
    }

    pub(super) mod second {
        use super::*;

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Offer", version = 2)]
        pub(crate) struct Priced {
            pub(crate) cents: u64,
        }

        #[handler(manual)]
        pub(crate) async fn note_price(event: &Priced, State(prices): State<Prices>) {
            prices.lock().unwrap().push(event.cents);
        }
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_decoded_here_waits_for_a_release_of_its_version() {
    let (store, prices) = (InMemoryEventStore::new(), releases::Prices::default());
    let (newer, other) = (StreamId::parse("Offer", "newer").unwrap(), StreamId::parse("Offer", "other").unwrap());
    let event = NewEvent::from_event(&releases::second::Priced { cents: 150 }).unwrap();
    store.append(&newer, ExpectedVersion::NoStream, vec![event]).await.unwrap();
    let event = NewEvent::from_event(&releases::first::Priced { euros: 2 }).unwrap();
    store.append(&other, ExpectedVersion::NoStream, vec![event]).await.unwrap();

    let builder = || App::builder().store(store.clone()).state(prices.clone());
    let older = builder().handler::<releases::first::note_price>().start().await.unwrap();
    until("the other offer is handled", async || *prices.lock().unwrap() == [200]).await;
    older.settled().await.unwrap();
    older.shutdown(Duration::from_secs(10)).await.unwrap();
    assert_eq!(store.count_dead_rows(10).await.unwrap(), 0);

    let current = builder().handler::<releases::second::note_price>().start().await.unwrap();
    until("the newer event is handled", async || *prices.lock().unwrap() == [200, 150]).await;
    current.settled().await.unwrap();
    current.shutdown(Duration::from_secs(10)).await.unwrap();
}
