//! A lock file over several releases.

use eventbus::{
    event::{FieldError, Fields},
    lock::LockError,
    prelude::*,
};

use crate::{Place, Verdict, change, verdict};

/// Releases of one program, each with the event `Opened`.
mod releases {
    use super::*;

    macro_rules! release {
        ($name:ident { $($item:item)* }) => {
            #[allow(unused_imports, reason = "the releases use what they need")]
            pub(super) mod $name {
                use super::*;
                $(
                    #[derive(Debug, Clone, Serialize, Deserialize)]
                    $item
                )*
            }
        };
    }

    release! { first {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account")]
        pub(crate) struct Opened { owner: String, euros: f64 }
    }}

    release! { with_a_default {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account")]
        pub(crate) struct Opened { owner: String, euros: f64, #[serde(default)] limit: u32 }
    }}

    release! { with_another_default {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account")]
        pub(crate) struct Opened { owner: String, euros: f64, #[serde(default = "ten")] limit: u32 }
    }}

    release! { without_its_default {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account")]
        pub(crate) struct Opened { owner: String, euros: f64, limit: u32 }
    }}

    release! { with_an_alias {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account")]
        pub(crate) struct Opened { #[serde(alias = "owner")] owner_id: String, euros: f64 }
    }}

    release! { without_its_alias {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account")]
        pub(crate) struct Opened { owner_id: String, euros: f64 }
    }}

    release! { second {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account", version = 2, upcast(super::in_cents))]
        pub(crate) struct Opened { owner: String, cents: i64 }
    }}

    release! { with_another_upcaster {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account", version = 2, upcast(super::in_tenths))]
        pub(crate) struct Opened { owner: String, cents: i64 }
    }}

    release! { without_upcaster {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account", version = 2)]
        pub(crate) struct Opened { owner: String, cents: i64 }
    }}

    release! { with_a_failing_upcaster {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account", version = 2, upcast(super::fails))]
        pub(crate) struct Opened { owner: String, cents: i64 }
    }}

    release! { third {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account", version = 3, was("Opened"), upcast(super::in_cents, _))]
        pub(crate) struct AccountOpened { owner: String, cents: i64, #[serde(default)] currency: Option<String> }
    }}

    release! { third_without_former_name {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Account", version = 3, upcast(super::in_cents, _))]
        pub(crate) struct AccountOpened { owner: String, cents: i64, #[serde(default)] currency: Option<String> }
    }}

    release! { of_another_aggregate {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Customer")]
        pub(crate) struct Opened { owner: String, euros: f64 }
    }}

    pub(super) fn ten() -> u32 {
        10
    }
}

fn in_cents(fields: &mut Fields) -> Result<(), FieldError> {
    let euros: f64 = fields.take("euros")?;
    fields.insert("cents", (euros * 100.0).round() as i64)
}

fn in_tenths(fields: &mut Fields) -> Result<(), FieldError> {
    let euros: f64 = fields.take("euros")?;
    fields.insert("cents", (euros * 1_000.0).round() as i64)
}

fn fails(fields: &mut Fields) -> Result<(), FieldError> {
    fields.take::<u8>("pounds").map(drop)
}

#[track_caller]
fn breaks(result: Result<(), LockError>, text: &str) {
    match verdict(result) {
        Verdict::Breaks(found) => assert!(found.contains(text), "{found}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_new(result: Result<(), LockError>, text: &str) {
    match verdict(result) {
        Verdict::IsNew(found) => assert!(found.contains(text), "{found}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_file_says_what_is_stored() {
    let place = Place::new();
    place.lock().event::<releases::first::Opened>().write().unwrap();
    place.lock().event::<releases::second::Opened>().write().unwrap();
    let text = place.text();
    assert!(text.starts_with("# The events that are stored"), "{text}");
    let body = text.split_once("\n\n").unwrap().1;
    assert_eq!(
        body,
        "event Opened\n  aggregate Account\n  version 1\n    field euros: f64\n    field owner: string\n    \
         payload {\"owner\":\"text 1\",\"euros\":2.123456789012}\n      reads 2 {\"owner\":\"text 1\",\"cents\":212}\n  version 2\n    \
         field cents: i64\n    field owner: string\n    payload {\"owner\":\"text 1\",\"cents\":9223372036854775805}\n    \
         payload {\"owner\":\"text 1\",\"cents\":-9223372036854775806}\n"
    );
}

#[test]
fn a_message_names_type_field_versions_and_repair() {
    let place = Place::new();
    place.lock().event::<releases::first::Opened>().write().unwrap();
    let error = place.lock().event::<releases::without_its_default::Opened>().compare().unwrap_err().to_string();
    let (_, said) = error.split_once(".lock: ").unwrap();
    assert_eq!(
        said,
        "a change would break stored events\n  `Opened` (version 1): \
         `lock::life::releases::without_its_default::Opened` does not accept them: missing field `limit`\n    to repair: \
         `#[serde(default)]` on it if a default is right, else `version = 2` and an upcaster from 1"
    );
}

#[test]
fn a_default_stays_as_long_as_events_without_the_field_are_stored() {
    let place = Place::new();
    place.lock().event::<releases::first::Opened>().write().unwrap();
    is_new(place.lock().event::<releases::with_a_default::Opened>().compare(), "the field `limit: u32`");
    place.lock().event::<releases::with_a_default::Opened>().write().unwrap();
    place.lock().event::<releases::with_a_default::Opened>().compare().unwrap();
    breaks(place.lock().event::<releases::without_its_default::Opened>().compare(), "missing field `limit`");
    breaks(
        place.lock().event::<releases::with_another_default::Opened>().compare(),
        "field `limit` was read as 0, and is now read as 10",
    );
}

#[test]
fn an_alias_stays_as_long_as_events_with_the_former_name_are_stored() {
    let place = Place::new();
    place.lock().event::<releases::first::Opened>().write().unwrap();
    is_new(place.lock().event::<releases::with_an_alias::Opened>().compare(), "the field `owner_id: string`");
    place.lock().event::<releases::with_an_alias::Opened>().write().unwrap();
    breaks(place.lock().event::<releases::without_its_alias::Opened>().compare(), "missing field `owner_id`");
}

#[test]
fn upcasters_are_checked_with_payloads_of_all_versions() {
    let place = Place::new();
    place.lock().event::<releases::first::Opened>().write().unwrap();
    is_new(place.lock().event::<releases::second::Opened>().compare(), "`Opened` has a version 2");
    place.lock().event::<releases::second::Opened>().write().unwrap();
    place.lock().event::<releases::second::Opened>().compare().unwrap();
    breaks(
        place.lock().event::<releases::with_another_upcaster::Opened>().compare(),
        "`Opened` (version 1): field `cents` was read as 212, and is now read as 2123",
    );
    breaks(
        place.lock().event::<releases::with_a_failing_upcaster::Opened>().compare(),
        "the upcaster from version 1 refuses its fields: missing field `pounds`",
    );
    breaks(
        place.lock().event::<releases::without_upcaster::Opened>().compare(),
        "missing field `cents`\n    to repair: an upcaster from version 1 in `upcast(..)` that makes what \
         `lock::life::releases::without_upcaster::Opened` takes, or `#[serde(default)]` on the field if a default is right",
    );
    breaks(place.lock().event::<releases::first::Opened>().compare(), "to repair: `version = 2` or higher");
}

/// Releases of one program, whose events of both versions hold the same nested type.
mod shared {
    use super::*;

    macro_rules! release {
        ($name:ident { $($line:tt)* } { $($kind:tt)* }) => {
            pub(super) mod $name {
                use super::*;

                #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
                #[event(aggregate_type = "Order", version = 2, upcast(OrderedV1))]
                pub(crate) struct Ordered { buyer: String, lines: Vec<Line>, kind: Kind }

                #[derive(Deserialize, OldEvent)]
                #[event(of = Ordered, version = 1)]
                struct OrderedV1 { lines: Vec<Line>, kind: Kind }

                impl From<OrderedV1> for Ordered {
                    fn from(old: OrderedV1) -> Self {
                        Self { buyer: "nobody".into(), lines: old.lines, kind: old.kind }
                    }
                }

                #[derive(Debug, Clone, Serialize, Deserialize)]
                pub(crate) struct Line { $($line)* }

                #[derive(Debug, Clone, Serialize, Deserialize)]
                pub(crate) enum Kind { $($kind)* }
            }
        };
    }

    release! { before { sku: String, note: Option<String>, price: u32 } { Small, Big } }
    release! { with_a_new_field { sku: String, note: Option<String>, price: u32, gift: bool } { Small, Big } }
    release! { with_an_optional_field_renamed { sku: String, remark: Option<String>, price: u32 } { Small, Big } }
    release! { without_two_fields { price: u32 } { Small, Big } }
    release! { with_a_field_renamed { sku: String, note: Option<String>, cents: u32 } { Small, Big } }
    release! { with_a_variant_renamed { sku: String, note: Option<String>, price: u32 } { Small, Large } }

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Order")]
    pub(super) struct Ordered {
        lines: Vec<before::Line>,
        kind: before::Kind,
    }
}

#[test]
fn the_repair_fits_the_fault() {
    let place = Place::new();
    place.lock().event::<shared::Ordered>().write().unwrap();
    place.lock().event::<shared::before::Ordered>().write().unwrap();
    let check = |lock: eventbus::lock::Lock, texts: &[&str]| {
        let error = lock.compare().unwrap_err().to_string();
        texts.iter().for_each(|text| assert!(error.contains(text), "{text} in {error}"));
    };
    check(
        place.lock().event::<shared::with_a_new_field::Ordered>(),
        &[
            "`Ordered` (version 1): `lock::life::shared::with_a_new_field::OrderedV1` does not accept their field `lines[0]",
            "to repair: let `lock::life::shared::with_a_new_field::OrderedV1` keep the fields of its version, and their \
             types: if it shares a nested type with today's event, mend that type or give it a copy of the former one",
            "`Ordered` (version 2): `lock::life::shared::with_a_new_field::Ordered` does not accept",
            "missing field `gift`\n    to repair: `#[serde(default)]` on it if a default is right, else `version = 3`",
        ],
    );
    check(
        place.lock().event::<shared::with_an_optional_field_renamed::Ordered>(),
        &[
            "a change would break",
            "`Ordered` (versions 1, 2): field `lines[0].note: string?` is lost\n    to repair: `#[serde(alias = \"note\")]` on \
             the field if it has a new name, else `version = 3` and an upcaster from 2",
        ],
    );
    check(
        place.lock().event::<shared::without_two_fields::Ordered>(),
        &["(version 2): field `lines[0].note: string?` is lost, field `lines[0].sku: string` is lost\n"],
    );
    check(
        place.lock().event::<shared::with_a_field_renamed::Ordered>(),
        &[
            "missing field `cents`; `lines[].price: u32` is gone\n",
            "to repair: `#[serde(alias = \"price\")]` on it if that was its name, `#[serde(default)]` if a default is \
             right, else `version = 3` and an upcaster from 2",
        ],
    );
    check(
        place.lock().event::<shared::with_a_variant_renamed::Ordered>(),
        &[
            "`#[serde(alias = \"Big\")]` on the variant if it has a new name, the variant again if not, else `version = 3`",
        ],
    );
}

#[test]
fn a_new_name_needs_the_former_one() {
    let place = Place::new();
    place.lock().event::<releases::second::Opened>().write().unwrap();
    let renamed = place.lock().event::<releases::third_without_former_name::AccountOpened>();
    breaks(
        renamed.compare(),
        "to repair: `was(\"Opened\")` on the event that took its place, or `retired(\"Opened\")`",
    );
    place.lock().event::<releases::third::AccountOpened>().write().unwrap();
    place.lock().event::<releases::third::AccountOpened>().compare().unwrap();
    assert!(place.text().contains("event AccountOpened") && place.text().contains("event Opened"));
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Shelf)]
struct BookAdded {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(BookAdded), retired("BookTouched"))]
struct Shelf {}

impl Apply for Shelf {
    fn apply(&mut self, _event: &ShelfEvent) {}
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(fold_of = Shelf, events(BookAdded), retired("BookLent"))]
struct Spines {}

impl Apply for Spines {
    fn apply(&mut self, _event: &SpinesEvent) {}
}

#[test]
fn a_retired_event_may_be_gone() {
    let place = Place::new();
    place.set_text("event BookTouched\n  aggregate Shelf\n  version 1\n    payload {}\n");
    place.lock().event::<BookAdded>().write().unwrap();
    place.lock().event::<BookAdded>().compare().unwrap();
    assert!(place.text().contains("event BookTouched"), "it stays in the file");
    // the aggregate could not be loaded: only a further state of it passes by books that were lent
    for gone in ["BookBurnt", "BookLent"] {
        place.set_text(&format!("event {gone}\n  aggregate Shelf\n  version 1\n    payload {{}}\n"));
        let finding = format!("`{gone}` (version 1): no event has this wire name any more");
        breaks(place.lock().event::<BookAdded>().compare(), &finding);
    }
}

#[test]
fn an_event_stays_in_its_aggregate() {
    let place = Place::new();
    place.lock().event::<releases::first::Opened>().write().unwrap();
    breaks(
        place.lock().event::<releases::of_another_aggregate::Opened>().compare(),
        "its aggregate type was `Account` and is `Customer`",
    );
}

#[test]
fn writing_refuses_what_would_break_and_changes_nothing() {
    let place = Place::new();
    place.lock().event::<releases::first::Opened>().write().unwrap();
    let before = place.text();
    breaks(place.lock().event::<releases::without_its_default::Opened>().write(), "missing field `limit`");
    assert_eq!(place.text(), before);
}

mod wider {
    use std::collections::BTreeSet;

    use eventbus::prelude::*;

    macro_rules! program {
        ($name:ident { $($item:item)* }) => {
            #[allow(unused_imports, reason = "the programs use what they need")]
            pub(super) mod $name {
                use super::*;
                $(
                    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
                    $item
                )*
            }
        };
    }

    program! { before {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(crate) struct Changed { count: u32, note: String, skus: Vec<String>, kind: Kind, gift: Option<bool> }
        pub(crate) enum Kind { Small, Big { size: u8 } }
    }}

    program! { after {
        #[derive(DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(crate) struct Changed {
            count: u64,
            note: Option<String>,
            skus: BTreeSet<String>,
            kind: Kind,
            #[serde(skip_serializing_if = "Option::is_none")]
            gift: Option<bool>,
        }
        pub(crate) enum Kind { #[serde(alias = "Small")] Little, Big { size: u16 }, Huge(String) }
    }}
}

#[test]
fn wider_types_are_no_fault() {
    let Verdict::IsNew(news) = change::<wider::before::Changed, wider::after::Changed>() else {
        panic!("they read what is stored");
    };
    for change in ["`count` is `u64`, it was `u32`", "`note` is `string?`", "the field `kind.Huge: string`"] {
        assert!(news.contains(change), "{change} in {news}");
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Paid {
    by: Payment,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Payment {
    Cash,
    Card { last4: String },
}

#[test]
fn what_cannot_be_traced_needs_samples() {
    let place = Place::new();
    breaks(place.lock().event::<Paid>().write(), "no sample of it can be made: field `by`");
    let card = Paid { by: Payment::Card { last4: "4242".into() } };
    let lock = || place.lock().event::<Paid>().sample(&card);
    lock().write().unwrap();
    lock().compare().unwrap();
    is_new(lock().sample(&Paid { by: Payment::Cash }).compare(), r#"the sample {"by":{"type":"Cash"}}"#);
    let text = place.text();
    assert!(text.contains("field by.last4: string\n"), "{text}");
    place.set_text(&text.replace("Card", "Cheque"));
    breaks(lock().compare(), "unknown variant");
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Imported {
    original: Box<serde_json::value::RawValue>,
}

#[test]
fn a_sample_with_line_ends_is_one_line_of_the_file() {
    let place = Place::new();
    let imported: Imported = serde_json::from_str("{\"original\":{\n  \"sku\": \"a\"\r\n}}").unwrap();
    let lock = || place.lock().event::<Imported>().sample(&imported);
    lock().write().unwrap();
    lock().compare().unwrap();
}

#[test]
fn a_file_that_is_none_is_named() {
    let place = Place::new();
    let lock = || place.lock().event::<BookAdded>();
    assert!(matches!(lock().compare(), Err(LockError::Missing { .. })));
    place.set_text("event BookAdded\n<<<<<<< HEAD\n");
    assert!(matches!(lock().compare(), Err(LockError::Malformed { line: 2, .. })));
    assert!(matches!(lock().write(), Err(LockError::Malformed { line: 2, .. })), "nothing is overwritten");
    let folder = eventbus::lock::Lock::at(std::env::temp_dir()).event::<BookAdded>();
    assert!(matches!(folder.compare(), Err(LockError::Io { .. })));
}

#[test]
fn crates_choose_the_linked_events() {
    let place = Place::new();
    place.lock().crates(["another"]).write().unwrap();
    assert!(!place.text().contains("event "), "{}", place.text());
}
