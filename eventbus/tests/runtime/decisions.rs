//! Decisions about tags: what they read and append, what they refuse, and how they line up.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use eventbus::{
    EventContext, ExpectedVersion, InMemoryEventStore, Name, Never, NewEvent, Position, SaveError, StreamId,
    UpdateError, Uuid, Version,
    event::{InvalidTag, Tag},
    port::{AppendEvents as _, EventStore},
    prelude::*,
    repository::{BoundaryError, IdempotencyKey, Publication},
    store::{
        Boundaries, Boundary, BoundaryCondition, BoundaryRead, FeedFilter, MultiStreamAppends, ReadError, ReadFeed as _,
    },
    support::count_then_read,
    testkit::{Fault, FaultyStore, delegate},
};
use futures_util::{FutureExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsCourse", tags(course), type = "DecisionsCourseDefined")]
struct CourseDefined {
    course: String,
    seats: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Enrolment, tags(course, student = pupil), type = "DecisionsEnrolled")]
struct Enrolled {
    course: String,
    pupil: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Enrolment, tags(course, student), type = "DecisionsLeft")]
struct Left {
    course: String,
    student: Vec<String>,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "DecisionsEnrolment", events(Enrolled, Left))]
struct Enrolment {
    is_over: bool,
}

impl Apply for Enrolment {
    fn apply(&mut self, event: &EnrolmentEvent) {
        self.is_over = matches!(event, EnrolmentEvent::Left(_));
    }
}

#[derive(Debug, Default, PartialEq, Decision)]
#[decision(events(CourseDefined, Enrolled, Left))]
struct Seats {
    seats: usize,
    taken: usize,
}

