//! What the store does not have is refused by name: transactions when the app starts, tags when they are saved.

use eventbus::{
    BoxError, ExpectedVersion, Never, NewEvent,
    app::StartMistake,
    event::Tag,
    port::{Append, AppendError, AppendEvents as _, MultiStreamAppends as _, ReadFeed as _},
    prelude::*,
    repository::BoundaryError,
    store::{Boundary, BoundaryCondition, MultiStreamAppend},
    support::{MissingIndex, source_chain},
    testkit::Tables,
};

use crate::{event, fresh, order};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Enrolment, tags(course))]
struct Enrolled {
    course: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Enrolled))]
struct Enrolment;

impl Apply for Enrolment {
    fn apply(&mut self, _event: &EnrolmentEvent) {}
}

#[derive(Debug, Default, Decision)]
#[decision(events(Enrolled))]
struct Seats;

impl Apply for Seats {
    fn apply(&mut self, _event: &SeatsEvent) {}
}

#[handler(name = "note", manual)]
async fn note(_event: &Enrolled, _tables: &mut Tables) -> Result<(), BoxError> {
    Ok(())
}

#[derive(Default)]
struct Rows;

#[projection(name = "rows", tables("rows"), manual)]
impl Rows {
    async fn enrolled(&self, _event: &Enrolled, _tables: &mut Tables) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::test]
async fn an_app_whose_handler_or_projection_takes_a_transaction_does_not_start() {
    let (store, _) = fresh().await;
    let builder = App::builder().store(store).handler::<note>().projection(Rows).without_relay();
    let error = builder.start().await.unwrap_err();
    let is_named = |mistake: &StartMistake, wanted: &str| matches!(mistake, StartMistake::TransactionMismatch { name, offered: None, .. } if *name == wanted);
    for name in ["note", "rows"] {
        assert!(error.mistakes().iter().any(|mistake| is_named(mistake, name)), "{name}: {error}");
    }
    assert!(error.to_string().contains("this app's store lends none"), "{error}");
}

fn is_of_tags(error: &(dyn std::error::Error + 'static)) -> bool {
    let missing = source_chain(error).find_map(|error| error.downcast_ref::<MissingIndex>());
    missing.is_some_and(|missing| missing.missing == "tags" && missing.store.starts_with("RedisEventStore redis://"))
}

#[tokio::test]
async fn events_with_tags_and_decisions_are_refused() {
    let (store, _) = fresh().await;
    let app = App::builder().store(store.clone()).without_relay().start().await.unwrap();
    let refused = app.decision::<Seats>().about("course", "rust").load().await.unwrap_err();
    assert!(matches!(refused, BoundaryError::Unsupported { .. }), "{refused:?}");
    let enrolled = Enrolled { course: "rust".into() };
    let saved = app.repository::<Enrolment>().upsert(&"1".parse().unwrap(), |_| Ok::<_, Never>(enrolled.clone())).await;
    assert!(is_of_tags(&saved.unwrap_err()));

    let tag = Tag::new("course", "rust").unwrap();
    let tagged = || Append {
        stream: order("1"),
        expected: ExpectedVersion::Any,
        events: vec![event(1).with_tags([tag.clone()])],
    };
    let plain = Append { events: vec![event(1)], ..tagged() };
    let event_types = [NewEvent::event_type(&event(1)).clone()].into();
    let boundary = Boundary { tenant_id: None, event_types, items: [[tag.clone()].into()].into() };
    let condition = Some(BoundaryCondition { boundary, counts: vec![0] });
    let appended = store.append_many(vec![tagged()]).await.remove(0).map(drop);
    let together = store.append_streams(MultiStreamAppend::single(tagged())).await.map(drop);
    let multi = MultiStreamAppend { condition, ..MultiStreamAppend::single(plain) };
    let conditional = store.append_streams(multi).await.map(drop);
    for refused in [appended, together, conditional].map(Result::unwrap_err) {
        assert!(matches!(&refused, AppendError::Refused { .. }) && is_of_tags(&refused), "{refused:?}");
    }
    assert_eq!(store.head().await.unwrap(), 0_u64);
}
