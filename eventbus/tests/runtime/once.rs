//! Commands that take effect once: the first answer again, refused keys, retention; and keys for effects elsewhere.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    EventContext, EventId, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, LoadError, Name, Never, NewEvent,
    Saved, StreamId, UpdateError, Uuid,
    clock::Clock as _,
    event::InvalidName,
    handler::EffectKey,
    port::{AppendError, AppendEvents as _, EventBus as _, EventStore, HandlerProgress as _, ReadError},
    prelude::*,
    repository::{IdempotencyKey, OnceError, Publication},
    store::{Boundaries, HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamAppends, MultiStreamOutcome},
    testkit::{ManualClock, delegate},
};
use parking_lot::Mutex;

use crate::wait::until;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Parcel)]
struct Sent {
    number: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "OnceParcel", events(Sent))]
struct Parcel {
    number: Option<String>,
}

impl Apply for Parcel {
    fn apply(&mut self, ParcelEvent::Sent(event): &ParcelEvent) {
        self.number = Some(event.number.clone());
    }
}

/// A command.
#[derive(Debug, Clone, Serialize)]
struct SendParcel {
    number: String,
}

#[derive(Debug, PartialEq, derive_more::Display)]
#[display("the parcel is sent")]
struct IsSent;

impl Parcel {
    fn send(&self, number: &str) -> Result<Sent, IsSent> {
        if self.number.is_some() { Err(IsSent) } else { Ok(Sent { number: number.into() }) }
    }
}

fn key(text: &str) -> IdempotencyKey {
    text.parse().unwrap()
}

fn id(id: &str) -> AggregateId {
    id.parse().unwrap()
}

/// What an answer says.
fn said(saved: &Saved) -> (u64, Option<u64>, Vec<RecordedEvent>) {
    (saved.version.get(), saved.position.map(|position| position.get()), saved.events.clone())
}

#[tokio::test]
async fn the_second_time_is_the_first_answer_and_no_decision() {
    let parcels = AggregateRepository::<Parcel>::new(InMemoryEventStore::new());
    let (decisions, request) = (AtomicU32::new(0), "T-1");
    let decide = |parcel: &Parcel| {
        decisions.fetch_add(1, Ordering::Relaxed);
        parcel.send(request)
    };
    let first = parcels.once(key("k"), request).upsert(&id("p"), decide).await.unwrap();
    assert_eq!((first.version.get(), first.events.len()), (1, 1));
    let sent = Sent { number: "T-2".into() };
    parcels.update(&id("p"), |_| Ok::<_, Never>([sent.clone(), sent.clone()])).await.unwrap();

    for again in [
        parcels.once(key("k"), request).upsert(&id("p"), decide).await,
        parcels.once(key("\"k\""), request).update(&id("p"), decide).await,
    ] {
        assert_eq!(said(&again.unwrap()), said(&first));
    }
    assert_eq!(decisions.load(Ordering::Relaxed), 1);
    assert_eq!(parcels.version(&id("p")).await.unwrap(), 3);
    let refused = parcels.once(key("other"), request).update(&id("p"), decide).await.unwrap_err();
    assert_eq!(refused.refused(), Some(&IsSent), "another key is another command");
}

