//! Code of users who have every group of clippy's lints switched on; our own run of clippy covers this file.
#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(clippy::all, clippy::pedantic, clippy::nursery, clippy::cargo)]
#![deny(clippy::unwrap_used, clippy::needless_pass_by_value, clippy::absolute_paths)]
#![allow(clippy::multiple_crate_versions, clippy::cargo_common_metadata)]
#![forbid(unsafe_code)]

use std::{fmt, sync::Arc};

use eventbus::{
    InMemoryEventBus,
    handler::{EventHandler, Handler},
    prelude::*,
    projection::Projection,
};

/// An order was created.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderCreated {
    /// The customer.
    pub customer_id: String,
    /// In cents.
    pub total: u64,
    /// The ordered items.
    pub lines: [u64; 32],
}

/// An order was shipped.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderShipped;

/// An order was closed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, version = 2)]
pub struct OrderClosed {
    /// Set if the order is closed for good.
    pub for_good: bool,
}

/// The audited events.
#[derive(Debug, Clone, DomainEvent)]
pub enum Audited {
    /// An order was shipped.
    Shipped(OrderShipped),
    /// An order was closed.
    Closed(OrderClosed),
}

/// An order.
#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate(events(OrderCreated, OrderShipped, OrderClosed))]
pub struct Order {
    total: u64,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(event) => self.total = event.total,
            OrderEvent::OrderShipped(_) | OrderEvent::OrderClosed(_) => {}
        }
    }
}

/// Sends mail.
#[derive(Debug, Clone)]
pub struct Mailer {
    prefix: Arc<str>,
}

/// Sends a receipt.
///
/// # Errors
/// If the mail cannot be written.
#[handler(retries = 5)]
pub async fn send_receipt(
    event: &OrderCreated,
    meta: &Metadata,
    State(mailer): State<Mailer>,
) -> Result<(), fmt::Error> {
    let to = format!("{}{} {}", mailer.prefix, event.customer_id, meta.aggregate_id());
    if to.is_empty() { Err(fmt::Error) } else { Ok(()) }
}

/// Audits.
#[handler(group = "audit", timeout_ms = 1_000, concurrency = 2)]
pub async fn audit(event: &OrderShipped, attempt: Attempt) {
    let _ = (event, attempt);
}

#[handler(manual)]
async fn audit_by_value(event: Audited, State(mailer): State<Mailer>) {
    let _ = (event, &mailer);
}

/// Counts orders.
#[derive(Debug, Default)]
pub struct Statistics {
    orders: u64,
    revenue: u64,
}

#[projection(name = "statistics")]
impl Statistics {
    fn created(&mut self, event: &OrderCreated) {
        self.orders += 1;
        self.revenue += event.total;
    }

    async fn shipped(&mut self, event: OrderShipped, State(mailer): State<Mailer>) {
        let _ = (event, &mailer);
    }

    fn closed(&mut self, event: &OrderClosed) {
        let _ = event;
    }
}

/// Stores no state.
#[derive(Debug)]
pub struct Rows {}

#[projection(name = "rows")]
impl Rows {
    fn recorded(&self, event: &RecordedEvent) {
        let _ = event;
    }
}

struct Greeter;

impl EventHandler<OrderShipped> for Greeter {
    async fn handle(&self, _event: OrderShipped) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[test]
fn it_runs() {
    let bus = InMemoryEventBus::new();
    let _ = bus.subscribe(Greeter);
    let mut order = AggregateRoot::<Order>::new(AggregateId::new());
    order.record((OrderShipped, OrderClosed { for_good: true }));
    assert_eq!(order.pending().len(), 2);
    assert_eq!(send_receipt::definition().name, "send_receipt");
    assert_eq!(audit_by_value::definition().name, "audit_by_value");
    assert_eq!(Statistics::definition().name, "statistics");
    assert_eq!(Rows::definition().name, "rows");
}
