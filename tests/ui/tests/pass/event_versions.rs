//! Upcasters in modules, of every kind, beside a facade and the names of the prelude.

mod old {
    use eventbus::{event::Fields, prelude::*};

    #[derive(Debug, Deserialize, OldEvent)]
    #[event(of = super::Deposited, version = 1)]
    pub struct DepositedV1 {}

    impl From<DepositedV1> for Fields {
        fn from(_: DepositedV1) -> Self {
            Self::new()
        }
    }

    pub fn add_cents(fields: &mut Fields) {
        drop(fields.insert("cents", 1));
    }

    pub fn check(_: &mut Fields) -> Result<(), &'static str> {
        Err("never")
    }
}

mod value {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Value", version = 2, was("Worth"), upcast(_))]
    pub struct Value {
        pub json: u8,
        pub value: u8,
    }
}

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account, version = 5, upcast(old::DepositedV1, old::add_cents, _, crate::event_versions::old::check,))]
struct Deposited {
    cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited), retired("Viewed", "Opened"))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

#[test]
fn runs() {
    let _ = (Deposited { cents: 1 }, value::Value { json: 1, value: 2 });
}
