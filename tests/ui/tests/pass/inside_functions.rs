//! Items declared where they are used, as in a test.
#![deny(warnings)]

use eventbus::{handler::Handler, prelude::*, projection::Projection};

#[test]
fn runs() {
    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Account)]
    struct Opened {}

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(events(Opened))]
    struct Account {
        is_open: bool,
    }

    impl Apply for Account {
        fn apply(&mut self, event: &AccountEvent) {
            let AccountEvent::Opened(_) = event;
            self.is_open = true;
        }
    }

    #[handler(manual)]
    async fn on_opened(_event: &Opened) {}

    #[derive(Debug, Default)]
    struct Statistics {}

    #[projection(name = "statistics")]
    impl Statistics {
        fn opened(&mut self, _event: &Opened) {}
    }

    let mut account = AggregateRoot::<Account>::new(AggregateId::new());
    account.record(Opened {});
    assert!(account.is_open);
    assert_eq!(on_opened::definition().name, "on_opened");
    assert_eq!(Statistics::definition().name, "statistics");
}
