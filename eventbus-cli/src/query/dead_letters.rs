//! The dead letters of a bus.

use std::time::Duration;

use eventbus::{
    StreamId, Uuid,
    bus::MessageId,
    clock::SharedClock,
    dead_letter::{DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters},
    support::PAGE_BYTES,
};
use serde::Serialize;
use time::OffsetDateTime;

use super::{events::EventView, position::ago};
use crate::{error::CommandError, output::serialize_option_time};

/// The number of dead letters on a page.
const PAGE: usize = 100;

/// The bytes of dead letters at which a search ends, because their events may be large.
const FOUND_BYTES_MAX: usize = 4 * PAGE_BYTES;

/// A search of dead letters: they must match every field that is set.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterQuery {
    /// The group, handler, event type and aggregate id.
    pub filter: DeadLetterFilter,
    /// The type of their aggregates.
    pub aggregate_type: Option<String>,
    /// Their tenant; the nil UUID means no tenant.
    pub tenant: Option<Uuid>,
    /// A text in their error; upper and lower case do not matter.
    pub error: Option<String>,
}

impl DeadLetterQuery {
    /// Limits the search to dead letters that groups gave up longer than `age` ago.
    #[must_use]
    pub fn older_than(mut self, age: Option<Duration>, clock: &SharedClock) -> Self {
        self.filter.before = age.map(|age| ago(clock, age));
        self
    }

    /// Returns `true` if a dead letter matches the fields by which the bus does not filter.
    fn matches(&self, dead_letter: &DeadLetter) -> bool {
        let holds = |wanted: &String| {
            dead_letter.error.as_ref().is_some_and(|error| error.to_lowercase().contains(&wanted.to_lowercase()))
        };
        let stream = stream_of(dead_letter);
        let is_of_type = |wanted: &String| stream.is_some_and(|stream| **stream.aggregate_type() == **wanted);
        let is_of_tenant = |wanted: Uuid| stream.is_some_and(|stream| stream.tenant_id().unwrap_or_default() == wanted);
        self.error.as_ref().is_none_or(holds)
            && self.aggregate_type.as_ref().is_none_or(is_of_type)
            && self.tenant.is_none_or(is_of_tenant)
    }

    /// Returns `true` if a field is set by which the bus does not filter.
    const fn is_beyond_filter(&self) -> bool {
        self.error.is_some() || self.aggregate_type.is_some() || self.tenant.is_some()
    }
}

/// Returns the stream of the event of a dead letter; `None` if it cannot be decoded.
fn stream_of(dead_letter: &DeadLetter) -> Option<&StreamId> {
    dead_letter.record.as_ref().map(|record| record.metadata().stream())
}

/// Returns the aggregate of a dead letter as text, with its type and tenant if the event can be decoded.
pub(crate) fn aggregate_text(dead_letter: &DeadLetter) -> Option<String> {
    stream_of(dead_letter).map(ToString::to_string).or_else(|| dead_letter.aggregate_id.clone())
}

/// A dead letter as commands list it.
#[derive(Debug, Serialize)]
pub struct DeadLetterRow {
    /// Its id among the dead letters.
    pub id: String,
    /// The group that gave it up.
    pub group: Option<String>,
    /// The handler that failed; several are separated by commas.
    pub handler: Option<String>,
    /// The id of the event; `None` if it cannot be decoded.
    pub event_id: Option<String>,
    /// The event type.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// The type of the aggregate; `None` if the event cannot be decoded.
    pub aggregate_type: Option<String>,
    /// The id of the aggregate.
    pub aggregate_id: Option<String>,
    /// The tenant of the aggregate.
    pub tenant: Option<Uuid>,
    /// The aggregate as a text.
    #[serde(skip)]
    pub aggregate: Option<String>,
    /// The number of runs of the handler.
    pub attempts: Option<u32>,
    /// When the group gave it up.
    #[serde(serialize_with = "serialize_option_time")]
    pub dead_since: Option<OffsetDateTime>,
    /// The error of the last run.
    pub error: Option<String>,
    /// The event, if the whole event is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<EventView>,
}

