//! A user's code, over the modules of a small application.

mod orders {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Order)]
    pub struct OrderCreated {
        pub customer_id: String,
        pub total_amount: f64,
    }

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Order)]
    pub struct OrderShipped {
        pub tracking_number: String,
    }

    #[derive(Debug, Default, Clone, PartialEq)]
    pub enum Status {
        #[default]
        New,
        Created,
        Shipped,
    }

    #[derive(Debug, Default, Clone, Aggregate)]
    #[aggregate(events(OrderCreated, OrderShipped))]
    pub struct Order {
        pub status: Status,
        pub customer_id: String,
        pub total_amount: f64,
        pub tracking_number: Option<String>,
    }

    impl Apply for Order {
        fn apply(&mut self, event: &OrderEvent) {
            match event {
                OrderEvent::OrderCreated(e) => {
                    self.status = Status::Created;
                    self.customer_id = e.customer_id.clone();
                    self.total_amount = e.total_amount;
                }
                OrderEvent::OrderShipped(e) => {
                    self.status = Status::Shipped;
                    self.tracking_number = Some(e.tracking_number.clone());
                }
            }
        }
    }

    #[derive(Debug, PartialEq)]
    pub enum OrderError {
        AlreadyExists,
        NotShippable(Status),
    }

    impl std::fmt::Display for OrderError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Self::AlreadyExists => f.write_str("order already exists"),
                Self::NotShippable(status) => {
                    write!(f, "order is {status:?}, only a created order ships")
                }
            }
        }
    }

    impl std::error::Error for OrderError {}

    impl Order {
        pub fn create(&self, customer_id: &str, total_amount: f64) -> Result<OrderCreated, OrderError> {
            if self.status != Status::New {
                return Err(OrderError::AlreadyExists);
            }
            Ok(OrderCreated { customer_id: customer_id.into(), total_amount })
        }

        pub fn ship(&self, tracking_number: &str) -> Result<OrderShipped, OrderError> {
            if self.status != Status::Created {
                return Err(OrderError::NotShippable(self.status.clone()));
            }
            Ok(OrderShipped { tracking_number: tracking_number.into() })
        }
    }
}

mod mail {
    use eventbus::prelude::*;

    use super::orders::OrderCreated;

    #[derive(Clone)]
    pub struct Mailer;

    #[derive(Debug)]
    pub struct MailError;

    impl std::fmt::Display for MailError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("mail server said no")
        }
    }

    impl std::error::Error for MailError {}

    impl Mailer {
        async fn send(&self, to: &str, text: &str) -> Result<(), MailError> {
            println!("mail to {to}: {text}");
            Ok(())
        }
    }

    #[handler]
    pub async fn send_receipt(
        event: &OrderCreated,
        meta: &Metadata,
        State(mailer): State<Mailer>,
    ) -> Result<(), MailError> {
        let text = format!("order {} for {}", meta.aggregate_id(), event.total_amount);
        mailer.send(&event.customer_id, &text).await
    }

    #[handler(group = "audit")]
    pub async fn audit(event: &RecordedEvent) {
        println!("audit: {} v{}", event.metadata().event_type(), event.metadata().version());
    }
}

mod statistics {
    use eventbus::prelude::*;

    use super::orders::{OrderCreated, OrderShipped};

    #[derive(Debug, Default)]
    pub struct OrderStatistics {
        pub total_orders: u64,
        pub total_revenue: f64,
        pub shipped: u64,
    }

    #[projection(name = "order-statistics")]
    impl OrderStatistics {
        fn created(&mut self, event: &OrderCreated) {
            self.total_orders += 1;
            self.total_revenue += event.total_amount;
        }

        fn shipped(&mut self, _event: &OrderShipped, _meta: &Metadata) {
            self.shipped += 1;
        }
    }
}

use eventbus::{
    handler::Handler,
    prelude::*,
    projection::{Projection, ProjectionKind},
};
use orders::{Order, OrderError, Status};

#[test]
fn runs() -> eventbus::Result<()> {
    let mut order = AggregateRoot::<Order>::new(AggregateId::new());
    order.record(order.create("cust-123", 99.99)?);
    order.record(order.ship("TRACK-1")?);
    assert_eq!(order.ship("TRACK-2").unwrap_err(), OrderError::NotShippable(Status::Shipped));
    assert_eq!(order.pending().len(), 2);
    assert_eq!(order.status, Status::Shipped);

    assert_eq!(mail::send_receipt::definition().name, "send_receipt");
    assert_eq!(mail::audit::definition().group, Some("audit"));
    let definition = statistics::OrderStatistics::definition();
    assert_eq!(definition.kind, ProjectionKind::InMemory);
    assert_eq!(definition.events.event_types(), ["OrderCreated", "OrderShipped"]);
    Ok(())
}
