//! What the macros generate, seen from outside.
#![allow(missing_docs, dead_code)]

use eventbus::{
    AggregateRoot, Handler, Name, NewEvent, Projection, StreamId, Version,
    port::{Delivery, StateMap},
    prelude::*,
};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderCreated {
    pub customer_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
pub struct OrderShipped;

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderCreated, OrderShipped))]
pub struct Order {
    customers: Vec<String>,
    shipped: bool,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated(event) => self.customers.push(event.customer_id.clone()),
            OrderEvent::OrderShipped(_) => self.shipped = true,
        }
    }
}

#[handler(group = "audit", retries = 5, timeout_ms = 100)]
async fn send_receipt(
    event: &OrderCreated,
    meta: &Metadata,
    State(prefix): State<String>,
) -> Result<(), std::io::Error> {
    assert_eq!(meta.version(), 1);
    assert_eq!(format!("{prefix}{}", event.customer_id), "mail to ada");
    Ok(())
}

#[derive(Debug, Default)]
pub struct OrderStatistics {
    created: u64,
    shipped: u64,
}

#[projection(name = "order-statistics")]
impl OrderStatistics {
    fn created(&mut self, event: &OrderCreated) {
        self.created += u64::from(!event.customer_id.is_empty());
    }
    fn shipped(&mut self, _event: &OrderShipped, _meta: &Metadata) {
        self.shipped += 1;
    }
}

#[tokio::test]
async fn generated_code_fits_the_library() {
    let mut order = AggregateRoot::<Order>::new(AggregateId::new());
    order.record((
        OrderCreated {
            customer_id: "ada".into(),
        },
        Some(OrderShipped),
    ));
    assert_eq!((order.customers.len(), order.shipped), (1, true));
    let stream = StreamId::new(Name::from_static("Order"), order.id().clone());
    let record = NewEvent::of(&OrderCreated {
        customer_id: "ada".into(),
    })
    .unwrap()
    .recorded_as(stream, Version::FIRST, None);
    assert!(matches!(
        record.decode::<OrderEvent>(),
        Ok(OrderEvent::OrderCreated(_))
    ));
    let delivery = Delivery::new(record, Name::from_static("audit"))
        .with_state(StateMap::new().with("mail to ".to_owned()));
    let _ = send_receipt::definition();
    let mut statistics = OrderStatistics::default();
    statistics.project_mut(&delivery).await.unwrap();
    assert_eq!(
        OrderStatistics::definition().events.event_types(),
        ["OrderCreated", "OrderShipped"]
    );
    assert_eq!((statistics.created, statistics.shipped), (1, 0));
}
