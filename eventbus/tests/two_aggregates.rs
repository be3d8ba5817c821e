//! Two aggregates with one type would share streams: no app of such a binary starts.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use eventbus::{InMemoryEventStore, StartMistake, prelude::*};

mod bank {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Account)]
    pub(crate) struct Deposited {}

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(events(Deposited))]
    pub(crate) struct Account;

    impl Apply for Account {
        fn apply(&mut self, _: &AccountEvent) {}
    }
}

mod forum {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Member)]
    pub(crate) struct Joined {}

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(type = "Account", events(Joined))]
    pub(crate) struct Member;

    impl Apply for Member {
        fn apply(&mut self, _: &MemberEvent) {}
    }
}

#[tokio::test]
async fn two_aggregates_with_one_type_keep_every_app_from_starting() {
    let store = InMemoryEventStore::new;
    for builder in [App::builder().store(store()), App::builder().store(store()).discover()] {
        let error = builder.start().await.unwrap_err();
        let found = error.mistakes().iter().find_map(|mistake| match mistake {
            StartMistake::DuplicateAggregateType { aggregate_type, first_type, first, second_type, second, .. } => {
                Some((*aggregate_type, *first_type, first.to_string(), *second_type, second.to_string()))
            }
            _ => None,
        });
        let (aggregate_type, first_type, first, second_type, second) = found.unwrap();
        assert_eq!(aggregate_type, "Account");
        assert!(first_type.ends_with("bank::Account") && second_type.ends_with("forum::Member"), "{error}");
        assert!(first.contains("two_aggregates.rs:") && second.contains("two_aggregates.rs:"), "{error}");
        let text = error.to_string();
        for part in [&*first, &*second, "`Account`", "#[aggregate(type = \"..\")]"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
