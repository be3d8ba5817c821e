use eventbus::{
    DomainEvent, EventSet, Name, NewEvent, StreamId, Version,
    event::{DecodeError, EventRegistry, FieldError, Fields},
    prelude::*,
};

/// A reading, whose unit changed twice and whose name once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Sensor", version = 5, was("TemperatureRead", "Read"), upcast(ReadV1, ReadV2, from_3, _))]
struct Measured {
    millikelvin: u64,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Deserialize, OldEvent)]
#[event(of = Measured, version = 1)]
struct ReadV1 {
    fahrenheit: f64,
}

#[derive(Deserialize, OldEvent)]
#[event(of = Measured, version = 2)]
struct ReadV2 {
    celsius: f64,
}

impl From<ReadV1> for ReadV2 {
    fn from(old: ReadV1) -> Self {
        Self { celsius: (old.fahrenheit - 32.0) / 1.8 }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("below absolute zero")]
struct TooCold;

impl TryFrom<ReadV2> for Fields {
    type Error = eventbus::BoxError;

    fn try_from(old: ReadV2) -> Result<Self, Self::Error> {
        let kelvin = old.celsius + 273.15;
        if kelvin < 0.0 {
            return Err(TooCold.into());
        }
        Ok(Self::from_value(&serde_json::json!({ "kelvin": kelvin }))?)
    }
}

/// Version 4 counts in thousandths.
fn from_3(fields: &mut Fields) -> Result<(), FieldError> {
    let kelvin: f64 = fields.take("kelvin")?;
    fields.insert("millikelvin", (kelvin * 1_000.0).round() as u64)
}

/// An event without fields that had one, by an upcaster that cannot refuse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Sensor", version = 2, upcast(upcast_from_1))]
struct Calibrated;

fn upcast_from_1(fields: &mut Fields) {
    fields.remove("by");
}

#[derive(Debug, Clone, PartialEq, DomainEvent)]
enum OfSensor {
    Measured(Measured),
    Calibrated(Calibrated),
}

fn stored(name: &'static str, version: u32, payload: &str) -> RecordedEvent {
    let stream = StreamId::parse("Sensor", "1").unwrap();
    NewEvent::new(Name::from_static(name), version, payload).recorded_as(stream, Version::FIRST, None)
}

#[test]
fn every_version_is_read_as_todays() {
    let measured = |millikelvin| Measured { millikelvin, note: None };
    for (name, version, payload, millikelvin) in [
        ("Read", 0, r#"{"fahrenheit":32}"#, 273_150), // of a foreign writer
        ("Read", 1, r#"{"fahrenheit":32}"#, 273_150),
        ("TemperatureRead", 1, r#"{"fahrenheit":212}"#, 373_150),
        ("TemperatureRead", 2, r#"{"celsius":-273.15}"#, 0),
        ("TemperatureRead", 3, r#"{"kelvin":4}"#, 4_000),
        ("Measured", 4, r#"{"millikelvin":7}"#, 7),
        ("Measured", 5, r#"{"millikelvin":18446744073709551615}"#, u64::MAX),
    ] {
        let record = stored(name, version, payload);
        assert_eq!(record.decode::<Measured>().unwrap(), measured(millikelvin), "{name}, version {version}");
        assert_eq!(record.decode::<OfSensor>().unwrap(), measured(millikelvin).into(), "{name}, version {version}");
        let envelope = record.decode::<Envelope<Measured>>().unwrap();
        assert_eq!((envelope.metadata().event_type().as_str(), &*envelope), (name, &measured(millikelvin)));
    }
    assert_eq!(stored("Calibrated", 1, r#"{"by":"ada"}"#).decode::<Calibrated>().unwrap(), Calibrated);
}

#[test]
fn what_is_saved_has_todays_name_and_version() {
    let event = NewEvent::from_event(&Measured { millikelvin: 1, note: None }).unwrap();
    assert_eq!((event.event_type().as_str(), event.schema_version()), ("Measured", 5));
}

#[test]
fn a_fault_names_the_version_and_where_the_chain_broke() {
    let error = |version, payload| stored("Read", version, payload).decode::<Measured>().unwrap_err();
    let of_v1 = error(1, r#"{"fahrenheit":"cold"}"#);
    assert_eq!(
        of_v1.to_string(),
        "payload of event `Read` (version 1) does not fit `macros::versions::ReadV1`: field `fahrenheit`: \
         invalid type: string, expected f64"
    );
    let refused = error(1, r#"{"fahrenheit":-500}"#);
    assert_eq!(
        refused.to_string(),
        "event `Read` (version 1): the upcaster from version 2 refuses its fields: below absolute zero"
    );
    let source = std::error::Error::source(&refused).unwrap();
    assert!(source.downcast_ref::<TooCold>().is_some(), "{source:?}");
    let missing = error(3, "{}");
    assert_eq!(
        missing.to_string(),
        "event `Read` (version 3): the upcaster from version 3 refuses its fields: missing field `kelvin`"
    );
    let newer = error(6, r#"{"millikelvin":1}"#);
    assert!(matches!(newer, DecodeError::NewerVersion { found: 6, known: 5, .. }), "{newer}");
    let end = error(4, r#"{"millikelvin":-1}"#);
    assert!(
        end.to_string().starts_with("payload of event `Read` (version 4) does not fit `macros::versions::Measured`")
    );
}

#[test]
fn former_names_are_known_to_filters_and_the_registry() {
    assert_eq!(Measured::EVENTS.event_types(), ["Measured", "Read", "TemperatureRead"]);
    assert!(OfSensor::EVENTS.matches("Read") && !OfSensor::EVENTS.matches("Written"));
    let registry = EventRegistry::discover();
    for name in ["Measured", "Read", "TemperatureRead"] {
        assert_eq!(registry.get(name).unwrap().event_type, Measured::EVENT_TYPE);
    }
    assert_eq!(registry.iter().filter(|event| event.event_type == "Measured").count(), 1);
    assert!(registry.iter().all(|event| event.event_type != "Read"));
}
