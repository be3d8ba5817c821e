//! The forms of values in documents and tables: times, positions, durations.

use std::time::Duration;

use eventbus::Position;
use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The version of the documents: a later one may remove or rename fields.
const VERSION: u32 = 1;

/// The JSON document that a command shows, with the version of its format and the time at which the command began to
/// read.
#[derive(Debug, Serialize)]
pub(super) struct Document<'b, T> {
    version: u32,
    #[serde(serialize_with = "serialize_time")]
    as_of: OffsetDateTime,
    #[serde(flatten)]
    body: &'b T,
}

impl<'b, T> Document<'b, T> {
    pub(super) const fn new(as_of: OffsetDateTime, body: &'b T) -> Self {
        Self { version: VERSION, as_of, body }
    }
}

/// Returns a time in UTC, in the format of RFC 3339.
pub(crate) fn time_text(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// Serializes a time.
pub(crate) fn serialize_time<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time_text(*time))
}

/// Serializes a time that may be unknown.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn serialize_option_time<S: Serializer>(
    time: &Option<OffsetDateTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(time_text).serialize(serializer)
}

/// Serializes a position as text: numbers of JavaScript are exact only up to 2^53.
pub(crate) fn serialize_position<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

/// Returns the cell of a value that may be unknown.
pub(crate) fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Returns a duration in its largest unit.
pub(crate) fn age(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.1}s", time.as_secs_f64()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_their_largest_unit() {
        for (milliseconds, shown) in
            [(0, "0.0s"), (250, "0.2s"), (41_000, "41s"), (120_000, "2min"), (7_200_000, "2h"), (172_800_000, "2d")]
        {
            assert_eq!(age(Duration::from_millis(milliseconds)), shown);
        }
    }

    #[test]
    fn a_document_says_its_version_and_time_first() {
        #[derive(Serialize)]
        struct Body {
            #[serde(serialize_with = "serialize_position")]
            at: Position,
        }
        let body = Body { at: Position::new(u64::MAX) };
        let document = Document::new(OffsetDateTime::UNIX_EPOCH, &body);
        let wanted = r#"{"version":1,"as_of":"1970-01-01T00:00:00Z","at":"18446744073709551615"}"#;
        assert_eq!(serde_json::to_string(&document).unwrap(), wanted);
    }
}
