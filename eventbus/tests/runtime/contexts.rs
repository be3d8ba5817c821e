//! The context of what is saved: given to a repository, of a scope, or of the event that a handler handles.

use eventbus::{
    AggregateRepository, EventContext, InMemoryEventStore, Never, SaveError, UpdateError, Uuid, event::Attributes,
    prelude::*,
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Door)]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Door)]
struct Logged {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "ContextsDoor", events(Opened, Logged))]
struct Door;

impl Apply for Door {
    fn apply(&mut self, _event: &DoorEvent) {}
}

fn doors() -> AggregateRepository<Door> {
    AggregateRepository::new(InMemoryEventStore::new())
}

async fn open(doors: &AggregateRepository<Door>) -> RecordedEvent {
    let mut saved = doors.upsert(&AggregateId::new(), |_| Ok::<_, Never>(Opened {})).await.unwrap();
    saved.events.remove(0)
}

fn attributes(json: &str) -> Attributes {
    Attributes::parse(json).unwrap()
}

#[tokio::test]
async fn a_given_context_comes_before_a_scope_and_a_scope_before_none() {
    let doors = doors();
    let [one, two] = [1, 2].map(Uuid::from_u128);
    let outer = EventContext::default()
        .with_correlation(one)
        .with_actor("outer")
        .with_attributes(attributes(r#"{"channel":"web","shop":"7"}"#));
    let inner = EventContext::default().with_actor("inner").with_causation(two);
    let given = doors
        .with_context(EventContext::default().with_correlation(two).with_attributes(attributes(r#"{"shop":"8"}"#)));
    let event = open(&doors).await;
    assert_eq!((event.metadata().actor_id(), event.metadata().causation_id()), (None, None));
    outer
        .scope(async {
            let event = open(&doors).await;
            assert_eq!((event.metadata().correlation_id(), event.metadata().actor_id()), (one, Some("outer")));
            inner
                .scope(async {
                    let event = open(&doors).await;
                    let event = event.metadata();
                    assert_eq!((event.correlation_id(), event.actor_id()), (one, Some("inner")));
                    assert_eq!(event.causation_id(), Some(two));
                })
                .await;
            let event = open(&given).await;
            let event = event.metadata();
            assert_eq!((event.correlation_id(), event.actor_id()), (two, Some("outer")));
            let all = event.attributes();
            assert_eq!((all.get("shop"), all.get("channel")), (Some("8".into()), Some("web".into())));
        })
        .await;
    assert_eq!(open(&doors).await.metadata().actor_id(), None, "the scope has ended");
}

#[tokio::test]
async fn a_spawned_task_has_the_scope_that_it_is_given() {
    let doors = doors();
    EventContext::default()
        .with_actor("clerk")
        .scope(async {
            let (one, two) = (doors.clone(), doors.clone());
            let outside = tokio::spawn(async move { open(&one).await }).await.unwrap();
            assert_eq!(outside.metadata().actor_id(), None);
            let within = EventContext::current().scope(async move { open(&two).await });
            assert_eq!(tokio::spawn(within).await.unwrap().metadata().actor_id(), Some("clerk"));
        })
        .await;
}

#[tokio::test]
async fn a_scope_of_another_tenant_is_refused() {
    let doors = doors();
    let tenant = Uuid::from_u128(7);
    EventContext::default()
        .with_tenant(tenant)
        .scope(async {
            let id = AggregateId::new();
            let refused = doors.upsert(&id, |_| Ok::<_, Never>(Opened {})).await.unwrap_err();
            let found = matches!(
                refused,
                UpdateError::Save(SaveError::OtherTenant { found, .. }) if found == Some(tenant)
            );
            assert!(found, "{refused:?}");
            let event = open(&doors.for_tenant(tenant)).await;
            assert_eq!(event.metadata().tenant_id(), Some(tenant));
        })
        .await;
}

/// A handler that saves by a repository that it takes as `State`.
#[handler]
async fn log(_event: &Opened, State(doors): State<AggregateRepository<Door>>) -> eventbus::Result<()> {
    doors.upsert(&"log".parse()?, |_| Ok::<_, Never>(Logged {})).await?;
    Ok(())
}

#[tokio::test]
async fn a_handler_runs_in_the_scope_of_its_event() {
    let store = InMemoryEventStore::new();
    let doors = AggregateRepository::<Door>::new(store.clone());
    let app = App::builder().store(store).state(doors.clone()).handler::<log>().start().await.unwrap();
    let context = EventContext::default().with_actor("clerk");
    let cause = open(&app.repository::<Door>().for_tenant(Uuid::from_u128(7)).with_context(context)).await;
    app.settled().await.unwrap();
    use eventbus::port::{Direction, ReadStream as _};
    use futures_util::TryStreamExt as _;
    let stream = Door::stream(&"log".parse().unwrap());
    let log: Vec<_> = app.store().read_stream(&stream, 1.into(), Direction::Forward).try_collect().await.unwrap();
    let (cause, effect) = (cause.metadata(), log[0].metadata());
    assert_eq!((effect.correlation_id(), effect.actor_id()), (cause.correlation_id(), Some("clerk")));
    assert_eq!(effect.causation_id(), Some(cause.event_id().as_uuid()));
    assert_eq!(effect.tenant_id(), None, "the repository is that of no tenant");
}

#[tokio::test]
async fn a_trace_has_no_state_of_a_different_trace() {
    let doors = doors();
    let [one, two] = [1, 2].map(|trace| format!("00-{trace:032x}-00f067aa0ba902b7-01"));
    let outer = EventContext::default().with_trace(&one, Some("a=1"));
    let replaced = outer.clone().with_trace(&two, None);
    let inner = EventContext::default().with_trace(&two, None);
    let alone = json_of(&replaced.scope(open(&doors)).await);
    let within = json_of(&outer.clone().scope(inner.scope(open(&doors))).await);
    let kept = json_of(&outer.scope(open(&doors)).await);
    let expected = format!(r#"{{"traceparent":"{two}"}}"#);
    assert_eq!(
        [&*alone, &*within, &*kept],
        [&*expected, &*expected, &*format!(r#"{{"traceparent":"{one}","tracestate":"a=1"}}"#)]
    );
}

fn json_of(event: &RecordedEvent) -> String {
    event.metadata().attributes().as_json().to_owned()
}
