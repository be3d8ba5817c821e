//! Appending: one script compares the version and adds the events.
//!
//! Invariant: an append that is refused leaves no entry. Redis does not roll back a script, so the script checks first,
//! and removes its entries if the feed refuses one. An append may be sent again: its event ids identify it.

use eventbus::{
    EventId, ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{Append, AppendError, ReadError},
    support::{ListedEventTypes, check_events, check_ids, first_result},
};
use eventbus_redis_core::reply;
use redis::{ScriptInvocation, Value};
use time::OffsetDateTime;

use crate::{
    entry,
    error::{append_error, corrupt_last_entry},
    feed::events_at,
    inner::StoreInner,
    keys::event_keys,
    script::APPEND,
};

/// Most events that one script adds, unless a single append has more: the server runs no other command meanwhile.
const APPEND_BATCH_EVENTS_MAX: usize = 512;

/// Most bytes of events that one script adds, unless a single append has more.
const APPEND_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most bytes of events of an append: the server closes a connection that sends far more.
const APPEND_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Appends in batches as large as the server should handle in one step, each of at least one append.
pub(crate) async fn append_many(
    inner: &StoreInner,
    appends: Vec<Append>,
) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
    let mut results = Vec::with_capacity(appends.len());
    let mut batch: Vec<Append> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for append in appends {
        let checked = check_append(&append);
        let (more, more_bytes) = (append.events.len(), events_bytes(&append.events));
        // an append that the script does not run ends the batch, so that the results keep their order
        let is_full = count + more > APPEND_BATCH_EVENTS_MAX || bytes + more_bytes > APPEND_BATCH_BYTES_MAX;
        if is_full || !matches!(checked, Ok(true)) {
            results.extend(run_appends(inner, std::mem::take(&mut batch)).await);
            (count, bytes) = (0, 0);
        }
        match checked {
            Ok(true) => {
                (count, bytes) = (count + more, bytes + more_bytes);
                batch.push(append);
            }
            Ok(false) => results.push(Ok(Vec::new())),
            Err(error) => results.push(Err(error)),
        }
    }
    results.extend(run_appends(inner, batch).await);
    results
}

/// Returns `true` if the append has events, and an error if it must be refused.
pub(crate) fn check_append(append: &Append) -> Result<bool, AppendError> {
    check_ids(&append.stream, &append.events)?;
    let bytes = events_bytes(&append.events);
    if bytes > APPEND_BYTES_MAX {
        let source = format!("an append has at most {APPEND_BYTES_MAX} bytes, this one has {bytes}").into();
        return Err(AppendError::Refused { stream: append.stream.clone(), source });
    }
    check_events(&append.stream, &append.events)?;
    Ok(!append.events.is_empty())
}

/// Returns the bytes of payloads and attributes, which have no limits of their own, and of tags.
fn events_bytes(events: &[NewEvent]) -> usize {
    events.iter().map(event_bytes).sum()
}

fn event_bytes(event: &NewEvent) -> usize {
    let tags: usize = event.tags().iter().map(|tag| tag.as_str().len()).sum();
    event.payload().len() + event.context().attributes.as_json().len() + tags
}

/// Runs appends in one script, and returns a result for each.
async fn run_appends(inner: &StoreInner, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
    if appends.is_empty() {
        return Vec::new();
    }
    let acknowledged = inner.acknowledged().position();
    // may run twice: the event ids identify an append that has run
    let replied =
        inner.connection().run_idempotent_or_unknown::<Vec<Value>>(&append_script(inner, &appends, acknowledged)).await;
    let (mut replies, may_run_late) = match replied {
        Ok((replies, may_run_late)) => (replies.into_iter(), may_run_late),
        Err(error) => {
            return appends.iter().map(|append| Err(append_error(&append.stream, error.clone()))).collect();
        }
    };
    let mut results = Vec::with_capacity(appends.len());
    for append in appends {
        let reply = replies.next().unwrap_or(Value::Nil);
        results.push(resolve(inner, append, reply, acknowledged, may_run_late).await);
    }
    results
}

fn append_script(inner: &StoreInner, appends: &[Append], acknowledged: Position) -> ScriptInvocation<'static> {
    let keys = inner.keys();
    let mut script = APPEND.prepare_invoke();
    script.key(keys.feed()).key(keys.ids()).key(keys.event_types()).arg(acknowledged.get());
    script.arg(entry::micros_of(inner.config().clock.now()).to_string());
    for Append { stream, expected, events } in appends {
        script.key(keys.stream(stream));
        match expected {
            ExpectedVersion::Any => script.arg("any"),
            ExpectedVersion::NoStream => script.arg("none"),
            ExpectedVersion::StreamExists => script.arg("exists"),
            ExpectedVersion::Exact(version) => script.arg(version.get()),
        };
        script.arg(stream.aggregate_type().as_str()).arg(stream.aggregate_id().as_str()).arg(tenant_text(stream));
        write_events(stream, events, inner.known_event_types(), |word| {
            script.arg(word);
        });
    }
    script
}

