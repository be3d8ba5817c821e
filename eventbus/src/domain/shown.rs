//! Formats of events, errors and times in a serialized status, of durations in the log, and of tenants in messages.

use std::{fmt::Display, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// Serializes a value as its `Display` text.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Serializes a time in the format of RFC 3339.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn time<S: Serializer>(time: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time.and_then(|time| time.format(&Rfc3339).ok()) {
        Some(time) => serializer.serialize_str(&time),
        None => serializer.serialize_none(),
    }
}

/// Serializes a duration in seconds.
#[allow(clippy::ref_option, reason = "as serde calls it")]
pub(crate) fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_f64(time.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}

/// Serializes a duration in seconds.
pub(crate) fn duration<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Serializes a value as its `Display` text.
pub(crate) fn display<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serializes a time in the format of RFC 3339.
pub(crate) fn moment<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    self::time(&Some(*time), serializer)
}

/// Serializes text that is JSON as the value that it holds; any other text as text.
pub(crate) fn json<T: AsRef<str>, S: Serializer>(json: &T, serializer: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<&RawValue>(json.as_ref()) {
        Ok(value) => value.serialize(serializer),
        Err(_) => serializer.serialize_str(json.as_ref()),
    }
}

/// Returns the time since `since` as the log shows it: in whole milliseconds.
pub(crate) fn lasted(since: OffsetDateTime, now: OffsetDateTime) -> Duration {
    let millis = (now - since).whole_milliseconds();
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// Formats a time as reports show it.
pub(crate) fn rfc3339(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

/// Returns the text for a tenant in messages; `None` is no tenant.
pub(crate) fn tenant(tenant_id: Option<Uuid>) -> String {
    tenant_id.map_or_else(|| "no tenant".into(), |id| format!("tenant {id}"))
}

/// Returns the name of a type without its modules and parameters.
pub(crate) fn type_name<T: ?Sized>() -> String {
    let name = std::any::type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name).into()
}