impl Apply for Seats {
    fn apply(&mut self, event: &SeatsEvent) {
        match event {
            SeatsEvent::CourseDefined(event) => self.seats = event.seats,
            SeatsEvent::Enrolled(_) => self.taken += 1,
            SeatsEvent::Left(event) => self.taken -= event.student.len(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsRoom", tags(room), type = "DecisionsBooked")]
struct Booked {
    room: u32,
}

/// A decision about courses or rooms, which no event has both of.
#[derive(Debug, Default, Decision)]
#[decision(events(CourseDefined, Booked))]
struct Apart;

impl Apply for Apart {
    fn apply(&mut self, _event: &ApartEvent) {}
}

#[derive(Debug, PartialEq, derive_more::Display)]
#[display("no seat is left")]
struct Full;

impl Seats {
    fn enrol(&self, course: &str, student: &str) -> Result<Enrolled, Full> {
        if self.taken < self.seats { Ok(enrolled(course, student)) } else { Err(Full) }
    }
}

fn enrolled(course: &str, student: &str) -> Enrolled {
    Enrolled { course: course.into(), pupil: Some(student.into()) }
}

fn defined(course: &str, seats: usize) -> CourseDefined {
    CourseDefined { course: course.into(), seats }
}

async fn app(store: impl EventStore) -> App {
    App::builder().store(store).start().await.unwrap()
}

async fn define(app: &App, course: &str, seats: usize) {
    let decision = app.decision::<Seats>().about("course", course);
    decision.decide(|_| Ok::<_, Never>(defined(course, seats))).await.unwrap();
}

async fn enrol(app: &App, course: &str, student: &str) -> Result<(), UpdateError<Full>> {
    let decision = app.decision::<Seats>().about("course", course);
    decision.decide(|seats| seats.enrol(course, student)).await.map(drop)
}

async fn load(app: &App, course: &str) -> Seats {
    app.decision::<Seats>().about("course", course).load().await.unwrap()
}

#[tokio::test]
async fn a_decision_reads_what_it_is_about_and_nothing_else() {
    let app = app(InMemoryEventStore::new()).await;
    for course in ["rust", "go"] {
        define(&app, course, 2).await;
    }
    for student in ["ada", "bob"] {
        enrol(&app, "rust", student).await.unwrap();
    }
    enrol(&app, "go", "ada").await.unwrap();
    let refused = enrol(&app, "rust", "eve").await.unwrap_err();
    assert_eq!(refused.refused(), Some(&Full));
    assert_eq!(load(&app, "rust").await, Seats { seats: 2, taken: 2 });
    let of_ada = app.decision::<Seats>().about("student", "ada").load().await.unwrap();
    assert_eq!(of_ada, Seats { seats: 0, taken: 2 });
    let either = app.decision::<Seats>().about("course", "go").about("student", "bob").load().await.unwrap();
    assert_eq!(either, Seats { seats: 2, taken: 2 });
    let both = app.decision::<Seats>().about_all([("course", &"go"), ("student", &"ada")]).load().await.unwrap();
    assert_eq!(both, Seats { seats: 0, taken: 1 });
}

#[tokio::test]
async fn a_field_gives_as_many_tags_as_it_has_values() {
    let app = app(InMemoryEventStore::new()).await;
    let events = (
        Enrolled { course: "rust".into(), pupil: None },
        Left { course: "rust".into(), student: vec!["ada".into(), "bob".into(), "ada".into()] },
    );
    let decision = app.decision::<Seats>().about("course", "rust");
    decision.decide(|_| Ok::<_, Never>(events.clone())).await.unwrap();
    let count = async |tag: Tag| {
        let (start, head) = (Position::START, app.store().head().await.unwrap());
        app.store().count_events(start, head, &FeedFilter::all().tagged([tag])).await.unwrap()
    };
    assert_eq!(count(Tag::new("course", "rust").unwrap()).await, 2);
    assert_eq!(count(Tag::new("student", "ada").unwrap()).await, 1);
    assert_eq!(count(Tag::new("student", "bob").unwrap()).await, 1);
}

#[tokio::test]
async fn decided_events_go_to_new_aggregates_or_to_the_named_one() {
    let app = app(InMemoryEventStore::new()).await;
    define(&app, "rust", 9).await;
    let id: AggregateId = "ada-rust".parse().unwrap();
    let decision = || app.decision::<Seats>().about("course", "rust");
    let saved = decision().append_to::<Enrolment>(&id).decide(|seats| seats.enrol("rust", "ada")).await.unwrap();
    assert_eq!(saved.events[0].metadata().stream(), &Enrolment::stream(&id));
    assert!(matches!(saved.publication, Publication::None), "{saved:?}: the app has no bus");
    assert_eq!(saved.position, saved.events[0].position());
    let left = Left { course: "rust".into(), student: vec!["ada".into()] };
    let decided = (left, defined("go", 1), enrolled("go", "ada"));
    let saved = decision().append_to::<Enrolment>(&id).decide(|_| Ok::<_, Never>(decided.clone())).await.unwrap();
    let versions: Vec<_> = saved.events.iter().map(|event| event.version().get()).collect();
    assert_eq!(versions, [2, 3, 1], "the events of one aggregate, then those of the next");
    assert_eq!(app.repository::<Enrolment>().version(&id).await.unwrap(), Version::new(3));
    let saved = decision().decide(|_| Ok::<_, Never>([enrolled("go", "bob"), enrolled("go", "eve")])).await.unwrap();
    let streams: BTreeSet<_> = saved.events.iter().map(|event| event.metadata().stream().to_string()).collect();
    assert_eq!(streams.len(), 2);
    let nothing = decision().decide(|_| Ok::<Option<Enrolled>, Never>(None)).await.unwrap();
    assert!(nothing.events.is_empty() && nothing.position.is_none());
}

#[tokio::test]
async fn decisions_of_a_tenant_are_its_own() {
    let app = app(InMemoryEventStore::new()).await;
    define(&app, "rust", 9).await;
    let tenant = Uuid::from_u128(7);
    let of_tenant = || app.decision::<Seats>().for_tenant(tenant).about("course", "rust");
    assert_eq!(of_tenant().load().await.unwrap(), Seats::default());
    let context = EventContext { tenant_id: Some(tenant), actor_id: Some("ada".into()), ..EventContext::default() };
    let saved = of_tenant().with_context(context.clone()).decide(|_| Ok::<_, Never>(defined("rust", 1))).await.unwrap();
    assert_eq!(saved.events[0].metadata().tenant_id(), Some(tenant));
    assert_eq!(saved.events[0].metadata().actor_id(), Some("ada"));
    assert_eq!(of_tenant().load().await.unwrap().seats, 1);
    assert_eq!(load(&app, "rust").await.seats, 9);
    let decision = app.decision::<Seats>().about("course", "rust").with_context(context);
    let other = decision.decide(|_| Ok::<_, Never>(defined("rust", 1))).await.unwrap_err();
    assert!(matches!(other, UpdateError::Save(SaveError::OtherTenant { .. })), "{other:?}");
}

#[tokio::test]
async fn a_decision_about_nothing_or_an_unknown_tag_is_refused() {
    let app = app(InMemoryEventStore::new()).await;
    let refused = app.decision::<Seats>().load().await.unwrap_err();
    assert!(matches!(refused, BoundaryError::Everything), "{refused:?}");
    assert_eq!(refused.to_string(), r#"a decision is about something: name a tag, `.about("course", &course)`"#);
    let refused = app.decision::<Seats>().about_all([]).load().await.unwrap_err();
    assert!(matches!(refused, BoundaryError::Everything), "{refused:?}");
    let decision = app.decision::<Seats>().about("cuorse", "rust").about("course", "rust");
    let refused = decision.decide(|_| Ok::<(), Never>(())).await.unwrap_err();
    assert_eq!(refused.to_string(), "no event of the decision has `tags(cuorse)` (known: course, student)");
    let long = "x".repeat(1_000);
    let refused = app.decision::<Seats>().about("course", &long).load().await.unwrap_err();
    assert!(matches!(refused, BoundaryError::Tag(InvalidTag::TooLong { .. })), "{refused:?}");
    assert!(!refused.to_string().contains(&long));
    let refused = app.decision::<Seats>().about("course", &None::<String>).load().await.unwrap_err();
    assert!(matches!(refused, BoundaryError::Tag(InvalidTag::NoValue { .. })), "{refused:?}");
    let refused = app.decision::<Seats>().about_all([("course", &"rust"), ("course", &"go")]).load().await;
    assert!(refused.is_ok(), "an event may have several values of one name");
    let refused = app.decision::<Apart>().about_all([("course", &"rust"), ("room", &1)]).load().await.unwrap_err();
    assert_eq!(refused.to_string(), "no event of the decision has all of the tags course, room");
    let refused = app.decision::<Seats>().about_types().load().await.unwrap_err();
    assert!(matches!(refused, BoundaryError::UndeclaredType { event_type: "DecisionsCourseDefined" }), "{refused:?}");
}

#[tokio::test]
async fn an_event_whose_tag_no_store_can_keep_is_not_stored() {
    let app = app(InMemoryEventStore::new()).await;
    let decision = app.decision::<Seats>().about("course", "rust");
    let refused = decision.decide(|_| Ok::<_, Never>(defined(&"x".repeat(1_000), 1))).await.unwrap_err();
    let message = refused.to_string();
    assert!(matches!(refused, UpdateError::Save(SaveError::Encode(_))), "{refused:?}");
    assert_eq!(
        message,
        "event `DecisionsCourseDefined` cannot be encoded: tag `course` has 1007 bytes, more than 1000"
    );
    assert_eq!(app.store().head().await.unwrap(), Position::START);
}

/// A store that waits before it counts tags, so that a test acts first.
#[derive(Clone)]
struct Gated {
    store: InMemoryEventStore,
    asked: Arc<AtomicU32>,
    may_count: Arc<Semaphore>,
}

impl Gated {
    fn new() -> Self {
        Self { store: InMemoryEventStore::new(), asked: Arc::default(), may_count: Arc::new(Semaphore::new(0)) }
    }
}

delegate!(Gated, self => self.store; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

impl EventStore for Gated {
    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        self.store.multi_stream_appends()
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        Some(self)
    }
}

#[async_trait::async_trait]
impl Boundaries for Gated {
    async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.may_count.acquire().await.unwrap().forget();
        self.store.count_tagged(boundary).await
    }

    async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError> {
        count_then_read(self, boundary).await
    }

    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, eventbus::store::AppendError> {
        self.store.add_tag(event, tag).await
    }
}

#[tokio::test]
async fn decisions_about_one_tag_line_up_and_those_about_others_do_not() {
    let store = Gated::new();
    let app = app(store.clone()).await;
    let asked = || store.asked.load(Ordering::SeqCst);
    let decide = |course: &'static str| {
        let app = app.clone();
        tokio::spawn(async move {
            let decision = app.decision::<Seats>().about("course", course).about("student", "ada");
            decision.decide(|seats| Ok::<_, Never>(defined(course, seats.seats + 1))).await.unwrap();
        })
    };
    let mut decisions = vec![decide("rust")];
    crate::wait::until("one is about to count", async || asked() == 1).await;
    decisions.extend([decide("rust"), decide("go"), decide("rust")]);
    let alone = {
        let app = app.clone();
        tokio::spawn(async move {
            app.decision::<Seats>().about("course", "c").decide(|_| Ok::<_, Never>(defined("c", 1))).await
        })
    };
    crate::wait::until("so is that of another tag", async || asked() == 2).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked(), 2, "those about one tag wait");
    store.may_count.add_permits(100);
    for decision in decisions {
        decision.await.unwrap();
    }
    alone.await.unwrap().unwrap();
    assert_eq!(asked(), 5, "each was made at once: none found that its boundary had moved");
    assert_eq!(load(&app, "rust").await.seats, 3);
}

/// A different process enrols Bob.
async fn enrol_bob_elsewhere(store: &InMemoryEventStore) {
    let stream = StreamId::parse("DecisionsEnrolment", "bob-rust").unwrap();
    let event = NewEvent::from_event(&enrolled("rust", "bob")).unwrap();
    store.append(&stream, ExpectedVersion::NoStream, vec![event]).await.unwrap();
}

#[tokio::test]
async fn a_decision_whose_boundary_moves_is_made_again() {
    let store = InMemoryEventStore::new();
    let app = app(store.clone()).await;
    define(&app, "rust", 1).await;
    let calls = AtomicU32::new(0);
    let decision = app.decision::<Seats>().about("course", "rust");
    let decided = decision.decide(|seats| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            enrol_bob_elsewhere(&store).now_or_never().unwrap();
        }
        seats.enrol("rust", "ada")
    });
    assert_eq!(decided.await.unwrap_err().refused(), Some(&Full));
    assert_eq!(calls.into_inner(), 2);
    assert_eq!(load(&app, "rust").await.taken, 1);
}