/// Returns the result of an append from the script's reply to it. If `may_run_late`, a first copy of the script may
/// still run.
async fn resolve(
    inner: &StoreInner,
    append: Append,
    reply: Value,
    acknowledged: Position,
    may_run_late: bool,
) -> Result<Vec<RecordedEvent>, AppendError> {
    let Append { stream, expected, events } = append;
    let words: Vec<String> = reply::parse_value(reply).map_err(|error| AppendError::OutcomeUnknown(error.into()))?;
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["new", after, first, recorded_at]
            if let (Ok(after), Ok(first), Some(recorded_at)) =
                (after.parse(), first.parse::<u64>(), entry::parse_micros(recorded_at)) =>
        {
            inner.known_event_types().add_all(&events);
            // the store ended right before the first of these events
            inner.check_head(acknowledged, Position::new(first.saturating_sub(1)));
            inner.acknowledged().raise_to(Position::new(first + events.len() as u64 - 1));
            let records = to_recorded(&stream, events, Version::new(after), Position::new(first), recorded_at);
            inner.append_signal().notify_of(&records);
            Ok(records)
        }
        ["known", positions @ ..] => {
            let positions: Vec<u64> = positions.iter().filter_map(|position| position.parse().ok()).collect();
            inner.append_signal().notify();
            load_first_result(inner, &stream, &events, &positions).await
        }
        ["conflict", actual] if let Ok(actual) = actual.parse() => {
            let actual = Version::new(actual);
            match may_run_late && may_match_later(expected, actual) {
                true => {
                    let source = format!("`{stream}` is at version {actual}, the first request may run at a later one");
                    Err(AppendError::OutcomeUnknown(source.into()))
                }
                false => Err(AppendError::Conflict { stream, expected, actual }),
            }
        }
        ["damaged", key, entry] => {
            Err(AppendError::Refused { stream, source: ReadError::from(corrupt_last_entry(key, entry)).into() })
        }
        ["failed", reason] => Err(AppendError::Refused { stream, source: (*reason).into() }),
        _ => Err(AppendError::OutcomeUnknown(format!("unexpected reply of the server: {words:?}").into())),
    }
}

/// Returns `true` if other appends can bring a stream from this version to an expected one.
fn may_match_later(expected: ExpectedVersion, actual: Version) -> bool {
    match expected {
        ExpectedVersion::Any | ExpectedVersion::StreamExists => true,
        ExpectedVersion::NoStream => false,
        ExpectedVersion::Exact(version) => version > actual,
    }
}

/// Returns the result of the earlier append of these event ids, which may be the caller's own, whose answer was lost.
/// Stored events never change, so reading them after the script is safe.
pub(crate) async fn load_first_result(
    inner: &StoreInner,
    stream: &StreamId,
    events: &[NewEvent],
    positions: &[u64],
) -> Result<Vec<RecordedEvent>, AppendError> {
    let found = events_at(inner, positions).await.map_err(|error| match error {
        // they are stored: a caller that believed them lost would store them again, with new ids
        ReadError::Unavailable(source) => AppendError::OutcomeUnknown(source),
        corrupt => AppendError::Refused { stream: stream.clone(), source: corrupt.into() },
    })?;
    let ids: Vec<EventId> = events.iter().map(NewEvent::event_id).collect();
    let known = first_result(stream, &ids, found)?;
    known.ok_or_else(|| AppendError::Refused {
        stream: stream.clone(),
        source: "the store knows the event ids, but holds no such events".into(),
    })
}

/// Adds events to the arguments of a script, in the order in which `take_events` reads them.
pub(crate) fn write_events(
    stream: &StreamId,
    events: &[NewEvent],
    listed: &ListedEventTypes,
    mut add: impl FnMut(&[u8]),
) {
    let key_of = event_keys(stream);
    add(events.len().to_string().as_bytes());
    for event in events {
        add(&key_of(event.event_id()));
        add(event.event_type().as_bytes());
        let known_prefix = if listed.has(event) { "(" } else { "" };
        add(format!("{known_prefix}{}", event.schema_version()).as_bytes());
        add(event_bytes(event).to_string().as_bytes());
        let mut fields = Vec::with_capacity(24);
        let count = entry::write_fields(event, |part| fields.push(part.to_vec()));
        add(count.to_string().as_bytes());
        fields.iter().for_each(|field| add(field));
    }
}

/// The tenant of a stream as in the feed: empty for none.
pub(crate) fn tenant_text(stream: &StreamId) -> String {
    stream.tenant_id().map(|id| id.to_string()).unwrap_or_default()
}

fn to_recorded(
    stream: &StreamId,
    events: Vec<NewEvent>,
    after: Version,
    first: Position,
    recorded_at: OffsetDateTime,
) -> Vec<RecordedEvent> {
    let to_record = |(number, event): (usize, NewEvent)| {
        let position = Position::new(first.get() + number as u64);
        let record = event.recorded_as(stream.clone(), after.plus(number + 1), Some(position));
        record.with_recorded_at(Some(recorded_at))
    };
    events.into_iter().enumerate().map(to_record).collect()
}
