//! The streams of the store, and the events of one.

use std::collections::BTreeMap;

use eventbus::{
    Name, RecordedEvent, StreamId, Uuid, Version,
    port::{Direction, ReadError, listings::StreamFilter},
    store::EventStore,
    support::LISTING_ROWS_MAX,
};
use futures_util::TryStreamExt as _;
use maud::{Markup, html};
use serde::Deserialize;
use tokio::task::yield_now;

use crate::{
    dashboard::{
        parts::{field_table, number, position, search_field, table, time},
        visit::Visit,
    },
    error::CommandError,
    query::{Change, Difference, Payload, PayloadComparison, StateComparison, event_bytes, list_stream_page},
};

/// The number of streams on a page.
const STREAMS: usize = 50;
/// The number of events on a page.
const EVENTS: usize = 50;
/// The most bytes of the events on a page, which shows at least one event.
const EVENT_BYTES_MAX: usize = 4 << 20;
/// The newest version up to which a page computes states.
const STATE_VERSION_MAX: Version = Version::new(900);
/// The most bytes of the events from which a page computes states.
const STATE_BYTES_MAX: usize = 16 << 20;

/// The streams that a page lists.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct StreamSearch {
    r#type: String,
    prefix: String,
    tenant: String,
    /// Where the page begins.
    after: String,
}

/// The events of a stream that a page shows.
#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct StreamChoice {
    pub(in crate::dashboard) r#type: String,
    pub(in crate::dashboard) id: String,
    #[serde(default)]
    tenant: String,
    /// The newest version to show.
    upto: Option<u64>,
}

impl StreamSearch {
    fn filter(&self) -> Result<StreamFilter, CommandError> {
        let name =
            |text: &str| Name::new("aggregate type", text).map_err(|error| CommandError::Usage(error.to_string()));
        Ok(StreamFilter {
            aggregate_type: Some(self.r#type.trim()).filter(|text| !text.is_empty()).map(name).transpose()?,
            id_prefix: self.prefix.trim().to_owned(),
            tenant: parse_tenant(&self.tenant)?,
        })
    }
}

fn parse_tenant(text: &str) -> Result<Option<Uuid>, CommandError> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| CommandError::Usage(format!("`{text}` is no UUID of a tenant"))),
    }
}

/// The link to the events of a stream.
pub(super) fn stream_link(visit: &Visit, aggregate_type: &str, id: &str, tenant: Option<Uuid>) -> String {
    let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
    visit.link("stream", &[("type", aggregate_type), ("id", id), ("tenant", &tenant)])
}

