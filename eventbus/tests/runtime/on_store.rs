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
    store.set_paused(&mail, false).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(handled.take(), [("app", "ada".to_owned())]);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
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
