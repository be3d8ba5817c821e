//! How errors and times are written where a status is serialized, and how long something lasted in the log.

use std::{fmt::Display, time::Duration};

use serde::Serializer;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// As what it says.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// As RFC 3339 has it.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn time<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.and_then(|time| time.format(&Rfc3339).ok()) {
        Some(time) => serializer.serialize_str(&time),
        None => serializer.serialize_none(),
    }
}

/// As seconds.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_f64(time.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}

/// As seconds.
pub(crate) fn duration<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// As what it says.
pub(crate) fn display<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// As RFC 3339 has it.
pub(crate) fn moment<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    self::time(&Some(*time), serializer)
}

/// How long something lasted, in milliseconds at the finest: as the log shows it.
pub(crate) fn lasted(since: OffsetDateTime, now: OffsetDateTime) -> Duration {
    let millis = (now - since).whole_milliseconds();
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
