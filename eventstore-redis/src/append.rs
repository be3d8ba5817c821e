//! Appending: one script compares the versions and adds the events, of each append for itself or of all together.
//!
//! Invariant: an append that is refused leaves no entry. Redis does not roll back a script, so the script checks first,
//! and removes its entries if the feed refuses one. An append may be sent again: its event ids identify it, or the note
//! of its delivery or command.

use eventbus::{
    EventId, ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{Append, AppendError, ReadError},
    store::{Handled, MultiStreamOutcome},
    support::{ListedEventTypes, check_events, check_ids, first_multi_stream_result, first_result},
};
use eventbus_redis_core::{reply, script::Lua};
use redis::{ScriptInvocation, Value};

use crate::{
    entry,
    error::{append_error, corrupt_last_entry},
    feed::events_at,
    inner::StoreInner,
    keys::event_keys,
    notes::{command_field, command_note, delivery_note},
    script::{APPEND, APPEND_TOGETHER},
    value_change::ValueChange,
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
fn check_append(append: &Append) -> Result<bool, AppendError> {
    check_ids(&append.stream, &append.events)?;
    let bytes = events_bytes(&append.events);
    if bytes > APPEND_BYTES_MAX {
        let source = format!("an append has at most {APPEND_BYTES_MAX} bytes, this one has {bytes}").into();
        return Err(AppendError::Refused { stream: append.stream.clone(), source });
    }
    check_events(&append.stream, &append.events)?;
    Ok(!append.events.is_empty())
}

/// Returns the bytes of payloads and attributes, which have no limits of their own.
fn events_bytes(events: &[NewEvent]) -> usize {
    events.iter().map(event_bytes).sum()
}

fn event_bytes(event: &NewEvent) -> usize {
    event.payload().len() + event.context().attributes.as_json().len()
}

/// Appends that one script makes together, each to a stream of its own, and the changes of unique values with them.
struct Group<'a> {
    appends: Vec<Append>,
    changes: &'a [ValueChange],
}

/// Runs appends in one script, each for itself, and returns a result for each.
async fn run_appends(inner: &StoreInner, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
    if appends.is_empty() {
        return Vec::new();
    }
    let acknowledged = inner.acknowledged().position();
    let mut script = append_script(inner, &APPEND, acknowledged);
    appends.iter().for_each(|append| add_append(inner, append, &mut script));
    // may run twice: the event ids identify an append that has run
    let replied = inner.connection().run_idempotent_or_unknown::<Vec<Value>>(&script).await;
    let (mut replies, may_run_late) = match replied {
        Ok((replies, may_run_late)) => (replies.into_iter(), may_run_late),
        Err(error) => {
            return appends.iter().map(|append| Err(append_error(Some(&append.stream), error.clone()))).collect();
        }
    };
    let mut results = Vec::with_capacity(appends.len());
    for append in appends {
        let reply = replies.next().unwrap_or(Value::Nil);
        let group = Group { appends: vec![append], changes: &[] };
        let outcome = resolve(inner, group, reply, acknowledged, may_run_late).await;
        results.push(outcome.map(MultiStreamOutcome::into_records));
    }
    results
}

/// Makes all appends or none, notes the delivery or command that they handle, and changes unique values.
pub(crate) async fn append_together(
    inner: &StoreInner,
    appends: Vec<Append>,
    handled: Option<&Handled>,
    changes: &[ValueChange],
) -> Result<MultiStreamOutcome, AppendError> {
    for append in &appends {
        check_append(append)?;
    }
    let (keys, acknowledged) = (inner.keys(), inner.acknowledged().position());
    let mut script = append_script(inner, &APPEND_TOGETHER, acknowledged);
    match handled {
        None => script.arg("none"),
        Some(Handled::Delivery(delivery)) => script.key(keys.deliveries()).arg("delivery").arg(delivery_note(delivery)),
        Some(Handled::Command(command)) => {
            script.key(keys.commands()).key(keys.command_times());
            script.arg("command").arg(command_field(command.tenant_id, &command.key)).arg(command_note(command))
        }
    };
    script.arg(appends.len());
    appends.iter().for_each(|append| add_append(inner, append, &mut script));
    changes.iter().for_each(|change| change.add_to(keys, &mut script));
    // may run twice: the event ids, or the note, identify a group that has run, and changes alone are the same again
    let replied = inner.connection().run_idempotent_or_unknown::<Value>(&script).await;
    let stream = appends.first().map(|append| &append.stream);
    let (reply, may_run_late) = replied.map_err(|error| append_error(stream, error))?;
    resolve(inner, Group { appends, changes }, reply, acknowledged, may_run_late).await
}

