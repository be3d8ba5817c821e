//! The events and the aggregate of these tests.

use eventbus::{Name, NewEvent, RecordedEvent, StreamId, Version, prelude::*};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub(crate) struct OrderCreated {
    pub(crate) customer_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order, type = "order.shipped", version = 2)]
pub(crate) struct OrderShipped;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
pub(crate) struct AccountOpened {
    pub(crate) limit: u64,
}

#[derive(Debug, Clone, PartialEq, DomainEvent)]
pub(crate) enum Audited {
    Created(OrderCreated),
    Opened(AccountOpened),
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderCreated, OrderShipped))]
pub(crate) struct Order {
    pub(crate) customers: Vec<String>,
    pub(crate) shipped: u32,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(event) => self.customers.push(event.customer_id.clone()),
            OrderEvent::OrderShipped(_) => self.shipped += 1,
        }
    }
}

pub(crate) fn created(customer_id: &str) -> OrderCreated {
    OrderCreated { customer_id: customer_id.into() }
}

/// An event as a store returns it, with any wire name and payload.
pub(crate) fn record(event_type: &'static str, payload: &str) -> RecordedEvent {
    let stream = StreamId::new(Name::from_static("Order"), AggregateId::new());
    NewEvent::new(Name::from_static(event_type), 1, payload).recorded_as(stream, Version::FIRST, None)
}
