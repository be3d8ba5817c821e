use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{Traced, trace};

fn shape_of<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let Traced { shape, .. } = trace::<T>().unwrap();
    shape.iter().map(|(path, kind)| format!("{path}: {kind}")).collect()
}

fn json_of<T: serde::de::DeserializeOwned + Serialize>() -> Vec<String> {
    trace::<T>().unwrap().samples.iter().map(|sample| serde_json::to_string(sample).unwrap()).collect()
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    customer: String,
    id: uuid::Uuid,
    #[serde(default, alias = "amount", alias = "a_total")]
    total: u64,
    tip: Option<f64>,
    lines: Vec<Line>,
    paid: Payment,
    labels: BTreeMap<String, bool>,
    by_day: HashMap<u8, (i8, char)>,
    percent: Percent,
    at: At,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    sku: Sku,
    kind: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sku(String);

#[derive(Debug, Serialize, Deserialize)]
enum Payment {
    Cash,
    Card { last4: String, kind: Kind },
    Voucher(Sku),
    Both(Box<Line>, u8),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Small,
    #[serde(alias = "XL")]
    Large,
}

/// Accepts numbers up to 100.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "u8")]
struct Percent(u8);

impl TryFrom<u8> for Percent {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        if number <= 100 { Ok(Self(number)) } else { Err(format!("{number} is too much")) }
    }
}

/// Accepts times as RFC 3339 writes them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct At(String);

impl TryFrom<String> for At {
    type Error = time::error::Parse;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        time::OffsetDateTime::parse(&text, &time::format_description::well_known::Rfc3339)?;
        Ok(Self(text))
    }
}

#[test]
fn every_field_of_nested_types_is_in_the_shape() {
    assert_eq!(
        shape_of::<Order>(),
        [
            "at: time",
            "by_day: map",
            "by_day{key}: u8",
            "by_day{}[0]: i8",
            "by_day{}[1]: char",
            "customer: string",
            "id: uuid",
            "labels: map",
            "labels{key}: string",
            "labels{}: bool",
            "lines: list",
            "lines[].kind: enum",
            "lines[].kind.Large: variant",
            "lines[].kind.Small: variant",
            "lines[].kind.XL: variant",
            "lines[].sku: string",
            "paid: enum",
            "paid.Both[0].kind: enum",
            "paid.Both[0].kind.Large: variant",
            "paid.Both[0].kind.Small: variant",
            "paid.Both[0].kind.XL: variant",
            "paid.Both[0].sku: string",
            "paid.Both[1]: u8",
            "paid.Card.kind: enum",
            "paid.Card.kind.Large: variant",
            "paid.Card.kind.Small: variant",
            "paid.Card.kind.XL: variant",
            "paid.Card.last4: string",
            "paid.Cash: variant",
            "paid.Voucher: string",
            "percent: u8",
            "tip: f64?",
            "total: u64",
        ]
    );
}

#[test]
fn samples_have_every_variant_and_most_and_least_of_what_is_optional() {
    let samples = json_of::<Order>();
    for part in
        [r#""paid":"Cash""#, r#""kind":"Large"}}"#, r#"{"Voucher":"#, r#"{"Both":[{"#, r#""tip":null"#, r#""lines":[]"#]
    {
        assert!(samples.iter().any(|sample| sample.contains(part)), "{part} in {samples:#?}");
    }
    let (most, least) = (&samples[0], samples.last().unwrap());
    assert!(most.contains(r#""lines":[{"sku":"text "#) && most.contains(r#""labels":{"text "#), "{most}");
    assert!(most.contains(r#""total":184467440737095516"#) && least.contains(r#""labels":{}"#), "{most}, {least}");
}

/// Holds itself through a list, an option and a map.
#[derive(Debug, Serialize, Deserialize)]
struct Folder {
    name: String,
    folders: Vec<Folder>,
    parent: Option<Box<Folder>>,
    links: BTreeMap<String, Folder>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Expression {
    Add(Box<Expression>, Box<Expression>),
    Negate { of: Box<Expression> },
    Number(i32),
}

#[derive(Debug, Serialize, Deserialize)]
struct Endless {
    next: Box<Endless>,
}

#[test]
fn a_type_that_holds_itself_is_traced_to_a_depth() {
    let samples = json_of::<Folder>();
    assert!(samples[0].matches(r#""name""#).count() > 1, "{samples:#?}");
    let samples = json_of::<Expression>();
    for part in [r#"{"Add":[{"#, r#"{"Negate":{"of":{"#, r#"{"Number":"#] {
        assert!(samples.iter().any(|sample| sample.contains(part)), "{part} in {samples:#?}");
    }
    assert!(trace::<Endless>().unwrap_err().to_string().contains("always holds itself"));
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", content = "of")]
enum Adjacent {
    Number(u8),
    Text(String),
    Nothing,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "only traced")]
#[serde(tag = "type")]
enum Internal {
    Number { number: u8 },
    Text { text: String },
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "only traced")]
struct Flat {
    id: u8,
    #[serde(flatten)]
    line: Flattened,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "only traced")]
struct Flattened {
    sku: String,
}

#[test]
fn what_a_deserialize_does_not_say_is_named() {
    let samples = json_of::<Adjacent>();
    for sample in [r#"{"type":"Number","of":254}"#, r#"{"type":"Nothing"}"#] {
        assert!(samples.iter().any(|other| other == sample), "{sample} in {samples:#?}");
    }
    let internal = trace::<BTreeMap<String, Internal>>().unwrap_err();
    assert_eq!(internal.path, "{}");
    assert!(trace::<Flat>().is_err());
}

#[test]
fn values_of_any_kind_have_a_sample() {
    let shape = shape_of::<(serde_json::Value, Option<()>, [u8; 2])>();
    assert_eq!(shape, ["[0]: any", "[1]: null?", "[2][0]: u8", "[2][1]: u8"]);
}

/// Holds itself without a name that serde says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Forest {
    trees: Vec<Forest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pair(u8, Vec<Pair>);

#[derive(Debug, Serialize, Deserialize)]
struct Node {
    children: Vec<Child>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Child {
    kind: Kind,
    node: Node,
}

/// One variant's name begins another's.
#[derive(Debug, Serialize, Deserialize)]
enum Prefixes {
    Card(u8),
    CardPresent { kind: Kind },
}

#[test]
fn types_that_hold_themselves_without_a_name_end_too() {
    assert!(!json_of::<Forest>().is_empty());
    assert!(json_of::<Pair>()[0].starts_with("[254,["));
    assert!(json_of::<Node>().iter().any(|sample| sample.contains(r#""kind":"Large""#)));
    let prefixes = json_of::<Prefixes>();
    assert!(prefixes.iter().any(|sample| sample.contains(r#"{"CardPresent":{"kind":"Large"}}"#)), "{prefixes:?}");
}