/// Returns the script with the arguments that come before the appends.
fn append_script(inner: &StoreInner, script: &'static Lua, acknowledged: Position) -> ScriptInvocation<'static> {
    let keys = inner.keys();
    let mut script = script.prepare_invoke();
    script.key(keys.feed()).key(keys.ids()).key(keys.event_types()).arg(acknowledged.get());
    script.arg(entry::micros_of(inner.config().clock.now()).to_string());
    script
}

fn add_append(inner: &StoreInner, append: &Append, script: &mut ScriptInvocation<'_>) {
    let Append { stream, expected, events } = append;
    script.key(inner.keys().stream(stream));
    match expected {
        ExpectedVersion::Any => script.arg("any"),
        ExpectedVersion::NoStream => script.arg("none"),
        ExpectedVersion::StreamExists => script.arg("exists"),
        ExpectedVersion::Exact(version) => script.arg(version.get()),
    };
    script.arg(stream.aggregate_type().as_str()).arg(stream.aggregate_id().as_str()).arg(tenant_text(stream));
    add_events(stream, events, inner.known_event_types(), script);
}

/// Returns the outcome of a group from the script's reply to it. If `may_run_late`, a first copy of the script may still
/// run.
async fn resolve(
    inner: &StoreInner,
    group: Group<'_>,
    reply: Value,
    acknowledged: Position,
    may_run_late: bool,
) -> Result<MultiStreamOutcome, AppendError> {
    let words: Vec<String> = reply::parse_value(reply).map_err(|error| AppendError::OutcomeUnknown(error.into()))?;
    let first_stream = || group.appends.first().map(|append| append.stream.clone());
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["new", places @ ..] if let Some(records) = to_recorded(&group.appends, places) => {
            note_new(inner, &group.appends, &records, acknowledged);
            Ok(MultiStreamOutcome::Appended(records))
        }
        ["known", positions @ ..] => {
            inner.append_signal().notify();
            load_known(inner, &group.appends, positions).await
        }
        ["handled"] => Ok(MultiStreamOutcome::AlreadyHandled),
        ["conflict", number, actual]
            if let (Some(append), Ok(actual)) = (numbered(&group.appends, number), actual.parse()) =>
        {
            let (stream, expected, actual) = (append.stream.clone(), append.expected, Version::new(actual));
            match may_run_late && may_match_later(expected, actual) {
                true => {
                    let source = format!("`{stream}` is at version {actual}, the first request may run at a later one");
                    Err(AppendError::OutcomeUnknown(source.into()))
                }
                false => Err(AppendError::Conflict { stream, expected, actual }),
            }
        }
        ["taken", number] if let Some(change) = numbered(group.changes, number) => match may_run_late {
            true => {
                Err(AppendError::OutcomeUnknown("a value is taken, the first request may run when it is free".into()))
            }
            false => Err(AppendError::Taken { stream: change.stream().clone(), name: change.name().clone() }),
        },
        ["damaged", key, entry] if let Some(stream) = first_stream() => {
            Err(AppendError::Refused { stream, source: ReadError::from(corrupt_last_entry(key, entry)).into() })
        }
        ["failed", reason] if let Some(stream) = first_stream() => {
            Err(AppendError::Refused { stream, source: (*reason).into() })
        }
        ["damaged" | "failed", ..] => Err(AppendError::Unavailable(words.join(" ").into())),
        _ => Err(AppendError::OutcomeUnknown(format!("unexpected reply of the server: {words:?}").into())),
    }
}