#[tokio::test]
async fn what_was_created_under_a_new_id_is_found_by_the_key() {
    let parcels = AggregateRepository::<Parcel>::new(InMemoryEventStore::new());
    let create = async |request: &str| {
        parcels.once(key("k"), request).create(&AggregateId::new(), |parcel| parcel.send(request)).await
    };
    let first = create("T-1").await.unwrap();
    assert_eq!(said(&create("T-1").await.unwrap()), said(&first), "with the first id");
    assert!(create("T-2").await.unwrap_err().is_key_reused());
    let error = parcels.once(key("k"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap_err();
    assert!(error.is_key_reused(), "one that names an aggregate is another command");
}

#[tokio::test]
async fn a_repeat_of_a_command_that_the_decision_takes_gets_the_first_answer() {
    let store = InMemoryEventStore::new();
    let parcels = AggregateRepository::<Parcel>::new(store.clone());
    let decisions = AtomicU32::new(0);
    let send = |parcel: &Parcel, command: SendParcel| {
        if decisions.fetch_add(1, Ordering::Relaxed) == 0 {
            // a different process sends a parcel first
            let rival = NewEvent::from_event(&Sent { number: "T-0".into() }).unwrap();
            let stream = Parcel::stream(&id("p"));
            let appended = store.append(&stream, ExpectedVersion::NoStream, vec![rival]);
            futures_util::FutureExt::now_or_never(appended).unwrap().unwrap();
        }
        match parcel.number.as_deref() {
            Some("T-1") => Err(IsSent),
            _ => Ok(Sent { number: command.number }),
        }
    };
    let once = |key: &str, number: &str| parcels.once(self::key(key), SendParcel { number: number.into() });
    let first = once("k", "T-1").upsert_with(&id("p"), send).await.unwrap();
    assert_eq!((first.version.get(), decisions.load(Ordering::Relaxed)), (2, 2), "made again after the conflict");
    assert_eq!(parcels.load(&id("p")).await.unwrap().number.as_deref(), Some("T-1"), "with the same command");
    for again in
        [once("k", "T-1").upsert_with(&id("p"), send).await, once("k", "T-1").update_with(&id("p"), send).await]
    {
        assert_eq!(said(&again.unwrap()), said(&first));
    }
    assert_eq!(decisions.load(Ordering::Relaxed), 2);
    assert!(once("k", "T-2").update_with(&id("p"), send).await.unwrap_err().is_key_reused());
    let refused = once("l", "T-1").update_with(&id("p"), send).await.unwrap_err();
    assert_eq!(refused.refused(), Some(&IsSent), "another key is another command");
    assert!(once("m", "T-1").update_with(&id("q"), send).await.unwrap_err().is_not_found());

    let first = once("n", "T-3").create_with(&AggregateId::new(), send).await.unwrap();
    assert_eq!(said(&once("n", "T-3").create_with(&AggregateId::new(), send).await.unwrap()), said(&first));
    assert!(
        once("o", "T-3")
            .create_with(&id("p"), |_, _| Ok::<_, Never>(Sent { number: "T-3".into() }))
            .await
            .unwrap_err()
            .is_conflict()
    );
}

#[tokio::test]
async fn a_decision_without_events_is_remembered() {
    let parcels = AggregateRepository::<Parcel>::new(InMemoryEventStore::new());
    parcels.upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
    let decisions = AtomicU32::new(0);
    let nothing = |_: &Parcel| {
        decisions.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Never>(None::<Sent>)
    };
    for _ in 0..3 {
        let saved = parcels.once(key("k"), &()).update(&id("p"), nothing).await.unwrap();
        assert_eq!(said(&saved), (1, None, Vec::new()));
        parcels.update(&id("p"), |_| Ok::<_, Never>(Sent { number: "T-2".into() })).await.unwrap();
    }
    assert_eq!(decisions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let parcels = AggregateRepository::<Parcel>::new(InMemoryEventStore::new());
    parcels.once(key("k"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
    for (request, parcel) in [("T-2", "p"), ("T-1", "q")] {
        let error =
            parcels.once(key("k"), request).upsert(&id(parcel), |parcel| parcel.send(request)).await.unwrap_err();
        assert!(error.is_key_reused(), "{error:?}");
        assert_eq!(error.to_string(), "the idempotency key `k` was used for another command");
    }
    assert_eq!(parcels.version(&id("p")).await.unwrap(), 1);
    assert!(!parcels.exists(&id("q")).await.unwrap());
    let of_tenant = parcels.for_tenant(Uuid::from_u128(7));
    of_tenant.once(key("k"), "T-2").upsert(&id("p"), |parcel| parcel.send("T-2")).await.unwrap();

    let no_json = HashMap::from([((1, 2), 3)]);
    let error = parcels.once(key("new"), &no_json).upsert(&id("p"), |parcel| parcel.send("T-3")).await.unwrap_err();
    assert!(matches!(error, UpdateError::Once(OnceError::Unwritable { .. })), "{error:?}");
}

#[tokio::test]
async fn a_refusal_and_an_error_are_not_remembered() {
    let parcels = AggregateRepository::<Parcel>::new(InMemoryEventStore::new());
    let refused = parcels.once(key("k"), "T-1").upsert(&id("p"), |_| Err::<Sent, _>("not yet")).await.unwrap_err();
    assert_eq!(refused.refused(), Some(&"not yet"));
    let missing = parcels.once(key("k"), "T-1").update(&id("p"), |parcel| parcel.send("T-1")).await.unwrap_err();
    assert!(missing.is_not_found());
    parcels.once(key("k"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_32_callers_one_decides_and_all_have_its_answer() {
    for round in 0..20 {
        let parcels = AggregateRepository::<Parcel>::new(InMemoryEventStore::new());
        let callers = (0..32).map(|_| {
            let parcels = parcels.clone();
            tokio::spawn(async move {
                let once = parcels.once(key("k"), "T-1");
                let saved = match round % 2 {
                    0 => once.upsert(&id("p"), |parcel| parcel.send("T-1")).await,
                    _ => once.create(&id("p"), |parcel| parcel.send("T-1")).await,
                };
                said(&saved.unwrap())
            })
        });
        let answers = futures_util::future::try_join_all(callers).await.unwrap();
        assert!(answers.iter().all(|answer| *answer == answers[0] && answer.2.len() == 1), "{answers:?}");
        assert_eq!(parcels.version(&id("p")).await.unwrap(), 1);
    }
}

/// A store in which the same command takes effect by a second process between the look for its answer and the decision.
#[derive(Debug, Clone, Default)]
struct WithTwin {
    store: InMemoryEventStore,
    /// Set to run the command after the next look for an answer; `true` if it creates.
    twin: Arc<Mutex<Option<bool>>>,
    /// Set if the process of the twin is of a newer release, which then saves an event that is not known here.
    is_twin_newer: Arc<Mutex<bool>>,
    /// Set to lose the reply of the next append of a command.
    loses_reply: Arc<Mutex<bool>>,
    /// Set to refuse the next append of a command.
    refuses: Arc<Mutex<Option<AppendError>>>,
    /// The number of looks for an answer until they fail, if they do.
    looks_left: Arc<Mutex<Option<u32>>>,
}

delegate!(WithTwin, self => self.store; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

impl EventStore for WithTwin {
    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        Some(self)
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        self.store.boundaries()
    }
}

#[async_trait::async_trait]
impl MultiStreamAppends for WithTwin {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        if let Some(refused) = self.refuses.lock().take() {
            return Err(refused);
        }
        let outcome = self.store.append_streams(multi).await?;
        match std::mem::take(&mut *self.loses_reply.lock()) {
            true => Err(AppendError::OutcomeUnknown("the reply is lost".into())),
            false => Ok(outcome),
        }
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        self.store.is_handled(delivery).await
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        self.store.handled_deliveries(events).await
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, eventbus::BoxError> {
        self.store.forget_deliveries(older_than).await
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        match &mut *self.looks_left.lock() {
            Some(0) => return Err(ReadError::Unavailable("away".into())),
            Some(left) => *left -= 1,
            None => {}
        }
        let found = self.store.find_command(tenant_id, key).await;
        let twin = self.twin.lock().take();
        if let Some(creates) = twin {
            let once = AggregateRepository::<Parcel>::new(self.store.clone()).once(key.clone(), "T-1");
            let (id, send) = (id("p"), |parcel: &Parcel| parcel.send("T-1"));
            if creates { once.create(&id, send).await } else { once.upsert(&id, send).await }.unwrap();
            if *self.is_twin_newer.lock() {
                let event = NewEvent::new(Name::from_static("OnceNewer"), 1, "{}");
                self.store.append(&Parcel::stream(&id), ExpectedVersion::Any, vec![event]).await.unwrap();
            }
        }
        found
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, eventbus::BoxError> {
        self.store.forget_commands(older_than).await
    }
}

#[tokio::test]
async fn a_twin_that_was_first_gives_the_answer_also_if_the_decision_refuses_now() {
    let store = WithTwin::default();
    let parcels = AggregateRepository::<Parcel>::new(store.clone());
    *store.twin.lock() = Some(false);
    let saved = parcels.once(key("k"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
    assert_eq!(saved.events.len(), 1);
    assert_eq!(parcels.version(&id("p")).await.unwrap(), 1);
    // it is not the decision that refuses but the version
    let store = WithTwin { store: InMemoryEventStore::new(), ..store };
    let parcels = AggregateRepository::<Parcel>::new(store.clone());
    *store.twin.lock() = Some(true);
    let saved = parcels.once(key("k"), "T-1").create(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
    assert_eq!((saved.version.get(), parcels.version(&id("p")).await.unwrap().get()), (1, 1));
}

#[tokio::test]
async fn a_twin_of_a_newer_release_gives_the_answer_also_if_the_state_cannot_be_loaded_now() {
    let store = WithTwin::default();
    let parcels = AggregateRepository::<Parcel>::new(store.clone());
    (*store.twin.lock(), *store.is_twin_newer.lock()) = (Some(false), true);
    let saved = parcels.once(key("k"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
    assert_eq!((saved.version.get(), saved.events.len()), (1, 1));
    let other = parcels.once(key("other"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap_err();
    assert!(matches!(other, UpdateError::Load(LoadError::Decode { .. })), "{other:?}");
}

#[tokio::test]
async fn a_refusal_that_may_come_from_a_twin_is_no_answer_while_the_store_cannot_be_asked() {
    for case in ["the decision", "the version", "the value"] {
        let store = WithTwin::default();
        let parcels = AggregateRepository::<Parcel>::new(store.clone());
        *store.looks_left.lock() = Some(1);
        let (id, once, send) = (id("p"), parcels.once(key("k"), "T-1"), |parcel: &Parcel| parcel.send("T-1"));
        let result = match case {
            "the decision" => {
                *store.twin.lock() = Some(false);
                once.upsert(&id, send).await
            }
            "the version" => {
                *store.twin.lock() = Some(true);
                once.create(&id, send).await
            }
            _ => {
                let name = Name::from_static("number");
                *store.refuses.lock() = Some(AppendError::Taken { stream: Parcel::stream(&id), name });
                once.upsert(&id, send).await
            }
        };
        let error = result.unwrap_err();
        assert!(matches!(error, UpdateError::Load(LoadError::Read(ReadError::Unavailable(_)))), "{case}: {error:?}");
    }
    // another error stays
    let store = WithTwin::default();
    let parcels = AggregateRepository::<Parcel>::new(store.clone());
    *store.looks_left.lock() = Some(1);
    *store.refuses.lock() = Some(AppendError::Unavailable("away".into()));
    let error = parcels.once(key("k"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap_err();
    assert_eq!(error.to_string(), "event store unavailable");
    assert!(matches!(error, UpdateError::Save(_)), "{error:?}");
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "OnceLabel", tags(number))]
struct Labelled {
    number: String,
}

#[derive(Debug, Default, Decision)]
#[decision(events(Labelled))]
struct Labels;

impl Apply for Labels {
    fn apply(&mut self, _event: &LabelsEvent) {}
}

#[tokio::test]
async fn a_decision_that_refuses_is_no_answer_while_the_store_cannot_be_asked() {
    let store = WithTwin::default();
    let app = App::builder().store(store.clone()).without_relay().start().await.unwrap();
    let refuse = async || {
        let decision = app.decision::<Labels>().about("number", "T-1").once(key("k"), ());
        decision.decide(|_| Err::<Labelled, _>(IsSent)).await.unwrap_err()
    };
    assert_eq!(refuse().await.refused(), Some(&IsSent));
    *store.looks_left.lock() = Some(1);
    let error = refuse().await;
    assert!(matches!(error, UpdateError::Load(LoadError::Read(ReadError::Unavailable(_)))), "{error:?}");
}

#[tokio::test]
async fn a_lost_reply_is_found_by_the_key() {
    let store = WithTwin::default();
    let parcels = AggregateRepository::<Parcel>::new(store.clone());
    for (number, nothing) in [false, true].into_iter().enumerate() {
        *store.loses_reply.lock() = true;
        let decide = |_: &Parcel| Ok::<_, Never>((!nothing).then(|| Sent { number: "T-1".into() }));
        let saved = parcels.once(key(&number.to_string()), &()).upsert(&id("p"), decide).await.unwrap();
        assert_eq!((saved.version.get(), saved.events.len()), (1, usize::from(!nothing)));
    }
    assert_eq!(parcels.version(&id("p")).await.unwrap(), 1);
    // where the repository publishes, it does so although the reply was lost
    let bus = InMemoryEventBus::new();
    let publishing = parcels.clone().publish_to(bus.clone());
    *store.loses_reply.lock() = true;
    let saved = publishing.once(key("p"), &()).upsert(&id("q"), |parcel| parcel.send("T-1")).await.unwrap();
    assert!(matches!(saved.publication, Publication::Published(_)), "{:?}", saved.publication);
    let again = publishing.once(key("p"), &()).upsert(&id("q"), |parcel| parcel.send("T-1")).await.unwrap();
    assert!(matches!(again.publication, Publication::None), "{:?}", again.publication);
    assert_eq!(bus.stats().events_published, 1);
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_retention() {
    const TEN_MINUTES: Duration = Duration::from_secs(600);
    let clock = ManualClock::default();
    let app =
        App::builder().clock(clock.clone()).command_retention(Duration::from_secs(3 * 3_600)).start().await.unwrap();
    let parcels = app.repository::<Parcel>();
    let send = async |number: &str| {
        let event = Sent { number: number.into() };
        parcels.once(key("k"), &()).upsert(&id("p"), |_| Ok::<_, Never>(event.clone())).await.unwrap().version.get()
    };
    assert_eq!((send("T-1").await, send("T-1").await), (1, 1));
    let first = clock.instant();
    while clock.instant() - first < Duration::from_secs(2 * 3_600) {
        clock.advance(TEN_MINUTES);
        // the app looks for old keys, and forgets none yet
        tokio::task::yield_now().await;
        assert_eq!(send("T-1").await, 1);
    }
    until("the key is forgotten", async || {
        clock.advance(TEN_MINUTES);
        send("T-1").await == 2
    })
    .await;
    let lasted = clock.instant() - first;
    assert!(lasted < Duration::from_secs(6 * 3_600), "it is forgotten after {lasted:?}");
    assert_eq!(send("T-1").await, 2);
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

/// A handler, what it found, and the attempt.
type Finding = (&'static str, String, u32);

#[derive(Debug, Clone, Default)]
struct Found(Arc<Mutex<Vec<Finding>>>);

#[handler(manual)]
async fn charges(
    _event: &Sent,
    key: EffectKey,
    Attempt(attempt): Attempt,
    State(found): State<Found>,
) -> eventbus::Result<()> {
    found.0.lock().push(("charges", key.to_string(), attempt));
    if attempt == 1 { Err("again".into()) } else { Ok(()) }
}

#[handler(manual)]
async fn refunds(_event: &Sent, key: EffectKey, Attempt(attempt): Attempt, State(found): State<Found>) {
    found.0.lock().push(("refunds", key.to_string(), attempt));
}

#[handler(manual)]
async fn sends_once(_event: &Sent, parcels: Repository<Parcel>, State(found): State<Found>) {
    let error = parcels.once(key("k"), &()).upsert(&id("q"), |parcel| parcel.send("T-9")).await.unwrap_err();
    found.0.lock().push(("sends_once", error.to_string(), 1));
}

#[tokio::test]
async fn an_effect_has_one_key_for_all_deliveries_and_none_has_that_of_another() {
    let (found, clock) = (Found::default(), ManualClock::default());
    let builder = App::builder().clock(clock.clone()).state(found.clone());
    let app = builder.handler::<charges>().handler::<refunds>().handler::<sends_once>().start().await.unwrap();
    let parcels = app.repository::<Parcel>();
    let tenant = parcels.for_tenant(Uuid::from_u128(7)).with_context(EventContext::default());
    for parcels in [&parcels, &tenant] {
        parcels.upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
    }
    until("all have handled both events", async || {
        clock.advance(Duration::from_secs(60));
        found.0.lock().len() == 8
    })
    .await;
    let found = found.0.lock().clone();
    let of = |handler: &str, attempt| -> Vec<String> {
        let of_it = found.iter().filter(|(by, _, nth)| (*by, *nth) == (handler, attempt));
        of_it.map(|(_, key, _)| key.clone()).collect()
    };
    let (mut first, mut second) = (of("charges", 1), of("charges", 2));
    first.sort_unstable();
    second.sort_unstable();
    assert_eq!((first.len(), &first), (2, &second), "each delivery of an event");
    let mut all = [first, of("refunds", 1)].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4, "keys of two handlers and two events");
    let refused = "the saves of a handler take effect once by themselves, without an idempotency key";
    assert_eq!(of("sends_once", 1), [refused; 2]);
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

mod regrouped {
    use super::*;

    #[handler(manual, group = "payments")]
    pub(super) async fn refunds(event: &Sent, key: EffectKey, attempt: Attempt, found: State<Found>) {
        super::refunds(event, key, attempt, found).await;
    }
}

#[tokio::test]
async fn a_handler_that_moves_to_another_group_keeps_the_keys_of_its_effects() {
    let (store, found) = (InMemoryEventStore::new(), Found::default());
    let parcels = AggregateRepository::<Parcel>::new(store.clone());
    parcels.upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap();
    let builder = || App::builder().store(store.clone()).state(found.clone());
    let first = builder().handler::<refunds>().start().await.unwrap();
    first.settled().await.unwrap();
    first.shutdown(Duration::from_secs(30)).await.unwrap();
    store.retire_handler(&Name::from_static("refunds")).await.unwrap();
    let second = builder().handler::<regrouped::refunds>().start().await.unwrap();
    second.settled().await.unwrap();
    let found = found.0.lock().clone();
    assert_eq!((found.len(), &found[0]), (2, &found[1]));
    second.shutdown(Duration::from_secs(30)).await.unwrap();
}

/// A store of a crate that notes no commands.
#[derive(Debug, Clone)]
struct WithoutCommands(InMemoryEventStore);

delegate!(WithoutCommands, self => self.0; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

impl EventStore for WithoutCommands {}

#[tokio::test]
async fn a_store_that_notes_no_commands_refuses_them() {
    let parcels = AggregateRepository::<Parcel>::new(WithoutCommands(InMemoryEventStore::new()));
    let error = parcels.once(key("k"), "T-1").upsert(&id("p"), |parcel| parcel.send("T-1")).await.unwrap_err();
    assert_eq!(error.to_string(), "WithoutCommands notes no commands");
    assert!(!parcels.exists(&id("p")).await.unwrap());
}

#[test]
fn keys_are_texts_of_at_most_255_bytes() {
    assert_eq!(key(" \"a b\" ").as_str(), "a b");
    for wrong in ["", "  ", "\"\"", "a\nb", &"x".repeat(256)] {
        let error: InvalidName = wrong.parse::<IdempotencyKey>().unwrap_err();
        assert!(error.to_string().contains("idempotency key"), "{error}");
    }
}
