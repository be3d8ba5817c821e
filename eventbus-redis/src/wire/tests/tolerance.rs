//! Entries of foreign publishers that the Python library accepts, and those that it refuses.

use time::{OffsetDateTime, macros::datetime};
use uuid::uuid;

use super::{CAPTURED, captured_event, decode, decode_payload, decode_with};
use crate::wire::{decode::Undecodable, encode::encode};

#[test]
fn times_are_read_as_tolerantly_as_in_python() {
    let at = |text: &str| -> Result<OffsetDateTime, Undecodable> {
        Ok(decode_with("occurred_at", Some(text))?.metadata().occurred_at())
    };
    for (text, expected) in [
        (r#""2026-01-02T03:04:05Z""#, datetime!(2026-01-02 03:04:05 UTC)),
        (r#""2026-01-02T03:04:05.123Z""#, datetime!(2026-01-02 03:04:05.123 UTC)),
        (r#""2026-01-02T03:04:05.123456789Z""#, datetime!(2026-01-02 03:04:05.123_456 UTC)),
        (r#""2026-01-02T03:04:05.9999999+00:00""#, datetime!(2026-01-02 03:04:05.999_999 UTC)),
        (r#""2026-01-02T03:04:05+05:30""#, datetime!(2026-01-01 21:34:05 UTC)),
        (r#""2026-01-02T03:04:05-0800""#, datetime!(2026-01-02 11:04:05 UTC)),
        (r#""2026-01-02T03:04:05.5""#, datetime!(2026-01-02 03:04:05.5 UTC)),
        (r#""2026-01-02 03:04""#, datetime!(2026-01-02 03:04:00 UTC)),
        (r#""2026-01-02""#, datetime!(2026-01-02 0:00 UTC)),
        (r#""1767323045""#, datetime!(2026-01-02 03:04:05 UTC)),
        ("1767323045", datetime!(2026-01-02 03:04:05 UTC)),
        ("1767323045.25", datetime!(2026-01-02 03:04:05.25 UTC)),
        ("1767323045123", datetime!(2026-01-02 03:04:05.123 UTC)),
    ] {
        assert_eq!(at(text).unwrap(), expected, "{text}");
    }
    for text in [
        r#""""#,
        "null",
        r#""yesterday""#,
        r#""2026-13-02T03:04:05Z""#,
        r#""2026-01-02T25:04:05Z""#,
        r#""2026-01-02T03:04:05.Z""#,
        r#""2026-01-02T03:04:05+24:00""#,
        r#""2026-01-02T03:04:05+05""#,
        r#""nan""#,
        r#""inf""#,
        r#""2026-01-02T03:04:05é""#,
        "1e300",
    ] {
        assert!(at(text).is_err(), "{text}");
    }
}

#[test]
fn a_time_that_is_not_in_utc_is_passed_on_as_it_was_written() {
    for text in ["2026-01-02T03:04:05+05:30", "2026-01-02T03:04:05.5", "2026-01-02T03:04", "2026-01-02T03:04:05-0800"] {
        let event = decode_with("occurred_at", Some(&format!("\"{text}\""))).unwrap();
        assert_eq!(event.metadata().occurred_at_as_written(), Some(text));
        let written = encode(&event).unwrap();
        let field = |name: &str| {
            let (_, value) = written.iter().find(|(found, _)| *found == name).unwrap();
            String::from_utf8(value.to_vec()).unwrap()
        };
        assert_eq!(field("occurred_at"), text);
        assert!(field("payload").contains(&format!(r#""occurred_at":"{text}""#)), "{}", field("payload"));
    }
    for text in ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00", "1767323045"] {
        let event = decode_with("occurred_at", Some(&format!("\"{text}\""))).unwrap();
        assert_eq!(event.metadata().occurred_at_as_written(), None, "{text}");
    }
}

#[test]
fn ids_and_numbers_are_read_as_tolerantly_as_in_python() {
    let id = uuid!("2376693e-5be9-4a85-a652-862d4b54c52d");
    for text in [
        r#""2376693E-5BE9-4A85-A652-862D4B54C52D""#,
        r#""2376693e5be94a85a652862d4b54c52d""#,
        r#""urn:uuid:2376693e-5be9-4a85-a652-862d4b54c52d""#,
    ] {
        for key in ["event_id", "tenant_id", "correlation_id", "causation_id"] {
            let event = decode_with(key, Some(text)).unwrap();
            let metadata = event.metadata();
            let read = match key {
                "event_id" => Some(metadata.event_id().as_uuid()),
                "tenant_id" => metadata.tenant_id(),
                "correlation_id" => Some(metadata.correlation_id()),
                _ => metadata.causation_id(),
            };
            assert_eq!(read, Some(id), "{key} {text}");
        }
    }
    for (text, expected) in [("3", 3), (r#"" 3 ""#, 3), ("3.0", 3), (r#""3.0""#, 3)] {
        let event = decode_with("event_version", Some(text)).unwrap();
        assert_eq!(event.metadata().schema_version(), expected, "{text}");
        let event = decode_with("aggregate_version", Some(text)).unwrap();
        assert_eq!(event.version(), u64::from(expected), "{text}");
    }
    let event = decode_with("correlation_id", None).unwrap();
    assert_eq!(event.metadata().correlation_id(), id, "its own conversation");
    for key in ["event_version", "aggregate_version", "tenant_id", "actor_id", "metadata"] {
        assert_eq!(decode_with(key, None).unwrap(), captured_event(), "without {key}");
    }
}

#[test]
fn what_python_refuses_is_refused() {
    for (key, value) in [
        ("aggregate_version", "0"),
        ("event_version", "0"),
        ("event_version", "-1"),
        ("event_version", "1.5"),
        ("event_version", "4294967296"),
        ("correlation_id", "null"),
        ("metadata", "null"),
        ("metadata", "[]"),
        ("tenant_id", r#""""#),
        ("actor_id", "7"),
        ("event_id", "null"),
        ("event_id", r#""x""#),
        ("aggregate_id", "7"),
        ("aggregate_id", r#""""#),
    ] {
        let refused = decode_with(key, Some(value));
        assert!(refused.is_err(), "{key} {value} became {refused:?}");
    }
    for payload in ["", "x", "[]", "null", "{", r#"{"a":NaN}"#, r#"{"a":1}{}"#] {
        assert!(decode_payload(payload).is_err(), "{payload:?}");
    }
    assert!(decode(&CAPTURED[..6]).is_err(), "no payload");
    assert!(decode(&[]).is_err(), "no fields");
    assert!(crate::wire::decode(&[(b"payload", &[0xFF])]).is_err(), "no text");
}
