//! The value types: accepted values, refused values, and their errors.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eventbus::{
    Error, EventContext, EventId, ExpectedVersion, Name, NewEvent, StreamId, Uuid, Version,
    delivery::{ActiveSubscriber, DeliveryAttempts, Limits, Outcome, RetryPolicy, dispatch, handler_span},
    event::{Attributes, EncodeFault, EventFault, EventFilter, NameFault, parse_uuid},
    handler::{Delivery, HandlerErrorKind, StateMap},
    port::{AppendSignal, PublishError, Subscriber},
    prelude::*,
};
use futures_util::FutureExt as _;
use time::{OffsetDateTime, macros::datetime};

#[test]
fn aggregate_ids_take_natural_keys_and_refuse_what_keys_cannot_hold() {
    for good in ["12345", "src/main.rs", "größe", "a b", &"x".repeat(255)] {
        let id: AggregateId = good.parse().unwrap();
        assert_eq!((id.as_str(), id.to_string().as_str()), (good, good));
    }
    for (bad, reason, text) in [
        ("", NameFault::Empty, "invalid aggregate id ``: it is empty"),
        (
            "a\tb",
            NameFault::ControlCharacter { at: 1 },
            "invalid aggregate id `a\\tb`: it holds a control character at byte 1",
        ),
    ] {
        let error = bad.parse::<AggregateId>().unwrap_err();
        assert_eq!((error.reason, error.to_string().as_str()), (reason, text));
    }
    let long = AggregateId::try_from("é".repeat(128)).unwrap_err();
    assert_eq!(long.reason, NameFault::TooLong { bytes: 256 });
    assert!(long.to_string().ends_with("it has 256 bytes, at most 255 are allowed"));
    assert!(AggregateId::new() < AggregateId::new(), "later ids sort after earlier ones");
    let by_serde: Result<AggregateId, _> = serde_json::from_str("\"\\u0000\"");
    assert!(by_serde.unwrap_err().to_string().contains("control character"));
}

#[test]
fn streams_are_named_by_two_valid_names() {
    assert_eq!(StreamId::parse("Order", "7").unwrap().to_string(), "Order/7");
    assert_eq!(StreamId::parse("", "7").unwrap_err().what, "aggregate type");
    assert_eq!(StreamId::parse("Order", "").unwrap_err().what, "aggregate id");
    let long = Name::new("group", "x".repeat(255)).unwrap();
    let prefixed = Name::prefixed("group:", &long);
    assert!(prefixed.len() == 255 && prefixed.starts_with("group:x"));
    let long = Name::new("group", format!("{}of orders", "x".repeat(246))).unwrap();
    assert!(Name::prefixed("group:", &long).ends_with("xof orders"), "the end tells names apart");
}

#[test]
fn ids_that_are_no_uuids_are_named() {
    let id = EventId::new();
    assert_eq!(EventId::parse(&id.to_string().to_uppercase()).unwrap(), id);
    let error = EventId::parse("order-7").unwrap_err();
    assert_eq!(error.to_string(), "invalid event id `order-7`: not a UUID");
    let error = parse_uuid("tenant id", &"\u{7}".repeat(50)).unwrap_err();
    assert_eq!(error.to_string(), format!("invalid tenant id `{}`: not a UUID", "\\u{7}".repeat(40)));
}

#[test]
fn expectations_match_versions() {
    let (none, first) = (Version::NONE, Version::FIRST);
    for (expected, at_none, at_first, text) in [
        (ExpectedVersion::Any, true, true, "any version"),
        (ExpectedVersion::NoStream, true, false, "no stream"),
        (ExpectedVersion::StreamExists, false, true, "an existing stream"),
        (ExpectedVersion::Exact(none), true, false, "version 0"),
        (ExpectedVersion::Exact(first), false, true, "version 1"),
    ] {
        assert_eq!((expected.matches(none), expected.matches(first)), (at_none, at_first), "{expected}");
        assert_eq!(expected.to_string(), text);
    }
    assert_eq!(Version::new(u64::MAX).as_i64(), i64::MAX);
}

