//! The dead letters of the stream: entries with the delivered fields, then `original_message_id` and the other fields
//! about the failure.
//!
//! Invariant: a replay is one script that never reads a value, so it can neither lose nor change a value.

use eventbus::{
    port::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, MessageId},
    support::PAGE_BYTES,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    RedisCommandError,
    command::{
        admin,
        pages::{self, EntryPage},
    },
    entry_id::EntryId,
    inner::BusInner,
    keys::field,
    reply::{Entry, field_refs},
    script, wire,
};

/// The number of dead letters that one step reads, replays or discards; fewer if they reach [`PAGE_BYTES`].
const DEAD_LETTER_PAGE_MAX: usize = 100;

/// The names of the fields about the failure, for a dead letter without the field that marks where those begin.
const FAILURE_FIELDS: [&str; 10] = [
    field::ORIGINAL_MESSAGE_ID,
    field::RETRY_COUNT,
    field::DLQ_TIMESTAMP,
    field::ERROR,
    field::HANDLER,
    field::GROUP,
    field::ATTEMPTS,
    field::FIRST_FAILED_AT,
    field::LAST_FAILED_AT,
    field::DONE_HANDLERS,
];

/// Loads the dead letters after an id that match, at most `limit`; the page ends early at [`PAGE_BYTES`].
pub(crate) async fn load_page(
    bus: &BusInner,
    filter: &DeadLetterFilter,
    after: Option<&MessageId>,
    limit: usize,
) -> Result<DeadLetterPage, DeadLetterError> {
    let limit = limit.max(1);
    let mut after = match after {
        Some(id) => parse_dead_letter_id(bus, id)?,
        None => EntryId::ZERO,
    };
    let (mut dead_letters, mut bytes) = (Vec::new(), 0_usize);
    loop {
        // without a filter the page shows all that it reads; one more entry tells if a next page exists
        let count = match *filter == DeadLetterFilter::default() {
            true => (limit - dead_letters.len()).saturating_add(1).min(DEAD_LETTER_PAGE_MAX),
            false => DEAD_LETTER_PAGE_MAX,
        };
        let (page, has_more) = load_dead_letter_page(bus, after, None, count).await?;
        for dead_letter in page {
            let id = parse_dead_letter_id(bus, &dead_letter.id)?;
            if filter.matches(&dead_letter) {
                if dead_letters.len() == limit || bytes >= PAGE_BYTES {
                    return Ok(DeadLetterPage::new(dead_letters, Some(MessageId::new(after.to_string()))));
                }
                bytes = bytes.saturating_add(dead_letter.bytes());
                dead_letters.push(dead_letter);
            }
            after = id;
        }
        if !has_more {
            return Ok(DeadLetterPage::new(dead_letters, None));
        }
    }
}

/// Loads a dead letter.
pub(crate) async fn load(bus: &BusInner, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
    let id = parse_dead_letter_id(bus, id)?.to_string();
    let range = admin::range(&bus.config().dlq_stream_name(), &id, &id, 1);
    Ok(read_dead_letters(bus, &range).await?.pop())
}

/// Replays a dead letter; returns `true` if it existed.
pub(crate) async fn replay(bus: &BusInner, id: &MessageId) -> Result<bool, DeadLetterError> {
    let text = parse_dead_letter_id(bus, id)?.to_string();
    let destination = || bus.destination().clone();
    match replay_ids(bus, &[text]).await?.pop() {
        Some(ReplayReply::Replayed) => Ok(true),
        Some(ReplayReply::Empty) => Err(DeadLetterError::Empty { destination: destination(), id: id.clone() }),
        Some(ReplayReply::NoGroup(group)) => {
            Err(DeadLetterError::NoGroup { destination: destination(), id: id.clone(), group })
        }
        _ => Ok(false),
    }
}

