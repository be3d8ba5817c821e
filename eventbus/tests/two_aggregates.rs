//! Tests of one binary may each have an aggregate of the same type: their apps start, unless they discover items. The
//! tests of the workspace cover a program with two aggregates of one type.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use eventbus::{app::StartMistake, prelude::*};

mod one {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Account)]
    struct Deposited {
        cents: u64,
    }

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(events(Deposited))]
    pub(crate) struct Account {
        cents: u64,
    }

    impl Apply for Account {
        fn apply(&mut self, event: &AccountEvent) {
            let AccountEvent::Deposited(deposited) = event;
            self.cents += deposited.cents;
        }
    }

    #[tokio::test]
    async fn an_app_starts_beside_the_aggregate_of_another_test() {
        let app = App::builder().start().await.unwrap();
        let accounts = app.repository::<Account>();
        let mut account = accounts.create_new(AggregateId::new());
        account.record(Deposited { cents: 120 });
        accounts.save(&mut account).await.unwrap();
        assert_eq!(accounts.load(account.id()).await.unwrap().cents, 120);
    }
}

mod other {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Account)]
    struct Opened {
        owner: String,
    }

    #[derive(Debug, Default, Aggregate)]
    #[aggregate(events(Opened))]
    pub(crate) struct Account {
        owner: String,
    }

    impl Apply for Account {
        fn apply(&mut self, event: &AccountEvent) {
            let AccountEvent::Opened(opened) = event;
            self.owner.clone_from(&opened.owner);
        }
    }

    #[tokio::test]
    async fn an_app_starts_beside_the_aggregate_of_another_test() {
        let app = App::builder().start().await.unwrap();
        let accounts = app.repository::<Account>();
        let mut account = accounts.create_new(AggregateId::new());
        account.record(Opened { owner: "ada".into() });
        accounts.save(&mut account).await.unwrap();
        assert_eq!(accounts.load(account.id()).await.unwrap().owner, "ada");
    }
}

#[handler]
async fn greet(_: &RecordedEvent) {}

#[tokio::test]
async fn an_app_that_discovers_both_does_not_start() {
    let error = App::builder().discover().start().await.unwrap_err();
    let found = error.mistakes().iter().find_map(|mistake| match mistake {
        StartMistake::DuplicateAggregateType { aggregate_type, first_type, second_type, .. } => {
            Some((*aggregate_type, *first_type, *second_type))
        }
        _ => None,
    });
    let (aggregate_type, first_type, second_type) = found.unwrap();
    assert_eq!(aggregate_type, "Account");
    assert!(first_type.ends_with("one::Account") && second_type.ends_with("other::Account"), "{error}");
}
