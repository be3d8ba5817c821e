//! Changes that would break stored events, one by one: the check finds each, and names the field.

use crate::{Verdict, change};

/// Declares the event `Changed` before and after a change, with the types within it, and tests that the check finds the
/// change and says `$text`.
macro_rules! breaks {
    ($name:ident, $text:literal, $before:tt => $after:tt) => {
        breaks! { $name, $text, $before {} => $after {} }
    };
    ($name:ident, $text:literal, $before:tt $types_before:tt => $after:tt $types_after:tt) => {
        #[allow(dead_code, unused_imports, reason = "the programs declare what they need")]
        mod $name {
            pub(super) mod before {
                breaks! { @program $before $types_before }
            }
            pub(super) mod after {
                breaks! { @program $after $types_after }
            }
        }

        #[test]
        fn $name() {
            match change::<$name::before::Changed, $name::after::Changed>() {
                Verdict::Breaks(text) => assert!(text.contains($text), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    };
    (@program { $($fields:tt)* } { $($item:item)* }) => {
        use std::collections::BTreeMap;

        use eventbus::{Uuid, prelude::*};

        #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
        #[event(aggregate_type = "Order")]
        pub(crate) struct Changed { $($fields)* }

        $(
            #[derive(Debug, Clone, Serialize, Deserialize)]
            $item
        )*
    };
}

breaks! {
    a_field_is_removed, "field `customer: string` is lost",
    { customer: String, total: u64 }
    => { total: u64 }
}

breaks! {
    a_field_has_a_new_name, "missing field `customer_id`",
    { customer: String }
    => { customer_id: String }
}

breaks! {
    a_field_has_a_new_name_and_a_default, "field `customer: string` is lost",
    { customer: String }
    => { #[serde(default)] customer_id: String }
}

breaks! {
    a_text_becomes_a_number, "`total: string`, which now is `u64`",
    { total: String }
    => { total: u64 }
}

breaks! {
    a_number_becomes_a_text, "`total: u64`, which now is `string`",
    { total: u64 }
    => { total: String }
}

breaks! {
    a_number_becomes_smaller, "`count: u64`, which now is `u32`",
    { count: u64 }
    => { count: u32 }
}

breaks! {
    a_number_loses_its_sign, "`cents: i64`, which now is `u64`",
    { cents: i64 }
    => { cents: u64 }
}

breaks! {
    a_number_loses_precision, "field `total: f64` changes from",
    { total: f64 }
    => { total: f32 }
}

breaks! {
    a_fraction_becomes_a_whole_number, "`total: f64`, which now is `i64`",
    { total: f64 }
    => { total: i64 }
}

breaks! {
    an_optional_field_becomes_required, "`note: string?`, which now is `string`",
    { note: Option<String> }
    => { note: String }
}

breaks! {
    an_optional_field_of_an_item_becomes_required, "`lines[].note: string?` may be `null`",
    { lines: Vec<Line> } { pub(crate) struct Line { note: Option<String> } }
    => { lines: Vec<Line> } { pub(crate) struct Line { note: String } }
}

breaks! {
    a_value_becomes_a_list, "`sku: string`, which now is `list`",
    { sku: String }
    => { sku: Vec<String> }
}

breaks! {
    a_list_becomes_one_value, "`skus: list`, which now is `string`",
    { skus: Vec<String> }
    => { skus: String }
}

breaks! {
    a_text_becomes_an_id, "`customer: string`, which now is `uuid`",
    { customer: String }
    => { customer: Uuid }
}

breaks! {
    a_text_becomes_a_letter, "`grade: string`",
    { grade: String }
    => { grade: char }
}

breaks! {
    a_flag_becomes_a_number, "`is_gift: bool`, which now is `u8`",
    { is_gift: bool }
    => { is_gift: u8 }
}

breaks! {
    a_new_field_has_no_default, "missing field `currency`",
    { cents: i64 }
    => { cents: i64, currency: String }
}

breaks! {
    a_map_becomes_a_list, "`labels: map`",
    { labels: BTreeMap<String, u8> }
    => { labels: Vec<(String, u8)> }
}

breaks! {
    keys_of_a_map_become_numbers, "labels",
    { labels: BTreeMap<String, u8> }
    => { labels: BTreeMap<u32, u8> }
}

breaks! {
    values_of_a_map_have_another_type, "labels",
    { labels: BTreeMap<String, bool> }
    => { labels: BTreeMap<String, String> }
}

breaks! {
    parts_of_a_tuple_change_places, "`size[0]: u8`",
    { size: (u8, String) }
    => { size: (String, u8) }
}

breaks! {
    a_tuple_becomes_longer, "size",
    { size: (u8, u8) }
    => { size: (u8, u8, u8) }
}

breaks! {
    a_nested_field_is_skipped, "field `line.note: string` is lost",
    { line: Line } { pub(crate) struct Line { note: String, count: u8 } }
    => { line: Line } { pub(crate) struct Line { #[serde(skip)] note: String, count: u8 } }
}

breaks! {
    a_nested_field_is_written_and_not_read, r#"field `line.note: string` changes from "text"#,
    { line: Line } { pub(crate) struct Line { note: String, count: u8 } }
    => { line: Line } { pub(crate) struct Line { #[serde(default, skip_deserializing)] note: String, count: u8 } }
}

breaks! {
    a_field_is_renamed_on_the_wire, "missing field `buyer`",
    { customer: String }
    => { #[serde(rename = "buyer")] customer: String }
}

breaks! {
    all_fields_are_renamed_on_the_wire, "missing field `customerId`",
    { line: Line } { pub(crate) struct Line { customer_id: String } }
    => { line: Line } { #[serde(rename_all = "camelCase")] pub(crate) struct Line { customer_id: String } }
}

breaks! {
    a_nested_field_is_removed, "field `lines[0].sku: string` is lost",
    { lines: Vec<Line> } { pub(crate) struct Line { sku: String, count: u8 } }
    => { lines: Vec<Line> } { pub(crate) struct Line { count: u8 } }
}

breaks! {
    a_nested_field_has_a_new_name, "`lines[0]`",
    { lines: Vec<Line> } { pub(crate) struct Line { sku: String } }
    => { lines: Vec<Line> } { pub(crate) struct Line { code: String } }
}

breaks! {
    a_nested_field_has_another_type, "`lines[0].count: u16`, which now is `string`",
    { lines: Vec<Line> } { pub(crate) struct Line { count: u16 } }
    => { lines: Vec<Line> } { pub(crate) struct Line { count: String } }
}

breaks! {
    a_new_nested_field_has_no_default, "missing field `price`",
    { lines: Vec<Line> } { pub(crate) struct Line { count: u8 } }
    => { lines: Vec<Line> } { pub(crate) struct Line { count: u8, price: u64 } }
}

breaks! {
    a_nested_field_of_an_optional_value_becomes_smaller, "`line.count: u32`, which now is `u16`",
    { line: Option<Line> } { pub(crate) struct Line { count: u32 } }
    => { line: Option<Line> } { pub(crate) struct Line { count: u16 } }
}

breaks! {
    a_newtype_becomes_a_struct, "`sku: string`",
    { sku: Sku } { pub(crate) struct Sku(String); }
    => { sku: Sku } { pub(crate) struct Sku { code: String } }
}

breaks! {
    a_nested_struct_is_flattened, "no sample of it can be made",
    { line: Line } { pub(crate) struct Line { sku: String } }
    => { #[serde(flatten)] line: Line } { pub(crate) struct Line { sku: String } }
}

breaks! {
    a_variant_is_removed, "unknown variant",
    { paid: Payment } { pub(crate) enum Payment { Cash, Card { last4: String }, Voucher(String) } }
    => { paid: Payment } { pub(crate) enum Payment { Cash, Card { last4: String } } }
}

breaks! {
    a_variant_has_a_new_name, "unknown variant",
    { paid: Payment } { pub(crate) enum Payment { Cash, Voucher(String) } }
    => { paid: Payment } { pub(crate) enum Payment { Cash, Coupon(String) } }
}

breaks! {
    a_variant_gets_contents, "unit variant, expected newtype variant",
    { paid: Payment } { pub(crate) enum Payment { Cash, Voucher(String) } }
    => { paid: Payment } { pub(crate) enum Payment { Cash(u8), Voucher(String) } }
}

breaks! {
    contents_of_a_variant_become_fields, "`paid",
    { paid: Payment } { pub(crate) enum Payment { Card(String) } }
    => { paid: Payment } { pub(crate) enum Payment { Card { last4: String } } }
}

breaks! {
    a_field_of_a_variant_has_a_new_name, "missing field `digits`",
    { paid: Payment } { pub(crate) enum Payment { Card { last4: String } } }
    => { paid: Payment } { pub(crate) enum Payment { Card { digits: String } } }
}

breaks! {
    a_field_of_a_variant_is_removed, "field `paid.Card.kind: string` is lost",
    { paid: Payment } { pub(crate) enum Payment { Card { last4: String, kind: String } } }
    => { paid: Payment } { pub(crate) enum Payment { Card { last4: String } } }
}

breaks! {
    an_enum_gets_a_tag_beside_its_contents, "paid",
    { paid: Payment } { pub(crate) enum Payment { Cash, Card { last4: String } } }
    => { paid: Payment } { #[serde(tag = "type", content = "of")] pub(crate) enum Payment { Cash, Card { last4: String } } }
}

breaks! {
    an_enum_gets_a_tag_within_its_contents, "paid",
    { paid: Payment } { pub(crate) enum Payment { Cash, Card { last4: String } } }
    => { paid: Payment } { #[serde(tag = "type")] pub(crate) enum Payment { Cash, Card { last4: String } } }
}

breaks! {
    an_enum_loses_its_names, "untagged enum Payment",
    { paid: Payment } { pub(crate) enum Payment { Cash, Card { last4: String } } }
    => { paid: Payment } { #[serde(untagged)] pub(crate) enum Payment { Cash, Card { last4: String } } }
}
