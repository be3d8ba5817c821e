//! A program in which two aggregates have one type; its test starts it with and without the argument `discover`. It is
//! a binary of its own, because in a crate compiled as a test the app would only log a warning.

use eventbus::prelude::*;

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

#[handler]
async fn greet(_: &forum::Joined) {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> eventbus::Result<()> {
    let builder = App::builder();
    let discovers = std::env::args().nth(1).is_some_and(|argument| argument == "discover");
    let app = if discovers { builder.discover() } else { builder }.start().await?;
    app.repository::<bank::Account>().create_new(AggregateId::new()).record(bank::Deposited {});
    app.repository::<forum::Member>().create_new(AggregateId::new()).record(forum::Joined {});
    Ok(())
}