/// The reply of the replay script for a dead letter.
#[derive(Debug, PartialEq)]
enum ReplayReply {
    Replayed,
    Missing,
    /// It has no fields to replay.
    Empty,
    /// Its group does not exist; holds the group's name.
    NoGroup(String),
}

impl redis::FromRedisValue for ReplayReply {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        match value {
            redis::Value::Int(1) => Ok(Self::Replayed),
            redis::Value::Int(-1) => Ok(Self::Empty),
            redis::Value::Int(_) => Ok(Self::Missing),
            group => redis::FromRedisValue::from_redis_value(group).map(Self::NoGroup),
        }
    }
}

/// Discards a dead letter; returns `true` if it existed.
pub(crate) async fn discard(bus: &BusInner, id: &MessageId) -> Result<bool, DeadLetterError> {
    let id = parse_dead_letter_id(bus, id)?.to_string();
    Ok(discard_ids(bus, &[id]).await? > 0)
}

/// The action on the dead letters that match a filter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DeadLetterAction {
    Replay,
    Discard,
}

/// Replays or discards the dead letters that match and exist now; returns their number.
pub(crate) async fn end_all(
    bus: &BusInner,
    filter: &DeadLetterFilter,
    action: DeadLetterAction,
) -> Result<u64, DeadLetterError> {
    let newest = admin::newest(&bus.config().dlq_stream_name());
    let Some(newest) = read_dead_letters(bus, &newest).await?.pop() else {
        return Ok(0);
    };
    let (last, mut after, mut ended) = (parse_dead_letter_id(bus, &newest.id)?, EntryId::ZERO, 0);
    loop {
        let (page, has_more) = load_dead_letter_page(bus, after, Some(last), DEAD_LETTER_PAGE_MAX).await?;
        let matching = page.iter().filter(|dead_letter| filter.matches(dead_letter));
        let ids: Vec<_> = matching.map(|dead_letter| dead_letter.id.to_string()).collect();
        ended += match action {
            DeadLetterAction::Replay => {
                let replies = replay_ids(bus, &ids).await?;
                replies.into_iter().filter(|reply| *reply == ReplayReply::Replayed).count() as u64
            }
            DeadLetterAction::Discard => discard_ids(bus, &ids).await?,
        };
        match page.last() {
            Some(newest) if has_more => after = parse_dead_letter_id(bus, &newest.id)?,
            _ => return Ok(ended),
        }
    }
}

/// Loads a page of the dead letters after `after`, up to `to`; returns also `true` if more follow.
async fn load_dead_letter_page(
    bus: &BusInner,
    after: EntryId,
    to: Option<EntryId>,
    count: usize,
) -> Result<(Vec<DeadLetter>, bool), DeadLetterError> {
    let (after, to) = (after.to_string(), to.map(|to| to.to_string()));
    let page = pages::page(&bus.config().dlq_stream_name(), Some(&after), to.as_deref(), count);
    let page: EntryPage = bus.run_idempotent(&page).await.map_err(|error| dead_letter_error(bus, error))?;
    Ok((page.entries.into_iter().map(parse_dead_letter).collect(), page.has_more))
}

async fn read_dead_letters(bus: &BusInner, range: &redis::Cmd) -> Result<Vec<DeadLetter>, DeadLetterError> {
    let entries: Vec<Entry> = bus.query_idempotent(range).await.map_err(|error| dead_letter_error(bus, error))?;
    Ok(entries.into_iter().map(parse_dead_letter).collect())
}

async fn replay_ids(bus: &BusInner, ids: &[String]) -> Result<Vec<ReplayReply>, DeadLetterError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut replay = script::dead_letters::REPLAY.prepare_invoke();
    replay.key(bus.stream()).key(bus.config().dlq_stream_name()).arg(ids);
    bus.run(&replay).await.map_err(|error| dead_letter_error(bus, error))
}

async fn discard_ids(bus: &BusInner, ids: &[String]) -> Result<u64, DeadLetterError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let delete = admin::delete(&bus.config().dlq_stream_name(), ids);
    bus.query(&delete).await.map_err(|error| dead_letter_error(bus, error))
}

