//! The connection of a store's driver as a parameter: neither the driver nor the application own the trait.

use std::collections::BTreeMap;

use eventbus::{
    handler::Handler,
    port::FromTransaction,
    prelude::*,
    projection::{Projection, ProjectionKind},
};

// in the store's crate; `BTreeMap` stands for the driver's connection
struct FakeStore;

struct FakeTransaction {
    connection: BTreeMap<String, u64>,
}

impl FromTransaction<FakeStore> for BTreeMap<String, u64> {
    type Transaction = FakeTransaction;

    fn from_transaction(transaction: &mut FakeTransaction) -> &mut Self {
        &mut transaction.connection
    }
}

// in the application
type Connection = BTreeMap<String, u64>;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct OrderCreated {
    total: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct OrderCancelled {}

#[handler]
async fn reserve_stock(
    event: &OrderCreated,
    meta: &Metadata,
    connection: &mut Connection,
    _state: State<u8>,
) -> Result<(), std::fmt::Error> {
    connection.insert(meta.aggregate_id().to_string(), event.total);
    Ok(())
}

#[derive(Debug, Default)]
struct OrderRows;

// a name that the generated code has too
const EVENTS: &str = "CREATE TABLE IF NOT EXISTS order_rows (order_id text)";

#[projection(name = "order-rows", tables("order_rows", "order_lines"), key = "order_id", set_up = EVENTS, version = 2)]
impl OrderRows {
    async fn created(
        &self,
        event: &OrderCreated,
        meta: &Metadata,
        connection: &mut BTreeMap<String, u64>,
    ) -> Result<(), std::fmt::Error> {
        connection.insert(meta.aggregate_id().to_string(), event.total);
        Ok(())
    }

    fn cancelled(&self, _event: &OrderCancelled, meta: &Metadata, connection: &mut Connection) {
        connection.remove(meta.aggregate_id().as_str());
    }
}

#[derive(Debug, Clone, DomainEvent)]
enum AnyEvent {
    Created(OrderCreated),
    Cancelled(OrderCancelled),
}

#[derive(Debug, Default)]
struct Batches;

#[projection(name = "batches")]
impl Batches {
    #[cfg(any())]
    fn none(&self, events: &[Envelope<Missing>], connection: &mut Connection) {}

    async fn every(
        &self,
        events: &[Envelope<AnyEvent>],
        connection: &mut Connection,
        _state: State<u8>,
    ) -> Result<(), std::fmt::Error> {
        connection.extend(events.iter().map(|event| match event.event() {
            AnyEvent::Created(created) => (event.metadata().aggregate_id().to_string(), created.total),
            AnyEvent::Cancelled(_) => (event.metadata().aggregate_id().to_string(), 0),
        }));
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Plain;

#[projection(name = "plain")]
impl Plain {
    fn created(&self, _events: &[OrderCreated], _connection: &mut Connection) {}

    async fn cancelled(&self, _event: &OrderCancelled, _meta: &Metadata, _connection: &mut Connection) {}
}

#[derive(Debug, Default)]
struct Elsewhere;

#[projection(name = "elsewhere")]
impl Elsewhere {
    fn created(&self, _event: &OrderCreated, State(_url): State<String>) {}
}

#[test]
fn runs() {
    let _ = reserve_stock::definition();
    assert_eq!(OrderRows::definition().kind, ProjectionKind::Transactional);
    let rows = OrderRows::definition();
    assert_eq!((rows.tables, rows.key, rows.version), (&["order_rows", "order_lines"][..], Some("order_id"), 2));
    for batches in [Batches::definition(), Plain::definition()] {
        assert_eq!(batches.events.event_types(), ["OrderCancelled", "OrderCreated"]);
    }
    assert_eq!(Elsewhere::definition().kind, ProjectionKind::AtLeastOnce);
}
