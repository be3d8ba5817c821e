//! Another crate folds the streams of `Order` into a type of its own.

use eventbus::prelude::*;

mod orders {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Order)]
    pub struct OrderCreated {
        pub total: u64,
    }

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(events(OrderCreated))]
    pub struct Order {}

    impl Apply for Order {
        fn apply(&mut self, _event: &OrderEvent) {}
    }
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "Order", event = SummaryEvent, events(orders::OrderCreated))]
enum Summary {
    #[default]
    Nothing,
    Total(u64),
}

impl Apply for Summary {
    fn apply(&mut self, event: &SummaryEvent) {
        let SummaryEvent::OrderCreated(event) = event;
        *self = match self {
            Self::Nothing => Self::Total(event.total),
            Self::Total(total) => Self::Total(*total + event.total),
        };
    }
}

fn main() {
    assert_eq!(Summary::AGGREGATE_TYPE, "Order");
    let mut summary = AggregateRoot::<Summary>::new(AggregateId::new());
    summary.record([orders::OrderCreated { total: 2 }, orders::OrderCreated { total: 3 }]);
    assert!(matches!(summary.state(), Summary::Total(5)));
}
