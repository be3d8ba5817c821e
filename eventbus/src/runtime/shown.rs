//! How errors and times are written where a status is serialized.

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
