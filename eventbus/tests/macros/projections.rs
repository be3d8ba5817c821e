use std::{collections::BTreeMap, fmt};

use eventbus::{
    __private::{Probe, ProjectionRegistration, TransactionSlot, WithDefault as _, WithoutDefault as _, inventory},
    Name, StreamId,
    handler::{Delivery, HandlerErrorKind, StateMap},
    port::FromTransaction,
    prelude::*,
    projection::{Projection, ProjectionKind},
    store::VisitedFeedEvent,
};

use super::domain::{AccountOpened, OrderCreated, OrderEvent, OrderShipped, record};

fn delivery(event: RecordedEvent) -> Delivery {
    Delivery::new(event, Name::from_static("projections")).with_state(StateMap::new().with("eur".to_owned()))
}

fn created() -> Delivery {
    delivery(record("OrderCreated", r#"{"customer_id":"ada"}"#))
}

fn shipped() -> Delivery {
    delivery(record("order.shipped", "{}"))
}

fn opened(limit: u64) -> Delivery {
    delivery(record("AccountOpened", &format!(r#"{{"limit":{limit}}}"#)))
}

#[derive(Debug, Default)]
struct Statistics {
    created: Vec<String>,
    shipped: u64,
    limit: u64,
}

#[projection(name = "statistics")]
impl Statistics {
    fn created(&mut self, event: &OrderCreated, State(currency): State<String>) {
        self.created.push(format!("{} {currency}", event.customer_id));
    }

    async fn shipped(&mut self, _event: Envelope<OrderShipped>, _meta: &Metadata) {
        std::future::ready(()).await;
        self.shipped += 1;
    }

    fn opened(&mut self, event: AccountOpened) -> Result<(), fmt::Error> {
        self.limit = event.limit;
        if event.limit == 0 { Err(fmt::Error) } else { Ok(()) }
    }
}

#[tokio::test]
async fn each_event_goes_to_its_method() {
    let mut statistics = Statistics::default();
    for event in [created(), shipped(), shipped(), opened(3), delivery(record("Unknown", "{}"))] {
        statistics.project_mut(&event).await.unwrap();
    }
    assert_eq!(statistics.created, ["ada eur"]);
    assert_eq!((statistics.shipped, statistics.limit), (2, 3));
    let error = statistics.project_mut(&opened(0)).await.unwrap_err();
    assert_eq!(error.kind(), HandlerErrorKind::Retry);
    let garbage = delivery(record("AccountOpened", "[]"));
    let error = statistics.project_mut(&garbage).await.unwrap_err();
    assert_eq!(error.kind(), HandlerErrorKind::Undecodable);
}

/// A projection whose methods take only events and the ids of their streams.
#[derive(Debug, Default)]
struct Counts {
    orders: Vec<AggregateId>,
    limits: u64,
}

#[projection(name = "counts", manual)]
impl Counts {
    fn order(&mut self, _event: &OrderEvent, stream: &StreamId, id: &AggregateId) {
        assert_eq!(stream.aggregate_id(), id);
        self.orders.push(id.clone());
    }

    fn opened(&mut self, event: AccountOpened) -> Result<(), fmt::Error> {
        self.limits += event.limit;
        if event.limit == 0 { Err(fmt::Error) } else { Ok(()) }
    }
}

/// A projection that takes the metadata of one of its events.
#[derive(Debug, Default)]
struct Enveloped(u64);

#[projection(name = "enveloped", manual)]
impl Enveloped {
    fn opened(&mut self, event: &Envelope<AccountOpened>) {
        self.0 += event.limit;
    }
}

fn visited(record: &RecordedEvent) -> VisitedFeedEvent<'_> {
    VisitedFeedEvent { position: 1.into(), stream: record.metadata().stream(), fields: record.fields() }
}

#[tokio::test]
async fn methods_without_metadata_fold_what_a_store_visits() {
    assert!(Statistics::visited_fold().is_none() && Enveloped::visited_fold().is_none());
    let fold = Counts::visited_fold().unwrap();
    let (mut counts, mut delivered) = (Counts::default(), Counts::default());
    for event in [created(), shipped(), opened(3), delivery(record("Unknown", "{}"))] {
        fold(&mut counts, visited(event.record())).unwrap();
        delivered.project_mut(&event).await.unwrap();
    }
    assert_eq!((counts.orders.len(), counts.limits), (2, 3));
    assert_eq!((counts.orders, counts.limits), (delivered.orders, delivered.limits));
    let error = fold(&mut Counts::default(), visited(opened(0).record())).unwrap_err();
    assert_eq!(error.kind(), HandlerErrorKind::Retry);
    let error = fold(&mut Counts::default(), visited(&record("AccountOpened", "[]"))).unwrap_err();
    assert_eq!(error.kind(), HandlerErrorKind::Undecodable);
}

#[derive(Debug)]
struct Rows {
    url: &'static str,
}

#[projection(name = "rows")]
impl Rows {
    async fn order(&self, event: &OrderEvent, meta: &Metadata, rows: &mut BTreeMap<String, String>) {
        let row = format!("{} {}", self.url, matches!(event, OrderEvent::OrderCreated(_)));
        rows.insert(meta.event_type().to_string(), row);
    }

    fn opened(&self, _event: &AccountOpened) {}
}

struct FakeStore;
struct FakeTransaction(BTreeMap<String, String>);

impl FromTransaction<FakeStore> for BTreeMap<String, String> {
    type Transaction = FakeTransaction;

    fn from_transaction(transaction: &mut FakeTransaction) -> &mut Self {
        &mut transaction.0
    }
}

#[tokio::test]
async fn rows_are_written_in_the_transaction() {
    let rows = Rows { url: "sql" };
    let mut transaction = FakeTransaction(BTreeMap::new());
    for event in [created(), shipped(), opened(1)] {
        let slot: TransactionSlot<'_> = Some(&mut transaction);
        rows.project(&event, slot).await.unwrap();
    }
    let written: Vec<_> = transaction.0.into_iter().collect();
    assert_eq!(
        written,
        [("OrderCreated".to_owned(), "sql true".to_owned()), ("order.shipped".to_owned(), "sql false".to_owned())]
    );
    assert!(rows.project(&created(), None).await.is_err());
}

#[derive(Debug, Default)]
struct Batches;

#[projection(name = "batches")]
impl Batches {
    async fn orders(
        &self,
        events: &[Envelope<OrderEvent>],
        State(currency): State<String>,
        rows: &mut BTreeMap<String, String>,
    ) -> Result<(), fmt::Error> {
        let types: Vec<_> = events.iter().map(|event| event.metadata().event_type().as_str()).collect();
        rows.insert(format!("call {}", rows.len()), format!("{currency} {}", types.join(" ")));
        if rows.len() > 2 { Err(fmt::Error) } else { Ok(()) }
    }

    fn opened(&self, event: &AccountOpened, rows: &mut BTreeMap<String, String>) {
        rows.insert("limit".into(), event.limit.to_string());
    }
}

#[tokio::test]
async fn a_batch_method_takes_several_events_at_once() {
    let mut transaction = FakeTransaction(BTreeMap::new());
    let batch = [created(), shipped(), shipped()];
    Batches.project_batch(&batch, Some(&mut transaction)).await.unwrap();
    Batches.project(&created(), Some(&mut transaction)).await.unwrap();
    assert_eq!(transaction.0["call 0"], "eur OrderCreated order.shipped order.shipped");
    assert_eq!(transaction.0["call 1"], "eur OrderCreated");
    Batches.project(&opened(7), Some(&mut transaction)).await.unwrap();
    assert_eq!(transaction.0["limit"], "7");

    let error = Batches.project_batch(&batch, Some(&mut transaction)).await.unwrap_err();
    assert_eq!(error.kind(), HandlerErrorKind::Retry, "the method's own");
    let garbage = [created(), delivery(record("OrderCreated", "[]"))];
    let error = Batches.project_batch(&garbage, Some(&mut transaction)).await.unwrap_err();
    assert_eq!(error.kind(), HandlerErrorKind::Undecodable);
    assert!(Batches.project_batch(&batch, None).await.is_err());
    assert!(Rows { url: "sql" }.project_batch(&batch, Some(&mut transaction)).await.is_err());
}

#[derive(Debug, Default)]
struct Elsewhere;

#[projection(name = "elsewhere")]
impl Elsewhere {
    fn every(&self, _event: &RecordedEvent, Attempt(_): Attempt) {}
}

#[tokio::test]
async fn the_kind_follows_from_the_signatures() {
    let definition = Statistics::definition();
    assert_eq!(definition.name, "statistics");
    assert_eq!(definition.kind, ProjectionKind::InMemory);
    assert_eq!(definition.events.event_types(), ["AccountOpened", "OrderCreated", "order.shipped"]);
    assert_eq!(Rows::definition().kind, ProjectionKind::Transactional);
    assert_eq!(Elsewhere::definition().kind, ProjectionKind::AtLeastOnce);
    assert!(Elsewhere::definition().events.matches("Anything"));
    Elsewhere.project(&created(), None).await.unwrap();
    let line = include_str!("projections.rs").lines().nth(definition.source.line as usize - 1);
    assert_eq!(line, Some("impl Statistics {"));
}

#[test]
fn a_projection_is_registered_with_its_default_if_it_has_one() {
    let mut registered: Vec<_> = inventory::iter::<ProjectionRegistration>()
        .map(|registration| ((registration.definition)().name, (registration.instance)().is_some()))
        .collect();
    registered.sort_unstable();
    assert_eq!(registered, [("batches", true), ("elsewhere", true), ("rows", false), ("statistics", true)]);
    let (with, without) = (&Probe::<Statistics>::new(), &Probe::<Rows>::new());
    assert!(with.factory().is_some());
    assert!(without.factory().is_none());
}
