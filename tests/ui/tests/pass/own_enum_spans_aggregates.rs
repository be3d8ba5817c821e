//! An enum of one's own asks for events of several aggregates.

use eventbus::{EventSet, event::EncodeEvent, prelude::*};

mod sales {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Order")]
    pub struct OrderCreated {
        pub total: u64,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", type = "account.opened", version = 3)]
struct AccountOpened;

#[derive(Debug, PartialEq, DomainEvent)]
enum Audited {
    Created(sales::OrderCreated),
    Opened(AccountOpened),
}

#[handler]
async fn audit(event: &Audited, meta: &Metadata) {
    match event {
        Audited::Created(order) => println!("{}: {}", meta.aggregate_id(), order.total),
        Audited::Opened(_) => {}
    }
}

#[test]
fn runs() {
    assert_eq!(Audited::EVENTS.event_types(), ["OrderCreated", "account.opened"]);
    let event = Audited::from(AccountOpened).encode().unwrap();
    assert_eq!((event.event_type().as_str(), event.schema_version()), ("account.opened", 3));
    assert_eq!(event.payload(), "{}");
}