#[tokio::test]
async fn a_decision_is_made_again_with_the_same_command() {
    let store = InMemoryEventStore::new();
    let app = app(store.clone()).await;
    define(&app, "rust", 2).await;
    let calls = AtomicU32::new(0);
    let enrol = |seats: &Seats, student: String| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            enrol_bob_elsewhere(&store).now_or_never().unwrap();
        }
        if seats.taken < seats.seats { Ok(Enrolled { course: "rust".into(), pupil: Some(student) }) } else { Err(Full) }
    };
    let decision = || app.decision::<Seats>().about("course", "rust");
    let saved = decision().decide_with(String::from("ada"), enrol).await.unwrap();
    let EnrolmentEvent::Enrolled(event) = saved.events[0].decode().unwrap() else { panic!("{saved:?}") };
    assert_eq!((event, calls.load(Ordering::SeqCst)), (enrolled("rust", "ada"), 2));
    let refused = decision().decide_with(String::from("eve"), enrol).await.unwrap_err();
    assert_eq!(refused.refused(), Some(&Full));
}

#[tokio::test]
async fn events_are_counted_before_they_are_read() {
    let store = Gated::new();
    let app = app(store.clone()).await;
    store.may_count.add_permits(1);
    define(&app, "rust", 1).await;
    let deciding = {
        let app = app.clone();
        tokio::spawn(async move { enrol(&app, "rust", "ada").await })
    };
    crate::wait::until("it is about to count", async || store.asked.load(Ordering::SeqCst) == 2).await;
    enrol_bob_elsewhere(&store.store).await;
    store.may_count.add_permits(100);
    assert_eq!(deciding.await.unwrap().unwrap_err().refused(), Some(&Full));
    assert_eq!(load(&app, "rust").await.taken, 1);
}