/// Returns the item with a number from 1.
fn numbered<'a, T>(items: &'a [T], number: &str) -> Option<&'a T> {
    items.get(number.parse::<usize>().ok()?.checked_sub(1)?)
}

/// Notes what a reply shows of the end of the store, and wakes the readers of the feed.
fn note_new(inner: &StoreInner, appends: &[Append], records: &[Vec<RecordedEvent>], acknowledged: Position) {
    let (first, last) = {
        let mut all = records.iter().flatten().filter_map(RecordedEvent::position);
        let first = all.next();
        (first, all.next_back().or(first))
    };
    let (Some(first), Some(last)) = (first, last) else { return };
    inner.known_event_types().add_all(appends.iter().flat_map(|append| &append.events));
    // the store ended right before the first of these events
    inner.check_head(acknowledged, Position::new(first.get().saturating_sub(1)));
    inner.acknowledged().raise_to(last);
    inner.append_signal().notify_of(&records.concat());
}

/// Returns the outcome of a group of which the store knows event ids: `positions` has a text for each, empty if it is new.
async fn load_known(
    inner: &StoreInner,
    appends: &[Append],
    positions: &[&str],
) -> Result<MultiStreamOutcome, AppendError> {
    let (mut rest, mut found) = (positions, Vec::new());
    for Append { stream, events, .. } in appends.iter().filter(|append| !append.events.is_empty()) {
        let own;
        (own, rest) = rest.split_at(events.len().min(rest.len()));
        let own: Vec<u64> = own.iter().filter_map(|position| position.parse().ok()).collect();
        found.push(match own.is_empty() {
            true => None,
            false => Some(load_first_result(inner, stream, events, &own).await?),
        });
    }
    let mut found = found.into_iter();
    let known = first_multi_stream_result(appends, |_| Ok(found.next().flatten()))?;
    let unknown = || AppendError::OutcomeUnknown("the server names no position of an event that it knows".into());
    known.map(MultiStreamOutcome::Appended).ok_or_else(unknown)
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
async fn load_first_result(
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
fn add_events(stream: &StreamId, events: &[NewEvent], listed: &ListedEventTypes, script: &mut ScriptInvocation<'_>) {
    let key_of = event_keys(stream);
    script.arg(events.len());
    for event in events {
        script.arg(&key_of(event.event_id())[..]).arg(event.event_type().as_str());
        let known_prefix = if listed.has(event) { "(" } else { "" };
        script.arg(format!("{known_prefix}{}", event.schema_version())).arg(event_bytes(event));
        let fields = entry::fields(event);
        script.arg(fields.len() * 2);
        for (name, value) in &fields {
            script.arg(*name).arg(&**value);
        }
    }
}

/// The tenant of a stream as in the feed: empty for none.
fn tenant_text(stream: &StreamId) -> String {
    stream.tenant_id().map(|id| id.to_string()).unwrap_or_default()
}

/// Returns the records of each append: `places` has the version before it, its first position and its recorded time.
fn to_recorded(appends: &[Append], places: &[&str]) -> Option<Vec<Vec<RecordedEvent>>> {
    let (places, rest) = places.as_chunks::<3>();
    if places.len() != appends.len() || !rest.is_empty() {
        return None;
    }
    let records = appends.iter().zip(places).map(|(Append { stream, events, .. }, [before, first, recorded_at])| {
        let (before, first) = (Version::new(before.parse().ok()?), first.parse::<u64>().ok()?);
        let recorded_at = entry::parse_micros(recorded_at)?;
        let to_record = |(number, event): (usize, &NewEvent)| {
            let position = Position::new(first + number as u64);
            let record = event.clone().recorded_as(stream.clone(), before.plus(number + 1), Some(position));
            record.with_recorded_at(Some(recorded_at))
        };
        Some(events.iter().enumerate().map(to_record).collect())
    });
    records.collect()
}
