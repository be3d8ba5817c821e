//! Two events with one last segment, listed by one aggregate.

use eventbus::{EventSet, prelude::*};

mod legacy {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = super::Account, type = "account.closed")]
    pub struct Closed {
        pub reason: String,
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Closed {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Closed, legacy::Closed as LegacyClosed,))]
struct Account {
    reason: Option<String>,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        self.reason = match event {
            AccountEvent::Closed(_) => None,
            AccountEvent::LegacyClosed(event) => Some(event.reason.clone()),
        }
    }
}

#[test]
fn runs() {
    assert_eq!(AccountEvent::EVENTS.event_types(), ["Closed", "account.closed"]);
    let mut account = AggregateRoot::<Account>::new(AggregateId::new());
    account.record(legacy::Closed { reason: "fraud".into() });
    assert_eq!(account.reason.as_deref(), Some("fraud"));
}
