//! Checks of values that several configurations have.

use std::time::Duration;

use eventbus::Name;
use serde::{Deserialize, Deserializer, de};

/// A field of a configuration, and its problem, if any: a verb phrase that follows the field.
pub type FieldProblem = (&'static str, Option<String>);
/// A field of a configuration, and its problem.
pub type FieldMistake = (&'static str, String);

/// The maximum length of a prefix: leaves room for what keys and checkpoint names append.
const MAX_PREFIX_BYTES: usize = 200;
/// A hundred years; the server refuses numbers that its clock cannot hold.
pub const MAX_SECONDS: u64 = 100 * 366 * 86_400;

pub fn out_of_range(value: u64, max: u64) -> Option<String> {
    match value {
        0 => Some("is 0".into()),
        _ => (value > max).then(|| format!("is {value}, at most {max} is allowed")),
    }
}

pub fn time_problem(time: Duration) -> Option<String> {
    match time {
        Duration::ZERO => Some("is 0".into()),
        time => (time.as_secs() > MAX_SECONDS).then(|| format!("is {time:?}, at most {MAX_SECONDS} s are allowed")),
    }
}

pub fn ms_problem(ms: u64) -> Option<String> {
    out_of_range(ms, MAX_SECONDS * 1_000)
}

pub fn name_problem(value: &str) -> Option<String> {
    let error = Name::new("name", value).err()?;
    let reason = error.reason.to_string();
    Some(reason.strip_prefix("it ").unwrap_or(&reason).to_owned())
}

pub fn prefix_problem(value: &str) -> Option<String> {
    name_problem(value).or_else(|| {
        let bytes = value.len();
        (bytes > MAX_PREFIX_BYTES).then(|| format!("has {bytes} bytes, at most {MAX_PREFIX_BYTES} are allowed"))
    })
}

pub fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| de::Error::custom(format_args!("{seconds} is no number of seconds")))
}
