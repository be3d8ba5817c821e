//! Validation of a configuration: finds every mistake at once.

use super::RedisEventBusConfig;
use crate::validate::{FieldProblem, MAX_SECONDS, ms_problem, name_problem, out_of_range, prefix_problem};

/// More entries than a server should send at once, or a consumer hold.
const MAX_BATCH_SIZE: u64 = 1_000_000;
/// The first `concurrency` that is too high: each running handler is a task.
const MAX_CONCURRENCY: usize = 10_001;
/// Words that follow the name of the stream in the names of other keys.
const RESERVED_KEY_NAMES: [&str; 3] = ["members", "relay", "meta"];

/// Returns the problem of each field.
pub(super) fn problems(config: &RedisEventBusConfig) -> impl Iterator<Item = FieldProblem> {
    let is_zero = |zero: bool| zero.then(|| "is 0".to_owned());
    let (consumer, age) = (config.consumer_name.as_deref(), config.trim_max_age_seconds);
    let of_bus = [
        ("stream_prefix", prefix_problem(&config.stream_prefix)),
        ("consumer_group", name_problem(&config.consumer_group)),
        ("consumer_name", consumer.and_then(consumer_name_problem)),
        ("batch_size", out_of_range(config.batch_size as u64, MAX_BATCH_SIZE)),
        ("block_ms", ms_problem(config.block_ms)),
        ("retry_for_seconds", out_of_range(config.retry_for_seconds, MAX_SECONDS)),
        ("pending_idle_ms", ms_problem(config.pending_idle_ms)),
        ("dlq_stream_suffix", suffix_problem(&config.dlq_stream_suffix, &config.retry_key_prefix)),
        ("retry_key_prefix", retry_prefix_problem(&config.retry_key_prefix)),
        ("retry_key_expiry_seconds", out_of_range(config.retry_key_expiry_seconds, MAX_SECONDS)),
        ("concurrency", concurrency_problem(config)),
        ("max_in_flight", is_zero(config.max_in_flight == Some(0))),
        ("retry_delay_ms", ms_problem(config.retry_delay_ms)),
        ("retry_max_delay_ms", max_delay_problem(config)),
        ("trim_max_length", is_zero(config.trim_max_length == Some(0))),
        ("trim_max_age_seconds", age.and_then(|age| out_of_range(age, MAX_SECONDS))),
    ];
    config.server().problems().chain(of_bus)
}

/// Returns the problem of a consumer's name; the names that the bus gives to recoveries are reserved.
fn consumer_name_problem(name: &str) -> Option<String> {
    name_problem(name).or_else(|| name.ends_with("-recovery").then(|| "ends with `-recovery`".to_owned()))
}

fn concurrency_problem(config: &RedisEventBusConfig) -> Option<String> {
    let (concurrency, limit) = (config.concurrency, config.in_flight_limit());
    match concurrency {
        0 => Some("is 0".into()),
        MAX_CONCURRENCY.. => Some(format!("is {concurrency}, at most {} is allowed", MAX_CONCURRENCY - 1)),
        // a limit of 0 is a mistake of its own
        _ if concurrency > limit && limit > 0 => {
            Some(format!("is {concurrency}, but a consumer holds at most {limit} entries (`max_in_flight`)"))
        }
        _ => None,
    }
}

fn max_delay_problem(config: &RedisEventBusConfig) -> Option<String> {
    let (first, max) = (config.retry_delay_ms, config.retry_max_delay_ms);
    ms_problem(max).or_else(|| (max < first).then(|| format!("is {max}, less than `retry_delay_ms` ({first})")))
}

/// Returns the problem of a suffix that would make the name of a key in use.
fn suffix_problem(suffix: &str, retry_prefix: &str) -> Option<String> {
    prefix_problem(suffix).or_else(|| {
        let word = suffix.strip_prefix(':')?.split(':').next()?;
        let is_reserved = RESERVED_KEY_NAMES.contains(&word) || retry_prefix.split(':').next() == Some(word);
        is_reserved.then(|| format!("begins with `:{word}`, as other keys of the bus do"))
    })
}

/// Returns the problem of a prefix that would make the name of a key in use.
fn retry_prefix_problem(prefix: &str) -> Option<String> {
    prefix_problem(prefix).or_else(|| {
        let word = prefix.split(':').next()?;
        let is_reserved = RESERVED_KEY_NAMES.contains(&word);
        is_reserved.then(|| format!("begins with `{word}`, as other keys of the bus do"))
    })
}