pub(in crate::dashboard) async fn streams(visit: &Visit, search: &StreamSearch) -> Result<Markup, CommandError> {
    let store = visit.inner().source().store()?;
    let after = Some(search.after.as_str()).filter(|after| !after.is_empty());
    let page = list_stream_page(store, &search.filter()?, after, STREAMS).await?;
    let rows = html! {
        @for row in &page.streams {
            tr {
                th scope="row" {
                    a href=(stream_link(visit, &row.aggregate_type, &row.aggregate_id, row.tenant)) { (row.aggregate_id) }
                }
                td { (row.aggregate_type) }
                td.number { (number(row.version)) }
                td { (time(row.recorded_at)) }
                td { @if let Some(tenant) = row.tenant { (tenant) } }
            }
        }
    };
    let next = page.next.as_ref().map(|next| {
        let kept = [("type", &*search.r#type), ("prefix", &search.prefix), ("tenant", &search.tenant), ("after", next)];
        visit.link("streams", &kept)
    });
    Ok(html! {
        form.search method="get" action=(visit.link("streams", &[])) role="search" {
            (search_field("type", "Aggregate type", &search.r#type))
            (search_field("prefix", "Id begins with", &search.prefix))
            (search_field("tenant", "Tenant", &search.tenant))
            p.field { button { "Search" } }
        }
        @if !page.streams.is_empty() {
            (table("Streams, by the order of their ids", "Stream, Type, Events>, Last event, Tenant", &rows))
        } @else if next.is_some() {
            p { "No stream of this part of the store matches." }
        } @else {
            p { "No further stream matches." }
        }
        @if let Some(next) = &next {
            @if page.streams.len() < STREAMS {
                p.hint { "A page searches about " (number(LISTING_ROWS_MAX as u64)) " streams; the next page goes on after them." }
            }
            p { a.next href=(next) rel="next" { "Next page" } }
        }
    })
}

pub(in crate::dashboard) async fn stream(visit: &Visit, choice: &StreamChoice) -> Result<Markup, CommandError> {
    let store = visit.inner().source().store()?;
    let tenant = parse_tenant(&choice.tenant)?.filter(|tenant| !tenant.is_nil());
    let stream = StreamId::parse(&choice.r#type, &choice.id).map_err(|error| CommandError::Usage(error.to_string()))?;
    let stream = stream.with_tenant_id(tenant);
    let newest = choice.upto.map_or(Version::MAX, Version::new).min(Version::MAX);
    let shown_fields = visit.inner().fields().await?;
    let state = StateComparison::begin(&stream, &shown_fields);
    let PageEvents { mut events, are_too_large, fault } = read_events(store, &stream, newest, state.is_some()).await?;
    let count = count_shown(&events);
    events.reverse();
    let states = match state {
        Some(_) if are_too_large => StateChanges::of_too_large(),
        // the state before the first of the events is not known
        Some(state) if fault.is_none() => StateChanges::of(state, &events, count).await,
        _ => StateChanges::default(),
    };
    let shown = &events[events.len().saturating_sub(count + 1)..];
    let mut comparison = PayloadComparison::default();
    let mut compare = |event| {
        let payload = Payload::new(event, &shown_fields);
        (event, payload.is_cut, comparison.compare(event.event_type().as_str(), &payload))
    };
    let mut compared: Vec<_> = shown.iter().map(&mut compare).collect();
    let older = (compared.len() > count).then(|| compared.remove(0)).map(|(event, ..)| event.version().to_string());
    Ok(html! {
        @if let Some(tenant) = tenant { p { "Tenant " code { (tenant) } } }
        @if compared.is_empty() {
            p { "The stream has no events." }
        }
        @if let Some(reason) = &fault { p.problem role="alert" { "Earlier events cannot be read: " (reason) } }
        @if let Some(reason) = &states.unknown { p.hint { (reason) } }
        ol.timeline reversed aria-label="Events, the newest first" {
            @for (event, is_cut, fields) in compared.iter().rev() {
                @let actor = shown_fields.actor(event.metadata());
                li { (event_entry(event, actor, fields, *is_cut, states.of_version.get(&event.version()))) }
            }
        }
        @if let Some(upto) = older {
            @let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
            @let link = visit.link("stream", &[("type", &choice.r#type), ("id", &choice.id), ("tenant", &tenant), ("upto", &upto)]);
            p { a.next href=(link) rel="next" { "Older events" } }
        }
    })
}

/// The events of a page, the newest first, and one more, to compare the oldest one with.
#[derive(Default)]
struct PageEvents {
    events: Vec<RecordedEvent>,
    /// Set if the events back to the first one, from which the page computes states, have more than
    /// [`STATE_BYTES_MAX`].
    are_too_large: bool,
    /// The reason why the store cannot read the events before these.
    fault: Option<String>,
}

/// Reads the events of a page. If the page shows states, and the newest version is not above [`STATE_VERSION_MAX`],
/// reads back to the first event, but at most [`STATE_BYTES_MAX`], and not past an event that the store cannot read.
async fn read_events(
    store: &dyn EventStore,
    stream: &StreamId,
    newest: Version,
    shows_states: bool,
) -> Result<PageEvents, CommandError> {
    let mut read = store.read_stream(stream, newest, Direction::Backward);
    let (mut page, mut bytes) = (PageEvents::default(), 0);
    loop {
        let event = match read.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(page),
            Err(error @ ReadError::Corrupt { .. }) if !page.events.is_empty() => {
                page.fault = Some(CommandError::from(error).to_line());
                return Ok(page);
            }
            Err(error) => return Err(error.into()),
        };
        bytes += event_bytes(&event);
        page.events.push(event);
        let reads_all = shows_states && page.events[0].version() <= STATE_VERSION_MAX;
        if page.events.len() > count_shown(&page.events) && (!reads_all || bytes > STATE_BYTES_MAX) {
            page.are_too_large = reads_all;
            return Ok(page);
        }
    }
}

/// Returns the number of `events`, the newest first, that a page shows.
fn count_shown(events: &[RecordedEvent]) -> usize {
    let mut bytes = 0;
    let fits = |event: &&RecordedEvent| {
        bytes += event_bytes(event);
        bytes <= EVENT_BYTES_MAX
    };
    events.iter().take(EVENTS).take_while(fits).count().max(1)
}

/// The changes of events in the state of their aggregate.
#[derive(Default)]
struct StateChanges {
    /// The changes of an event, by its version.
    of_version: BTreeMap<Version, Vec<Difference>>,
    /// The reason why some are unknown.
    unknown: Option<String>,
}

impl StateChanges {
    /// The unknown changes of events that are too large to compute states.
    fn of_too_large() -> Self {
        let most = STATE_BYTES_MAX >> 20;
        let unknown = format!("The state is unknown: the events up to here have more than {most} MiB.");
        Self { of_version: BTreeMap::new(), unknown: Some(unknown) }
    }

    /// Applies the events of a stream, the oldest first; the last `count` of them are shown. Knows no changes if the
    /// first event of the stream is missing.
    async fn of(mut state: StateComparison<'_>, events: &[RecordedEvent], count: usize) -> Self {
        if events.first().is_some_and(|event| event.version() != Version::FIRST) {
            let unknown =
                format!("What an event changed in the state is shown for the first {STATE_VERSION_MAX} events.");
            return Self { of_version: BTreeMap::new(), unknown: Some(unknown) };
        }
        let (passed, shown) = events.split_at(events.len().saturating_sub(count));
        for event in passed {
            // a large state takes long: in between, the application handles its own requests
            yield_now().await;
            state.pass(event);
        }
        let mut of_version = BTreeMap::new();
        for event in shown {
            yield_now().await;
            of_version.insert(event.version(), state.advance(event));
        }
        Self { of_version, unknown: state.fault().map(str::to_owned) }
    }
}

fn event_entry(
    event: &RecordedEvent,
    actor: Option<&str>,
    fields: &[Difference],
    is_cut: bool,
    state: Option<&Vec<Difference>>,
) -> Markup {
    let metadata = event.metadata();
    let at = event.position().map(|position| position.to_string());
    html! {
        article {
            h2 { (event.event_type()) " " span.version { "v" (event.version()) } }
            p.facts-line {
                (time(Some(metadata.recorded_at().unwrap_or(metadata.occurred_at()))))
                @if let Some(actor) = actor { " · by " (actor) }
            }
            @if !fields.is_empty() { (compared_fields("Fields", fields)) }
            @if is_cut { p.hint { "More fields than are shown." } }
            @if let Some(changed) = state.filter(|changed| !changed.is_empty()) {
                h3 { "Changed in the state" }
                (compared_fields("State", changed))
            }
            details {
                summary { "Metadata" }
                dl.facts {
                    div { dt { "Event id" } dd { code { (metadata.event_id()) } } }
                    div { dt { "Position" } dd { (position(at.as_deref())) } }
                    div { dt { "Schema version" } dd { (metadata.schema_version()) } }
                    div { dt { "Occurred" } dd { (time(Some(metadata.occurred_at()))) } }
                    div { dt { "Correlation" } dd { code { (metadata.correlation_id()) } } }
                    @if let Some(cause) = metadata.causation_id() { div { dt { "Caused by" } dd { code { (cause) } } } }
                }
            }
        }
    }
}

fn compared_fields(caption: &str, fields: &[Difference]) -> Markup {
    let rows = html! {
        @for field in fields {
            tr {
                th scope="row" { code { (field.path) } }
                @match &field.change {
                    Change::None => td { (field.value) },
                    Change::New => td { ins { (field.value) } span.change { " new" } },
                    Change::From(before) => td { del { (before) } " → " ins { (field.value) } span.change { " changed" } },
                    Change::Gone => td { del { (field.value) } span.change { " gone" } },
                }
            }
        }
    };
    field_table(caption, &rows)
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use eventbus::{NewEvent, prelude::*};

    use super::*;
    use crate::query::FieldChoice;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate = Tally)]
    struct Tallied;

    #[derive(Debug, Default, Serialize, Aggregate)]
    #[aggregate(events(Tallied))]
    struct Tally;

    impl Apply for Tally {
        fn apply(&mut self, _event: &TallyEvent) {}
    }

    #[test]
    fn requests_of_the_application_run_between_two_events() {
        let (stream, choice) = (StreamId::parse("Tally", "t-1").unwrap(), FieldChoice::default());
        let tallied = |version| NewEvent::from_event(&Tallied).unwrap().recorded_as(stream.clone(), version, None);
        let events: Vec<_> = (1..=5_u64).map(|version| tallied(version.into())).collect();
        let state = StateComparison::begin(&stream, &choice).unwrap();
        let (mut changes, mut context) =
            (pin!(StateChanges::of(state, &events, 2)), Context::from_waker(Waker::noop()));
        let mut waits = 0;
        while changes.as_mut().poll(&mut context).is_pending() {
            waits += 1;
        }
        assert_eq!(waits, events.len());
    }
}
