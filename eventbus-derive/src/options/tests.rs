use proc_macro2::TokenStream;
use quote::quote;

use super::*;
use crate::mistakes::Mistakes;

const KNOWN: &[Known] = &[
    Known::path("aggregate", "`aggregate = Order`"),
    Known::text("type", "`type = \"order.created\"`"),
    Known::number("version", "`version = 2`"),
    Known::list("events", "`events(OrderCreated)`"),
    Known::ident("event", "`event = OrderEvent`"),
    Known::flag("manual", "`#[handler(manual)]`"),
];

fn read(tokens: TokenStream) -> (Options, Mistakes) {
    let mut mistakes = Mistakes::default();
    let options = Options::of_arguments("event", KNOWN, tokens, &mut mistakes);
    (options, mistakes)
}

#[test]
fn the_nearest_known_key_is_suggested() {
    let keys = ["name", "group", "retries", "timeout_ms", "crate"];
    for (key, near) in [
        ("grup", Some("group")),
        ("retry", Some("retries")),
        ("timeout", Some("timeout_ms")),
        ("nmae", Some("name")),
        ("x", None),
        ("ge", None),
        ("priority", None),
    ] {
        assert_eq!(suggest::nearest(key, &keys), near, "{key}");
    }
}

#[test]
fn values_are_read_by_kind() {
    let (options, mut mistakes) = read(quote! {
        aggregate = shop::Order, type = "a,b", version = 3, events(A<B, C>, d::E as F,), manual
    });
    let path = options.path("aggregate", &mut mistakes);
    assert_eq!(path.map(crate::text::code_of).as_deref(), Some("shop::Order"));
    let text = options.text("type", &mut mistakes);
    assert_eq!(text.map(|text| text.value()).as_deref(), Some("a,b"));
    assert_eq!(options.number("version", 1..=u32::MAX, &mut mistakes), Some(3));
    let list = options.list("events", &mut mistakes);
    assert_eq!(list.map(|(_, members)| members.len()), Some(2));
    assert!(options.flag("manual", &mut mistakes));
    assert!(options.ident("event", &mut mistakes).is_none());
    assert_eq!(mistakes.texts(), [""; 0]);
}

#[test]
fn all_mistakes_are_found_at_once() {
    let (options, mut mistakes) = read(quote! {
        agregate = Order, "lonely", verison = <a, b>, type = 7, type = "twice", version = -1, manual = true, events = x, event "x"
    });
    options.text("type", &mut mistakes);
    options.number("version", 1..=u32::MAX, &mut mistakes);
    options.flag("manual", &mut mistakes);
    options.list("events", &mut mistakes);
    let all = "(options: aggregate, type, version, events, event, manual)";
    assert_eq!(
        mistakes.texts(),
        [
            &format!("unknown `event` option `agregate`; did you mean `aggregate`? {all}"),
            "expected an option: `key = value`",
            &format!("unknown `event` option `verison`; did you mean `version`? {all}"),
            "`type` is given twice",
            "expected `=` after `event`",
            "`type` expects a string, as in `type = \"order.created\"`",
            "`version` is a number from 1 to 4294967295",
            "`manual` expects no value, as in `#[handler(manual)]`",
            "`events` expects a list, as in `events(OrderCreated)`",
        ]
    );
}

#[test]
fn an_option_of_the_other_derive_names_that_derive() {
    let (_, mistakes) = read(quote!(of = OrderCreated));
    let texts = mistakes.texts();
    assert!(
        texts[0].ends_with("`of` belongs to `OldEvent`: `DomainEvent` and `OldEvent` are not both on one struct"),
        "{texts:?}"
    );
}

#[test]
fn a_key_that_is_a_raw_identifier_is_that_key() {
    let (options, mut mistakes) = read(quote!(r#type = "order.created", r#manual));
    let text = options.text("type", &mut mistakes);
    assert_eq!(text.map(|text| text.value()).as_deref(), Some("order.created"));
    assert!(options.flag("manual", &mut mistakes) && mistakes.is_empty());
    let (options, mut mistakes) = read(quote!(r#type = 7, type = "twice"));
    options.text("type", &mut mistakes);
    assert_eq!(
        mistakes.texts(),
        ["`type` is given twice", "`type` expects a string, as in `type = \"order.created\"`"]
    );
}

#[test]
fn numbers_have_limits() {
    let (options, mut mistakes) = read(quote!(version = 0));
    assert_eq!(options.number("version", 1..=u32::MAX, &mut mistakes), None);
    assert_eq!(mistakes.texts(), ["`version` is a number from 1 to 4294967295"]);
    let (options, mut mistakes) = read(quote!(version = 4_294_967_296));
    assert_eq!(options.number("version", 1..=u32::MAX, &mut mistakes), None);
    assert!(!mistakes.is_empty());
    let (options, mut mistakes) = read(quote!(version = 4_294_967_295));
    assert_eq!(options.number("version", 1..=u32::MAX, &mut mistakes), Some(u32::MAX));
    assert!(mistakes.is_empty());
    let (options, mut mistakes) = read(quote!(version = "1"));
    assert_eq!(options.number("version", 1..=u32::MAX, &mut mistakes), None);
    assert_eq!(mistakes.texts(), ["`version` expects a whole number, as in `version = 2`"]);
}