#[tokio::test]
async fn a_conflict_that_stays_ends_as_one() {
    /// A store whose boundaries move under each decision.
    #[derive(Clone)]
    struct Moving(InMemoryEventStore);

    delegate!(Moving, self => self.0; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

    impl EventStore for Moving {
        fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
            self.0.multi_stream_appends()
        }

        fn boundaries(&self) -> Option<&dyn Boundaries> {
            Some(self)
        }
    }

    #[async_trait::async_trait]
    impl Boundaries for Moving {
        async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError> {
            let mut condition = self.0.count_tagged(boundary).await?;
            condition.counts.iter_mut().for_each(|count| *count += 1);
            Ok(condition)
        }

        async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError> {
            count_then_read(self, boundary).await
        }

        async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, eventbus::store::AppendError> {
            self.0.add_tag(event, tag).await
        }
    }

    let app = app(Moving(InMemoryEventStore::new())).await;
    let decision = app.decision::<Seats>().about("course", "rust").about("student", "ada");
    let conflict = decision.decide(|_| Ok::<_, Never>(defined("rust", 1))).await.unwrap_err();
    assert!(conflict.is_conflict(), "{conflict:?}");
    assert_eq!(conflict.to_string(), "events were added to what the decision is about: course, student");
}

#[tokio::test]
async fn a_decision_with_a_key_takes_effect_once() {
    let app = app(InMemoryEventStore::new()).await;
    define(&app, "rust", 1).await;
    let key: IdempotencyKey = "k1".parse().unwrap();
    let enrol = |student: &'static str| {
        let decision = app.decision::<Seats>().about("course", "rust").once(key.clone(), student);
        decision.decide(move |seats| seats.enrol("rust", student))
    };
    let (first, second, third) = tokio::join!(enrol("ada"), enrol("ada"), enrol("ada"));
    let first = first.unwrap();
    assert_eq!((second.unwrap().events, third.unwrap().events), (first.events.clone(), first.events.clone()));
    assert_eq!(enrol("ada").await.unwrap().position, first.position, "though no seat is left");
    let reused = enrol("bob").await.unwrap_err();
    assert!(reused.is_key_reused(), "{reused:?}");
    let nothing = |key: &str| {
        let decision = app.decision::<Seats>().about("course", "rust").once(key.parse().unwrap(), ());
        decision.decide(|_| Ok::<(), Never>(()))
    };
    assert!(nothing("k2").await.unwrap().events.is_empty());
    assert!(nothing("k2").await.unwrap().events.is_empty());
    assert_eq!(load(&app, "rust").await.taken, 1);
}

