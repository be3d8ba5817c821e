//! Changes that the check cannot see. A test that fails here is good news: the limit is gone, and its line in the docs
//! of `eventbus::lock` too.

use eventbus::prelude::*;

use crate::{Place, Verdict, change, verdict};

/// Declares the event before and after a change, and tests that the check accepts the change.
macro_rules! is_missed {
    ($name:ident, { $($before:item)* } => { $($after:item)* }) => {
        #[test]
        fn $name() {
            mod before {
                use super::*;
                $($before)*
            }
            mod after {
                use super::*;
                $($after)*
            }
            assert_eq!(change::<before::Changed, after::Changed>(), Verdict::Nothing);
        }
    };
}

is_missed! {
    an_amount_in_euros_becomes_one_in_cents,
    {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { /** In euros. */ amount: i64 }
    } => {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { /** In cents. */ amount: i64 }
    }
}

is_missed! {
    two_fields_of_one_type_swap_their_names,
    {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { #[serde(rename = "from")] sender: String, #[serde(rename = "to")] receiver: String }
    } => {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { #[serde(rename = "to")] sender: String, #[serde(rename = "from")] receiver: String }
    }
}

is_missed! {
    a_text_has_a_limit_that_the_sample_keeps,
    {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { note: String }
    } => {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { note: Short }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub(super) struct Short(String);

        impl TryFrom<String> for Short {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, &'static str> {
                if text.len() <= 50 { Ok(Self(text)) } else { Err("too long") }
            }
        }
    }
}

mod tagged {
    use super::*;

    macro_rules! program {
        ($name:ident { $($variant:tt)* }) => {
            pub(super) mod $name {
                use super::*;

                #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
                #[event(aggregate_type = "Order")]
                pub(crate) struct Changed {
                    pub(crate) paid: Payment,
                }

                #[derive(Debug, Clone, Serialize, Deserialize)]
                #[serde(tag = "type")]
                pub(crate) enum Payment { $($variant)* }
            }
        };
    }

    program! { before { Cash, Card { last4: String } } }
    program! { after { Cash } }
}

#[test]
fn a_variant_without_a_sample_is_removed() {
    let place = Place::new();
    let before = tagged::before::Changed { paid: tagged::before::Payment::Cash };
    place.lock().event::<tagged::before::Changed>().sample(&before).write().unwrap();
    let after = tagged::after::Changed { paid: tagged::after::Payment::Cash };
    let checked = place.lock().event::<tagged::after::Changed>().sample(&after).compare();
    assert_eq!(verdict(checked), Verdict::Nothing);
    // with a sample of the variant it is found
    let card = tagged::before::Payment::Card { last4: "4242".into() };
    let card = tagged::before::Changed { paid: card };
    place.lock().event::<tagged::before::Changed>().sample(&card).write().unwrap();
    let checked = place.lock().event::<tagged::after::Changed>().sample(&after).compare();
    assert!(matches!(verdict(checked), Verdict::Breaks(_)));
}
