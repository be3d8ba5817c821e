//! Changes that the check cannot see. A test that fails here is good news: the limit is gone, and its line in the docs
//! of `eventbus::lock` too.

use eventbus::{Name, NewEvent, StreamId, Version, event::Fields, prelude::*};

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

/// Declares an event before and after a change of a type that needs samples, and tests that the check misses the change
/// with a sample that does not hold what changed, and finds it with one that does.
macro_rules! needs_a_sample {
    ($name:ident, $without:literal, $with:literal, { $($before:item)* } => { $($after:item)* }) => {
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
            let place = Place::new();
            let lock_before = |json| place.lock().event::<before::Changed>().sample(&of_json::<before::Changed>(json));
            let check_after = || {
                let lock = place.lock().event::<after::Changed>().sample(&of_json::<after::Changed>($without));
                verdict(lock.compare())
            };
            lock_before($without).write().unwrap();
            assert_eq!(check_after(), Verdict::Nothing);
            lock_before($with).write().unwrap();
            assert!(matches!(check_after(), Verdict::Breaks(_)), "{:?}", check_after());
        }
    };
}

fn of_json<T: for<'a> Deserialize<'a>>(json: &str) -> T {
    serde_json::from_str(json).unwrap()
}

needs_a_sample! {
    a_field_of_a_flattened_struct_is_another_one,
    r#"{"id":"1"}"#, r#"{"id":"1","floor":3}"#,
    {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { id: String, #[serde(flatten)] address: Address }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub(super) struct Address { #[serde(skip_serializing_if = "Option::is_none")] floor: Option<u8> }
    } => {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { id: String, #[serde(flatten)] address: Address }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub(super) struct Address { #[serde(skip_serializing_if = "Option::is_none")] floor: Option<String> }
    }
}

needs_a_sample! {
    a_variant_of_an_untagged_enum_is_removed,
    r#"{"total":120}"#, r#"{"total":{"euros":1,"cents":20}}"#,
    {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { total: Amount }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(untagged)]
        pub(super) enum Amount { Cents(u64), Parts { euros: u64, cents: u64 } }
    } => {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { total: Amount }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(untagged)]
        pub(super) enum Amount { Cents(u64) }
    }
}

needs_a_sample! {
    a_validating_type_accepts_less,
    r#"{"country":"DE"}"#, r#"{"country":"FR"}"#,
    {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { country: Country }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub(super) struct Country(String);

        impl TryFrom<String> for Country {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, &'static str> {
                if ["DE", "FR"].contains(&&*text) { Ok(Self(text)) } else { Err("unknown country") }
            }
        }
    } => {
        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(super) struct Changed { country: Country }

        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub(super) struct Country(String);

        impl TryFrom<String> for Country {
            type Error = &'static str;
            fn try_from(text: String) -> Result<Self, &'static str> {
                if text == "DE" { Ok(Self(text)) } else { Err("unknown country") }
            }
        }
    }
}

mod unlocked {
    use super::*;

    /// Stored under the name `OrderPlaced` at first, then as version 1 of `OrderCreated`; the file began with version 2.
    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Order", type = "OrderCreated", version = 2, upcast(name_customer))]
    pub(super) struct Created {
        customer_id: String,
    }

    /// A mistake: version 1 called it `customer`.
    fn name_customer(fields: &mut Fields) {
        fields.rename("client", "customer_id");
    }
}

#[test]
fn what_was_stored_before_the_file_cannot_be_read() {
    let place = Place::new();
    place.lock().event::<unlocked::Created>().write().unwrap();
    assert_eq!(verdict(place.lock().event::<unlocked::Created>().compare()), Verdict::Nothing);
    for (event_type, reason) in [("OrderPlaced", "OrderPlaced"), ("OrderCreated", "customer_id")] {
        let event = NewEvent::new(Name::from_static(event_type), 1, r#"{"customer":"4711"}"#);
        let stream = StreamId::parse("Order", "1").unwrap();
        let refused = event.recorded_as(stream, Version::FIRST, None).decode::<unlocked::Created>().unwrap_err();
        assert!(format!("{refused:?}").contains(reason), "{refused:?}");
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