#[tokio::test]
async fn a_decision_whose_answer_is_lost_asks_again() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let app = app(store.clone()).await;
    for (failure, key) in [(Fault::LostReply, "k1"), (Fault::Unavailable, "k2")] {
        let course = format!("of {key}");
        let decide = async || {
            let decision = app.decision::<Seats>().about("course", &course).once(key.parse().unwrap(), ());
            decision.decide(|_| Ok::<_, Never>(defined(&course, 1))).await
        };
        store.appends.fail_next(failure, 1);
        let decided = decide().await;
        assert_eq!(store.appends.remaining(), 0, "the fault was met");
        assert_eq!(decided.is_ok(), failure == Fault::LostReply);
        assert_eq!(decide().await.unwrap().events.len(), 1);
        assert_eq!(load(&app, &course).await.seats, 1);
    }
    assert_eq!(store.head().await.unwrap().get(), 2, "each is stored once");
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsInvoice", tags(event_type), type = "DecisionsIssued")]
struct Issued {
    number: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsInvoice", tags(event_type), type = "DecisionsVoided")]
struct Voided {
    number: u64,
}

#[derive(Debug, Default, Decision)]
#[decision(events(Issued))]
struct Invoices;

impl Apply for Invoices {
    fn apply(&mut self, _event: &InvoicesEvent) {}
}

/// The decision as the next release has it.
#[derive(Debug, Default, Decision)]
#[decision(events(Issued, Voided))]
struct InvoicesAndMore;

impl Apply for InvoicesAndMore {
    fn apply(&mut self, _event: &InvoicesAndMoreEvent) {}
}

#[tokio::test]
async fn a_repeat_is_recognized_by_a_release_whose_decision_reads_more_types() {
    let app = app(InMemoryEventStore::new()).await;
    let key = || "k1".parse().unwrap();
    let issue = |number| Ok::<_, Never>(Issued { number });
    let first = app.decision::<Invoices>().about_types().once(key(), "order 7");
    let first = first.decide(|_| issue(1)).await.unwrap();
    let repeat = app.decision::<InvoicesAndMore>().about_types().once(key(), "order 7");
    assert_eq!(repeat.decide(|_| issue(2)).await.unwrap().events, first.events);
    let of_one_type = app.decision::<Invoices>().about("event_type", "DecisionsIssued").once(key(), "order 7");
    assert!(of_one_type.decide(|_| issue(3)).await.unwrap_err().is_key_reused());
}

#[tokio::test]
async fn a_repeat_that_would_be_refused_gets_the_first_answer() {
    let store = Gated::new();
    let (slow, quick) = (app(store.clone()).await, app(store.store.clone()).await);
    define(&quick, "rust", 1).await;
    let enrol = async |app: App| {
        let decision = app.decision::<Seats>().about("course", "rust").once("k1".parse().unwrap(), "ada");
        decision.decide(|seats| seats.enrol("rust", "ada")).await
    };
    let repeat = tokio::spawn(enrol(slow));
    crate::wait::until("the repeat has found no answer", async || store.asked.load(Ordering::SeqCst) == 1).await;
    let first = enrol(quick.clone()).await.unwrap();
    store.may_count.add_permits(100);
    assert_eq!(repeat.await.unwrap().unwrap().events, first.events);
    assert_eq!(load(&quick, "rust").await.taken, 1);
}

#[tokio::test]
async fn a_key_is_of_what_the_decision_is_about_and_appends_to() {
    let app = app(InMemoryEventStore::new()).await;
    let decide = async |about: &str, to: &str| {
        let decision = app.decision::<Seats>().about("course", about).append_to::<Enrolment>(&to.parse().unwrap());
        let decided = decision.once("k1".parse().unwrap(), ());
        decided.decide(|_| Ok::<_, Never>(enrolled("rust", "ada"))).await.map(|saved| saved.events)
    };
    let first = decide("rust", "1").await.unwrap();
    assert_eq!(decide("rust", "1").await.unwrap(), first);
    for (about, to) in [("go", "1"), ("rust", "2")] {
        assert!(decide(about, to).await.unwrap_err().is_key_reused(), "{about} {to}");
    }
}

#[tokio::test]
async fn events_of_before_their_tags_are_tagged_once() {
    let store = InMemoryEventStore::new();
    let untagged = |event: &Enrolled| NewEvent::from_event(event).unwrap().with_tags([]);
    for (id, tenant) in [("1", None), ("2", Some(Uuid::from_u128(7)))] {
        let stream = StreamId::parse("DecisionsEnrolment", id).unwrap().with_tenant_id(tenant);
        let events = vec![untagged(&enrolled("rust", "ada")), untagged(&enrolled("rust", "bob"))];
        store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
    }
    let app = app(store.clone()).await;
    assert_eq!(load(&app, "rust").await.taken, 0);
    let mut reports = 0;
    let tagged = app.tag_stored_events::<Enrolled>(|_| reports += 1).await.unwrap();
    assert_eq!((tagged.events, tagged.tags, reports), (4, 8, 5));
    assert_eq!(load(&app, "rust").await.taken, 2, "those of no tenant");
    let again = app.tag_stored_events::<EnrolmentEvent>(|_| {}).await.unwrap();
    assert_eq!((again.events, again.tags), (4, 0));
}

#[tokio::test]
async fn followers_get_the_events_of_their_tags() {
    let app = app(InMemoryEventStore::new()).await;
    define(&app, "rust", 9).await;
    define(&app, "go", 9).await;
    let mut of_rust = app.follow().tagged("course", "rust").unwrap().start();
    let mut of_both = app.follow().tagged("course", "rust").unwrap().tagged("student", "bob").unwrap().start();
    for (course, student) in [("rust", "ada"), ("go", "ada"), ("rust", "bob")] {
        enrol(&app, course, student).await.unwrap();
    }
    let mut types = Vec::new();
    for _ in 0..3 {
        types.push(of_rust.try_next().await.unwrap().unwrap().event_type().to_string());
    }
    assert_eq!(types, ["DecisionsCourseDefined", "DecisionsEnrolled", "DecisionsEnrolled"]);
    let first = of_both.try_next().await.unwrap().unwrap();
    assert_eq!(first.decode::<Enrolled>().unwrap(), enrolled("rust", "bob"));
    assert!(app.follow().tagged("cou:rse", "rust").is_err());
    drop((of_rust, of_both));
}

/// A store without tags.
#[derive(Clone)]
struct Untagged(InMemoryEventStore);

delegate!(Untagged, self => self.0; AppendEvents, ReadStream, ReadFeed, Checkpoints, Leases);

impl EventStore for Untagged {
    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        self.0.multi_stream_appends()
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        None
    }
}

#[tokio::test]
async fn a_store_without_tags_refuses_decisions_and_tagged_events() {
    let app = app(Untagged(InMemoryEventStore::new())).await;
    let refused = app.decision::<Seats>().about("course", "rust").load().await.unwrap_err();
    assert!(matches!(refused, BoundaryError::Unsupported { .. }), "{refused:?}");
    let enrolments = app.repository::<Enrolment>();
    let refused = enrolments.upsert(&"1".parse().unwrap(), |_| Ok::<_, Never>(enrolled("rust", "ada"))).await;
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("MissingIndex") && refused.contains("tags"), "{refused}");
    let name = Name::from_static("Plain");
    let stream = StreamId::parse("DecisionsPlain", "1").unwrap();
    app.store().append(&stream, ExpectedVersion::Any, vec![NewEvent::new(name, 1, "{}")]).await.unwrap();
}