fn parse_dead_letter_id(bus: &BusInner, id: &MessageId) -> Result<EntryId, DeadLetterError> {
    let parsed = id.as_str().parse();
    parsed.map_err(|_| DeadLetterError::InvalidId { destination: bus.destination().clone(), id: id.clone() })
}

fn dead_letter_error(bus: &BusInner, error: RedisCommandError) -> DeadLetterError {
    let destination = bus.destination().clone();
    match error {
        RedisCommandError::ShutDown { .. } => DeadLetterError::ShutDown { destination },
        RedisCommandError::Unavailable { source, .. } => DeadLetterError::Unavailable { destination, source },
        RedisCommandError::OutcomeUnknown { source, .. } => DeadLetterError::OutcomeUnknown { destination, source },
        RedisCommandError::Refused { source, .. } => DeadLetterError::Refused { destination, source },
        other => DeadLetterError::Refused { destination, source: other.into() },
    }
}

/// The fields of an entry.
pub(crate) type DeadLetterFields = Vec<(String, Vec<u8>)>;

/// Splits the fields into those delivered and those about the failure, by the rule of the replay script.
pub(crate) fn split_fields(mut fields: DeadLetterFields) -> (DeadLetterFields, DeadLetterFields) {
    match fields.iter().rposition(|(name, _)| name == field::ORIGINAL_MESSAGE_ID) {
        Some(first) => {
            let about = fields.split_off(first);
            (fields, about)
        }
        None => fields.into_iter().partition(|(name, _)| !FAILURE_FIELDS.contains(&name.as_str())),
    }
}

fn parse_dead_letter(entry: Entry) -> DeadLetter {
    let (delivered, about) = split_fields(entry.fields.unwrap_or_default());
    let about_text = |name| field_text(&about, name);
    let time = |name| OffsetDateTime::parse(&about_text(name)?, &Rfc3339).ok();
    let number = |name| about_text(name)?.parse().ok();

    let mut dead_letter = DeadLetter::new(MessageId::new(entry.id.as_str()));
    dead_letter.original_message_id = about_text(field::ORIGINAL_MESSAGE_ID).map(MessageId::new);
    dead_letter.error = about_text(field::ERROR);
    dead_letter.handler = about_text(field::HANDLER);
    dead_letter.group = about_text(field::GROUP);
    dead_letter.attempts = number(field::ATTEMPTS);
    dead_letter.retry_count = number(field::RETRY_COUNT);
    dead_letter.first_failed_at = time(field::FIRST_FAILED_AT);
    dead_letter.last_failed_at = time(field::LAST_FAILED_AT);
    dead_letter.dead_lettered_at = time(field::DLQ_TIMESTAMP).or_else(|| added_at(&entry.id));
    let done = about_text(field::DONE_HANDLERS).and_then(|json| serde_json::from_str(&json).ok());
    dead_letter.done_handlers = done.unwrap_or_default();

    dead_letter.record = wire::decode(&field_refs(&delivered)).ok();
    dead_letter.event_type = field_text(&delivered, field::EVENT_TYPE);
    dead_letter.aggregate_id = field_text(&delivered, field::AGGREGATE_ID);
    if let Some(record) = &dead_letter.record {
        dead_letter.event_type = Some(record.event_type().to_string());
        dead_letter.aggregate_id = Some(record.metadata().aggregate_id().to_string());
    }
    dead_letter.fields = delivered.into_iter().map(|(name, value)| (name, lossy(&value))).collect();
    dead_letter
}

pub(crate) fn field_text(fields: &[(String, Vec<u8>)], name: &str) -> Option<String> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| lossy(value))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the time at which the server added an entry.
fn added_at(id: &str) -> Option<OffsetDateTime> {
    let id: EntryId = id.parse().ok()?;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(id.ms) * 1_000_000).ok()
}
