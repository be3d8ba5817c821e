//! The events that both sides know: `tests/python/events.py` has the same types and the same values.

use std::collections::BTreeMap;

use eventbus::{
    EventContext, EventId, Name, NewEvent, RecordedEvent, StreamId, Uuid, Version, event::Attributes, prelude::*,
};
use time::{
    Date, OffsetDateTime, PrimitiveDateTime, Time,
    macros::{date, datetime, time},
};

time::serde::format_description!(clock, Time, "[hour]:[minute]:[second]");
time::serde::format_description!(naive, PrimitiveDateTime, "[year]-[month]-[day]T[hour]:[minute]:[second]");
time::serde::format_description!(
    utc_micros,
    PrimitiveDateTime,
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
);

/// One field for each kind of value; decimal numbers and spans of time are texts on the wire.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Sample", version = 2)]
pub(crate) struct AllKinds {
    text: String,
    data: String,
    yes: bool,
    count: i64,
    beyond_float: u64,
    beyond_64_bits: i128,
    floats: Vec<f64>,
    amounts: Vec<String>,
    day: Date,
    #[serde(with = "clock")]
    at: Time,
    #[serde(with = "time::serde::rfc3339")]
    second: OffsetDateTime,
    #[serde(with = "utc_micros")]
    micros: PrimitiveDateTime,
    #[serde(with = "time::serde::rfc3339")]
    elsewhere: OffsetDateTime,
    #[serde(with = "naive")]
    naive: PrimitiveDateTime,
    spans: Vec<String>,
    size: Size,
    grade: u8,
    owner: Uuid,
    line: Line,
    lines: Vec<Line>,
    pair: (i64, String),
    prices: BTreeMap<String, String>,
    maybe: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Size {
    Small,
    Large,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    sku: String,
    price: String,
    note: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Sample")]
pub(crate) struct NoFields;

#[derive(Debug, Clone, DomainEvent)]
#[allow(clippy::large_enum_variant, reason = "there are three of them")]
pub(crate) enum Sample {
    AllKinds(AllKinds),
    NoFields(NoFields),
}

/// Returns the samples, each as published and as handled.
pub(crate) fn samples() -> Vec<(RecordedEvent, Sample)> {
    let plain = || EventContext::default().with_correlation(Uuid::from_u128(300));
    let full = plain()
        .with_tenant(Uuid::from_u128(200))
        .with_actor("Zoë \"x\"\n")
        .with_causation(Uuid::from_u128(400))
        .with_attributes(Attributes::parse(ATTRIBUTES).unwrap());
    let (rich, bare) = (rich(), bare());
    let [first, second] = [&rich, &bare].map(|event| NewEvent::from_event(event).unwrap());
    let third = NewEvent::from_event(&NoFields).unwrap();
    let recorded = |id, event: NewEvent, at, context, aggregate: u128, version| {
        let stream = StreamId::new(Name::from_static("Sample"), Uuid::from_u128(aggregate).into());
        let event = event.with_event_id(EventId::from(Uuid::from_u128(id))).with_occurred_at(at).with_context(context);
        event.recorded_as(stream, Version::new(version), None)
    };
    let records = [
        recorded(1, first, datetime!(2026-01-02 03:04:05.678_9 UTC), full, 100, 7),
        recorded(2, second, datetime!(2026-01-02 03:04:05 UTC), plain(), 100, 8),
        recorded(3, third, datetime!(2026-01-02 03:04:05.000_001 UTC), plain(), 101, 1),
    ];
    let events = [Sample::AllKinds(rich), Sample::AllKinds(bare), Sample::NoFields(NoFields)];
    records.into_iter().zip(events).collect()
}

const ATTRIBUTES: &str = r#"{"z":1,"a":[null,true,1.5,9007199254740993],"größe":{"日本":"🦀","empty":{}}}"#;

#[rustfmt::skip]
const FLOATS: [f64; 10] =
    [100.0, 0.1, -0.0, 1e16, 1e15, 123_456_789_012_345_680.0, 1e-5, 1e-7, 5e-324, 1.797_693_134_862_315_7e308];

fn rich() -> AllKinds {
    AllKinds {
        text: ('\u{1}'..' ').collect::<String>() + "\"\\/\x7fé\u{2028}日本🦀e\u{301}",
        data: "café".into(),
        yes: true,
        count: -42,
        beyond_float: (1 << 53) + 1,
        beyond_64_bits: -(1 << 65) - 1,
        floats: FLOATS.into(),
        amounts: ["1234.5600", "-0.00", "1E+3", "12345678901234567890.123456789"].map(Into::into).into(),
        day: date!(2024 - 02 - 29),
        at: time!(3:04:05),
        second: datetime!(2026-01-02 03:04:05 UTC),
        micros: datetime!(2026-01-02 03:04:05.12),
        elsewhere: datetime!(2026-01-02 03:04:05 +5:30),
        naive: datetime!(2026-01-02 03:04:05),
        spans: ["P1DT2H3.5S", "PT0S", "-PT23H59M59.999999S"].map(Into::into).into(),
        size: Size::Large,
        grade: 2,
        owner: "feaf2364-cce1-4ed3-9a63-624520185ae3".parse().unwrap(),
        line: Line::new("a-1", "9.90", None),
        lines: vec![Line::new("b-2", "0.10", Some("gift")), Line::new("", "0", Some(""))],
        pair: (1, "one".into()),
        prices: [("eur", "1.10"), ("usd", "1.20")].map(|(currency, price)| (currency.into(), price.into())).into(),
        maybe: Some("yes".into()),
    }
}

fn bare() -> AllKinds {
    AllKinds {
        text: String::new(),
        data: String::new(),
        yes: false,
        count: 0,
        beyond_float: u64::MAX,
        beyond_64_bits: i128::MAX,
        floats: vec![],
        amounts: vec![],
        day: date!(0001 - 01 - 01),
        at: time!(23:59:59),
        second: datetime!(1969-12-31 23:59:59 UTC),
        micros: datetime!(9999-12-31 23:59:59.999_999),
        elsewhere: datetime!(2026-01-02 03:04:05 -8),
        naive: datetime!(1970-01-01 0:00),
        spans: vec![],
        size: Size::Small,
        grade: 1,
        owner: Uuid::nil(),
        line: Line::new("c", "-1.5", Some("é")),
        lines: vec![],
        pair: (-1, String::new()),
        prices: BTreeMap::new(),
        maybe: None,
    }
}

impl Line {
    fn new(sku: &str, price: &str, note: Option<&str>) -> Self {
        Self { sku: sku.into(), price: price.into(), note: note.map(Into::into) }
    }
}