#[test]
fn times_are_kept_in_utc_to_the_microsecond() {
    let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
    assert_eq!(event.occurred_at().nanosecond() % 1_000, 0);
    let given = event.with_occurred_at(datetime!(2026-01-02 03:04:05.123456789 +02:00));
    assert_eq!(given.occurred_at(), datetime!(2026-01-02 01:04:05.123456 UTC));
    assert_eq!(given.occurred_at().offset(), OffsetDateTime::UNIX_EPOCH.offset());
}

#[test]
fn an_event_begins_its_own_conversation_unless_it_is_given_one() {
    let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
    assert_eq!(event.correlation_id(), event.event_id().as_uuid());
    let conversation = Uuid::now_v7();
    let event = event.with_context(EventContext::default().with_correlation(conversation).with_actor("ada"));
    let record = event.recorded_as(StreamId::parse("Note", "1").unwrap(), Version::FIRST, None);
    assert_eq!(record.metadata().correlation_id(), conversation);
    assert_eq!((record.metadata().actor_id(), record.position()), (Some("ada"), None));
}

#[test]
fn an_effect_goes_on_with_the_conversation_of_its_cause_but_not_with_its_attributes() {
    let [conversation, cause, tenant] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    let context = EventContext::default()
        .with_correlation(conversation)
        .with_causation(cause)
        .with_tenant(tenant)
        .with_actor("ada")
        .with_attributes(Attributes::parse(r#"{"ip":"::1"}"#).unwrap());
    let event = NewEvent::new(Name::from_static("Noted"), 1, "{}").with_context(context);
    let record = event.recorded_as(StreamId::parse("Note", "1").unwrap(), Version::FIRST, None);
    let metadata = record.metadata();
    assert_eq!((metadata.causation_id(), metadata.tenant_id()), (Some(cause), Some(tenant)));
    assert_eq!(metadata.attributes().get("ip"), Some("::1".into()));

    let effect = EventContext::caused_by(metadata);
    assert_eq!(effect.correlation_id, Some(conversation));
    assert_eq!(effect.causation_id, Some(metadata.event_id().as_uuid()));
    assert_eq!((effect.tenant_id, effect.actor_id.as_deref()), (Some(tenant), Some("ada")));
    assert!(effect.attributes.is_empty());
}

#[test]
fn records_are_equal_if_all_of_them_is() {
    let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
    let recorded = |version| event.clone().recorded_as(StreamId::parse("Note", "1").unwrap(), version, None);
    let record = recorded(Version::FIRST);
    assert_eq!(record, recorded(Version::FIRST));
    assert_ne!(record, recorded(Version::new(2)));
    assert_ne!(record, RecordedEvent::new(record.metadata().clone(), r#"{"a":1}"#));
}

#[test]
fn attributes_are_a_json_object_kept_as_it_came() {
    let text = r#"{ "b":1, "a":12345678901234567890123 }"#;
    let attributes = Attributes::parse(text).unwrap();
    assert_eq!((attributes.as_json(), attributes.get("b")), (text, Some(1.into())));
    assert!(Attributes::parse(" { } ").unwrap().is_empty() && Attributes::from(serde_json::Map::new()).is_empty());
    assert!(Attributes::parse("{}").unwrap().is_empty() && Attributes::default().as_json() == "{}");
    for bad in ["", "null", "[]", "{", "5"] {
        let error = Attributes::parse(bad).unwrap_err();
        assert_eq!(error.to_string(), "event attributes are not a JSON object", "{bad}");
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Note")]
struct Noted {
    #[serde(flatten)]
    anything: HashMap<String, u8>,
}

#[test]
fn fields_that_would_hide_the_envelope_are_refused_when_encoding() {
    let noted = |key: &str| Noted { anything: HashMap::from([(key.into(), 1)]) };
    assert_eq!(NewEvent::from_event(&noted("colour")).unwrap().payload(), r#"{"colour":1}"#);
    for reserved in eventbus::event::RESERVED_FIELDS {
        let error = NewEvent::from_event(&noted(reserved)).unwrap_err();
        assert!(error.reason == EncodeFault::Invalid(EventFault::ReservedField(reserved)), "{error:?}");
    }
    let report = format!("{:?}", Error::from(NewEvent::from_event(&noted("metadata")).unwrap_err()));
    assert!(report.starts_with("event `Noted` cannot be encoded: its field `metadata` is named like"), "{report}");
    assert!(!report.contains("caused by"), "said twice: {report}");
}

#[test]
fn handler_errors_say_what_becomes_of_the_delivery() {
    let plain: HandlerError = "busy".into();
    assert_eq!((plain.kind(), plain.is_permanent()), (HandlerErrorKind::Retry, false));
    let permanent = HandlerError::permanent("no such customer");
    assert!(permanent.is_permanent());
    let later = HandlerError::retry_after(Duration::from_secs(5), "rate limit");
    assert_eq!(later.kind(), HandlerErrorKind::RetryAfter(Duration::from_secs(5)));
    let nested: HandlerError = eventbus::port::ReadError::Unavailable("disk".into()).into();
    assert_eq!(nested.to_string(), "event store unavailable: disk");
    let any: HandlerError = Error::from(eventbus::port::ReadError::Unavailable("disk".into())).into();
    assert_eq!((any.kind(), any.to_string().as_str()), (HandlerErrorKind::Retry, "event store unavailable: disk"));
}

#[test]
fn a_handler_error_that_a_report_passes_on_says_the_same() {
    fn parse(text: &str) -> Result<u16, HandlerError> {
        text.parse().map_err(HandlerError::permanent)
    }
    fn report(text: &str) -> eventbus::Result<()> {
        parse(text)?;
        Ok(())
    }
    let reported = report("x").unwrap_err();
    assert_eq!(format!("{reported:?}"), "invalid digit found in string", "said once");
    let permanent = HandlerError::from(reported);
    assert!(permanent.is_permanent() && permanent.get_ref().is::<std::num::ParseIntError>(), "{permanent:?}");
    let later = Error::from(HandlerError::retry_after(Duration::from_secs(5), "rate limit"));
    assert_eq!(later.to_string(), "rate limit");
    assert_eq!(HandlerError::from(later).kind(), HandlerErrorKind::RetryAfter(Duration::from_secs(5)));
    let plain = Error::from(HandlerError::from(std::fmt::Error));
    assert!(plain.get_ref().is::<std::fmt::Error>(), "{plain:?}");
}

#[tokio::test]
async fn a_panic_is_told_from_an_error_and_keeps_its_words() {
    async fn kind_and_text(panic: fn()) -> (HandlerErrorKind, String) {
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        let record = event.recorded_as(StreamId::parse("Note", "1").unwrap(), Version::FIRST, None);
        let early = Subscriber::new(Name::from_static("early"), EventFilter::All, move |_| {
            panic();
            Box::pin(async { Ok(()) })
        });
        let late = Subscriber::new(Name::from_static("late"), EventFilter::All, move |_| {
            Box::pin(async move {
                panic();
                Ok(())
            })
        });
        let group = Name::from_static("default");
        let delivery = Delivery::new(record, group.clone());
        let Outcome::Failed { failures, .. } = dispatch(
            &[early, late].map(|subscriber| Arc::new(ActiveSubscriber::new(group.clone(), subscriber))),
            &delivery,
            &DeliveryAttempts::default(),
            &Limits::default(),
            &eventbus::clock::SharedClock::SYSTEM,
            &handler_span,
        )
        .await
        else {
            panic!("it went well")
        };
        assert_eq!(failures.len(), 2);
        assert_eq!(failures[0].error.to_string(), failures[1].error.to_string());
        (failures[0].error.kind(), failures[0].error.to_string())
    }
    let panicked = |text: &str| (HandlerErrorKind::Panicked, format!("handler panicked: {text}"));
    assert_eq!(kind_and_text(|| panic!("boom")).await, panicked("boom"));
    assert_eq!(kind_and_text(|| panic!("boom {}", 1 + std::hint::black_box(1))).await, panicked("boom 2"));
    assert_eq!(kind_and_text(|| std::panic::panic_any(7)).await, panicked("(no message)"));
}

#[test]
fn publishing_is_tried_again_unless_it_cannot_help() {
    let destination = || Name::from_static("memory");
    let source = || "away".into();
    for (error, is_retryable) in [
        (PublishError::Unavailable { destination: destination(), source: source() }, true),
        (PublishError::OutcomeUnknown { destination: destination(), source: source() }, true),
        (PublishError::Full { destination: destination() }, true),
        (PublishError::Refused { destination: destination(), event_id: None, source: source() }, false),
        (PublishError::OwnedByRelay { destination: destination() }, false),
        (PublishError::ShutDown { destination: destination() }, false),
    ] {
        assert_eq!(error.is_retryable(), is_retryable, "{error}");
    }
}

#[tokio::test]
async fn whoever_watches_appends_is_told_and_outlives_the_store() {
    let signal = AppendSignal::default();
    let mut watch = signal.watch();
    assert!(watch.appended().now_or_never().is_none());
    signal.notify();
    signal.notify();
    assert!(watch.appended().now_or_never().is_some());
    assert!(watch.appended().now_or_never().is_none(), "told once of both");
    drop(signal);
    assert!(watch.appended().now_or_never().is_none(), "nothing was appended");
}

#[test]
fn delays_double_up_to_the_longest_and_jitter_stays_below() {
    let policy = RetryPolicy {
        retry_for: Duration::MAX,
        max_retries: Some(9),
        first_delay: Duration::from_millis(10),
        max_delay: Duration::from_secs(1),
    };
    let delays: Vec<_> = (1..=9).map(|attempt| policy.delay(attempt).as_millis()).collect();
    assert_eq!(delays, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
    for attempt in [1, 5, 9, 200] {
        let (delay, jittered) = (policy.delay(attempt), policy.jittered(attempt));
        assert!(delay / 2 <= jittered && jittered <= delay, "{jittered:?} of {delay:?}");
    }
    let jittered: Vec<_> = (0..100).map(|_| policy.jittered(9)).collect();
    assert!(jittered.iter().any(|delay| *delay != jittered[0]), "whoever failed together tries again apart");
}

#[test]
fn state_is_one_value_per_type() {
    let state = StateMap::new().with("a").with(1_u8).with("b");
    assert_eq!((state.get::<&str>(), state.get::<u8>(), state.get::<u16>()), (Some("b"), Some(1), None));
    let shown = format!("{state:?}");
    assert!(shown.contains("&str") && shown.contains("u8"), "{shown}");
}

#[test]
fn a_typed_id_is_the_same_text_as_an_untyped_one() {
    struct Order; // has none of the traits that an id has
    type OrderId = eventbus::Id<Order>;

    let id: OrderId = "4711".parse().unwrap();
    let untyped = AggregateId::from(id.clone());
    assert_eq!((id.as_str(), id.untyped(), untyped.as_str()), ("4711", &untyped, "4711"));
    assert_eq!(OrderId::from(untyped.clone()), id);
    assert_eq!((format!("{id}"), format!("{id:?}")), (untyped.to_string(), format!("{untyped:?}")));
    assert_eq!(serde_json::to_string(&id).unwrap(), r#""4711""#);
    assert_eq!(serde_json::from_str::<OrderId>(r#""4711""#).unwrap(), id);
    assert_ne!(OrderId::new(), OrderId::new());
    let uuid = Uuid::from_u128(7);
    assert_eq!(OrderId::from(uuid).as_str(), uuid.to_string());

    let ids = ["b", "a", "b"].map(|id| OrderId::try_from(id).unwrap());
    let sorted: Vec<_> = ids.iter().cloned().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(sorted, [ids[1].clone(), ids[0].clone()]);
    assert_eq!(ids.into_iter().collect::<std::collections::HashSet<_>>().len(), 2);
    for bad in ["", "a\nb"] {
        let wanted = bad.parse::<AggregateId>().unwrap_err();
        assert_eq!(bad.parse::<OrderId>().unwrap_err(), wanted);
        assert_eq!(OrderId::try_from(bad.to_owned()).unwrap_err(), wanted);
        assert!(serde_json::from_value::<OrderId>(bad.into()).is_err());
    }
}
