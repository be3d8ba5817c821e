//! The repository stores no event that would not read back.

use std::collections::BTreeMap;

use eventbus::{InMemoryEventStore, Never, NewEvent, Version, port::ReadFeed as _, prelude::*};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Reading {
    celsius: f64,
    #[serde(default)]
    single: f32,
    #[serde(default)]
    maybe: Option<f64>,
    #[serde(default)]
    by_room: BTreeMap<String, Vec<f64>>,
    #[serde(default)]
    shape: Option<Shape>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Shape {
    Point(f64, f64),
    Circle { radius: f64 },
    Length(f64),
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Sensor)]
struct Measured {
    reading: Reading,
    #[serde(flatten)]
    more: BTreeMap<String, f64>,
}

/// The name of its owner is written and not read.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Sensor)]
struct Renamed {
    owner: Owner,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Owner {
    #[serde(rename(serialize = "newName", deserialize = "oldName"))]
    name: String,
}

/// A part of its key is read and not written.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Sensor)]
struct Skipped {
    key: Key,
    seen: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Key {
    #[serde(skip_serializing)]
    #[allow(dead_code, reason = "never read back")]
    secret: String,
}

/// Its field is written in a different form than it is read.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Sensor)]
struct Spelled {
    of: Words,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Words {
    #[serde(serialize_with = "as_words")]
    number: u32,
    state: State,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum State {
    #[serde(rename(serialize = "s3cret-state"))]
    Known,
    Other,
}

fn as_words<S: serde::Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    if *number == 42 { serializer.serialize_str("s3cret-words") } else { serializer.serialize_u32(*number) }
}

#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate(events(Measured, Renamed, Skipped, Spelled))]
struct Sensor {
    events: u32,
}

impl Apply for Sensor {
    fn apply(&mut self, _: &SensorEvent) {
        self.events += 1;
    }
}

fn measured(reading: Reading) -> SensorEvent {
    Measured { reading, more: BTreeMap::new() }.into()
}

fn reading(change: impl FnOnce(&mut Reading)) -> SensorEvent {
    let mut reading = Reading::default();
    change(&mut reading);
    measured(reading)
}

/// Each event that would not read back, its field, and the reason.
fn unreadable() -> Vec<(SensorEvent, &'static str, &'static str)> {
    const FINITE: &str = "not a finite number";
    let number = || Words { number: 42, state: State::Other };
    vec![
        (reading(|it| it.celsius = f64::NAN), "`reading.celsius`", FINITE),
        (reading(|it| it.celsius = f64::INFINITY), "`reading.celsius`", FINITE),
        (reading(|it| it.single = f32::NEG_INFINITY), "`reading.single`", FINITE),
        (reading(|it| it.maybe = Some(f64::NAN)), "`reading.maybe`", FINITE),
        (
            reading(|it| it.by_room = BTreeMap::from([("a".into(), vec![1.0]), ("b".into(), vec![2.0, f64::NAN])])),
            "`reading.by_room.b[1]`",
            FINITE,
        ),
        (reading(|it| it.shape = Some(Shape::Point(0.0, f64::NAN))), "`reading.shape.Point[1]`", FINITE),
        (reading(|it| it.shape = Some(Shape::Circle { radius: f64::NAN })), "`reading.shape.Circle.radius`", FINITE),
        (reading(|it| it.shape = Some(Shape::Length(f64::NAN))), "`reading.shape.Length`", FINITE),
        (
            Measured { reading: Reading::default(), more: BTreeMap::from([("depth".into(), f64::NAN)]) }.into(),
            "`depth`",
            FINITE,
        ),
        (Renamed { owner: Owner { name: "s3cret".into() } }.into(), "`oldName`", "missing field"),
        (
            Skipped { key: Key { secret: "s3cret".into() }, seen: 1 }.into(),
            "`key`",
            "missing field `secret` (`skip_serializing_if` needs `#[serde(default)]` beside it)",
        ),
        (Spelled { of: number() }.into(), "`of.number`", "invalid type: string, expected u32"),
        (
            Spelled { of: Words { number: 1, state: State::Known } }.into(),
            "`of.state`",
            "unknown variant, expected `Known` or `Other`",
        ),
    ]
}

fn assert_names(error: &(dyn std::error::Error + 'static), event: &SensorEvent, field: &str, reason: &str) {
    let event_type = format!("{event:?}");
    let event_type = event_type.split(['(', ' ']).next().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("event `{event_type}`")), "no type: {text}");
    assert!(text.contains(field), "not {field}: {text}");
    assert!(text.contains(reason), "not {reason}: {text}");
    let mut chain = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        chain += &format!("{error} {error:?}");
        source = error.source();
    }
    assert!(!chain.contains("s3cret"), "a value is shown: {chain}");
}

#[tokio::test]
async fn an_event_that_would_not_read_back_is_refused_at_every_save() {
    let store = InMemoryEventStore::new();
    let sensors = AggregateRepository::<Sensor>::new(store.clone());
    let id: AggregateId = "porch".parse().unwrap();
    sensors.upsert(&id, |_| Ok::<_, Never>(reading(|it| it.celsius = 20.5))).await.unwrap();
    for (event, field, reason) in unreadable() {
        let mut sensor = sensors.load(&id).await.unwrap();
        sensor.record(reading(|it| it.celsius = 1.0)).record(event.clone());
        let error = sensors.save(&mut sensor).await.unwrap_err();
        assert_names(&error, &event, field, reason);
        let error = sensors.update(&id, |_| Ok::<_, Never>(event.clone())).await.unwrap_err();
        assert_names(&error, &event, field, reason);
        let error = sensors.upsert(&AggregateId::new(), |_| Ok::<_, Never>(event.clone())).await.unwrap_err();
        assert_names(&error, &event, field, reason);
        let error = sensors.create(&AggregateId::new(), |_| Ok::<_, Never>(event.clone())).await.unwrap_err();
        assert_names(&error, &event, field, reason);
        let encoded = eventbus::event::EncodeEvent::encode(&event).unwrap_err();
        assert_names(&encoded, &event, field, reason);
    }
    let not_finite = Measured { reading: Reading { celsius: f64::NAN, ..Reading::default() }, more: BTreeMap::new() };
    assert!(NewEvent::from_event(&not_finite).is_err());
    assert!(RecordedEvent::from_event(&not_finite, AggregateId::new(), Version::FIRST).is_err());

    assert_eq!(store.head().await.unwrap().get(), 1, "nothing of all that is stored");
    assert_eq!(sensors.load(&id).await.unwrap().events, 1);
}

/// Accepted numbers are stored as serde_json writes them.
#[test]
fn finite_numbers_are_written_as_ever() {
    for event in [
        Measured {
            reading: Reading {
                celsius: -0.0,
                single: 0.1,
                maybe: Some(5e-324),
                by_room: BTreeMap::from([("a \"b\"".into(), vec![1.0, f64::MAX])]),
                shape: Some(Shape::Circle { radius: 2.0 }),
            },
            more: BTreeMap::from([("depth".into(), 2.5)]),
        },
        Measured {
            reading: Reading { shape: Some(Shape::Point(1.0, 2.0)), ..Reading::default() },
            more: BTreeMap::new(),
        },
        Measured { reading: Reading { shape: Some(Shape::Length(3.0)), ..Reading::default() }, more: BTreeMap::new() },
    ] {
        assert_eq!(NewEvent::from_event(&event).unwrap().payload(), serde_json::to_string(&event).unwrap());
    }
}