impl From<&DeadLetter> for DeadLetterRow {
    fn from(dead_letter: &DeadLetter) -> Self {
        let record = dead_letter.record.as_ref();
        Self {
            id: dead_letter.id.to_string(),
            group: dead_letter.group.clone(),
            handler: dead_letter.handler.clone(),
            event_id: record.map(|record| record.metadata().event_id().to_string()),
            event_type: dead_letter.event_type.clone(),
            aggregate_type: stream_of(dead_letter).map(|stream| stream.aggregate_type().to_string()),
            aggregate_id: dead_letter.aggregate_id.clone(),
            tenant: stream_of(dead_letter).and_then(StreamId::tenant_id),
            aggregate: aggregate_text(dead_letter),
            attempts: dead_letter.attempts,
            dead_since: dead_letter.dead_lettered_at,
            error: dead_letter.error.clone(),
            event: None,
        }
    }
}

impl DeadLetterRow {
    /// Adds the event.
    #[must_use]
    pub fn with_event(self, dead_letter: &DeadLetter) -> Self {
        Self { event: dead_letter.record.as_ref().map(EventView::from), ..self }
    }
}

/// Finds the dead letters that match, oldest first, after the one with an id: at most `limit`, fewer if they have 4
/// MiB. Also returns the id after which there may be more.
///
/// # Errors
/// [`CommandError`] if the bus cannot be reached, or `after` is no id of a dead letter.
pub async fn find_dead_letters(
    dead_letters: &dyn DeadLetters,
    query: &DeadLetterQuery,
    after: Option<MessageId>,
    limit: usize,
) -> Result<(Vec<DeadLetter>, Option<MessageId>), CommandError> {
    // a page may hold many that do not match
    let page_len = if query.is_beyond_filter() { PAGE } else { PAGE.min(limit) };
    find_on_pages(dead_letters, (query, &query.filter), (after, page_len), (limit, usize::MAX)).await
}

/// Finds dead letters on pages that the bus filters.
async fn find_on_pages(
    dead_letters: &dyn DeadLetters,
    (query, of_bus): (&DeadLetterQuery, &DeadLetterFilter),
    (mut after, page_len): (Option<MessageId>, usize),
    (limit, read_max): (usize, usize),
) -> Result<(Vec<DeadLetter>, Option<MessageId>), CommandError> {
    let (mut found, mut read) = (Vec::new(), 0);
    loop {
        let page = dead_letters.list_dead_letters(of_bus, after.as_ref(), page_len).await?;
        read += page.letters.len();
        let matches = |dead_letter: &DeadLetter| query.filter.matches(dead_letter) && query.matches(dead_letter);
        after = add_matching(&mut found, page, limit, matches);
        if found.len() >= limit || after.is_none() || read >= read_max || are_large(&found) {
            return Ok((found, after));
        }
    }
}

/// Adds the dead letters of a page that match, until there are `limit`. Returns the id after which there may be more.
fn add_matching(
    found: &mut Vec<DeadLetter>,
    page: DeadLetterPage,
    limit: usize,
    matches: impl Fn(&DeadLetter) -> bool,
) -> Option<MessageId> {
    let mut letters = page.letters.into_iter().peekable();
    while let Some(dead_letter) = letters.next() {
        if !matches(&dead_letter) {
            continue;
        }
        let id = dead_letter.id.clone();
        found.push(dead_letter);
        if found.len() >= limit && letters.peek().is_some() {
            return Some(id);
        }
    }
    page.next
}

/// Returns `true` if the dead letters have reached the size at which a search ends.
fn are_large(found: &[DeadLetter]) -> bool {
    found.iter().map(DeadLetter::bytes).sum::<usize>() >= FOUND_BYTES_MAX
}

/// Finds the dead letters that match, oldest first, after the one with an id: at most `limit`, fewer if they have 4
/// MiB. Reads at most about `read_max` dead letters. Also returns the id after which there may be more, even if none
/// was found.
///
/// # Errors
/// [`CommandError`] if the bus cannot be reached, or `after` is no id of a dead letter.
pub async fn search_dead_letters(
    dead_letters: &dyn DeadLetters,
    query: &DeadLetterQuery,
    after: Option<MessageId>,
    limits: (usize, usize),
) -> Result<(Vec<DeadLetter>, Option<MessageId>), CommandError> {
    // without a filter: a bus that filters reads on until it has found some
    find_on_pages(dead_letters, (query, &DeadLetterFilter::default()), (after, PAGE), limits).await
}
