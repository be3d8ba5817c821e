//! Adding a tag to an event that is stored already.

use eventbus::{
    BoxError, RecordedEvent,
    event::{TAGS_MAX, Tag},
    port::AppendError,
    support::{no_such_event, too_many_tags},
};
use sqlx::{Row as _, postgres::PgRow};

use super::retry_budget::RetryBudget;
use crate::{columns::bind_stream, statement_error::StatementError, store_inner::StoreInner};

/// Adds a tag to an event, and counts it; returns `false` if the event has the tag.
///
/// Sends the statement until it is answered, or the retry time is over; a repeat finds the tag that an earlier one added.
pub(crate) async fn add_tag(store: &StoreInner, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError> {
    let mut budget = RetryBudget::new(store.config().connect_timeout);
    let mut doubt: Option<BoxError> = None;
    loop {
        let sent = send(store, event, tag).await;
        let may_retry = !matches!(sent, Err(StatementError::NotSent(_)));
        let source = match sent {
            Ok(rows) => return decode(rows.first(), event),
            Err(StatementError::Refused(source)) => {
                let stream = event.metadata().stream().clone();
                return Err(doubt.map_or(AppendError::Refused { stream, source }, AppendError::OutcomeUnknown));
            }
            Err(StatementError::NoAnswer(source)) => {
                doubt.get_or_insert(source);
                "the statement got no answer".into()
            }
            Err(fault) => fault.into(),
        };
        if !may_retry || !budget.wait_before_retry(store.connections()).await {
            return Err(doubt.map_or(AppendError::Unavailable(source), AppendError::OutcomeUnknown));
        }
    }
}

async fn send(store: &StoreInner, event: &RecordedEvent, tag: &Tag) -> Result<Vec<PgRow>, StatementError> {
    let query = bind_stream(store.statements().query(include_str!("../sql/add_tag.sql")), event.metadata().stream());
    let query = query.bind(event.version().as_i64()).bind(tag.as_str()).bind(TAGS_MAX as i64);
    let _permit = store.connections().repeated_wait_permit().await?;
    store.connections().fetch_all(query).await
}

fn decode(row: Option<&PgRow>, event: &RecordedEvent) -> Result<bool, AppendError> {
    let row = row.ok_or_else(|| no_such_event(event))?;
    let unreadable = |error: sqlx::Error| AppendError::OutcomeUnknown(error.into());
    if row.try_get("has_tag").map_err(unreadable)? {
        return Ok(false);
    }
    match row.try_get("is_added").map_err(unreadable)? {
        true => Ok(true),
        false => Err(too_many_tags(event)),
    }
}
