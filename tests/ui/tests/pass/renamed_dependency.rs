//! A framework that re-exports the library under a name of its own.

mod framework {
    pub mod events {
        pub use eventbus::*;
    }
}

use framework::events::{
    Aggregate, AggregateId, AggregateRoot, Apply, DomainEvent, RecordedEvent, handler, projection,
};

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, DomainEvent)]
#[event(aggregate = Account, crate = framework::events)]
struct Opened {}

#[derive(Debug, Clone, DomainEvent)]
#[event(crate = crate::renamed_dependency::framework::events)]
enum Audited {
    Opened(Opened),
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened), crate = self::framework::events)]
struct Account {
    is_open: bool,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => self.is_open = true,
        }
    }
}

#[handler(crate = framework::events)]
async fn on_recorded(_event: &RecordedEvent) {}

#[handler(crate = framework::events)]
async fn on_audited(event: Audited) {
    let Audited::Opened(_) = event;
}

#[derive(Debug, Default)]
struct Statistics {}

#[projection(name = "statistics", crate = framework::events)]
impl Statistics {
    fn opened(&mut self, _event: &Opened) {}
}

#[test]
fn runs() {
    let mut account = AggregateRoot::<Account>::new(AggregateId::new());
    account.record(Opened {});
    assert!(account.is_open);
}
