//! The enum is as public as the aggregate; its events need not be.
#![deny(warnings)]

pub mod account {
    use eventbus::prelude::*;

    mod events {
        use eventbus::prelude::*;

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate = super::Account)]
        pub(crate) struct Opened {}

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate = super::Account)]
        pub(in crate::public_aggregate_of_private_events::account) struct Closed {}
    }

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(events(events::Opened, self::events::Closed))]
    pub struct Account {
        pub is_open: bool,
    }

    impl Apply for Account {
        fn apply(&mut self, event: &AccountEvent) {
            self.is_open = matches!(event, AccountEvent::Opened(_));
        }
    }

    impl Account {
        pub fn open_and_close(root: &mut AggregateRoot<Self>) {
            root.record((events::Opened {}, events::Closed {}));
        }
    }
}

#[test]
fn runs() {
    let mut root = eventbus::AggregateRoot::<account::Account>::new(eventbus::AggregateId::new());
    account::Account::open_and_close(&mut root);
    assert!(!root.is_open);
}
