//! Visiting the events of one stream: only the columns that a fold needs, decoded as their rows arrive.
//!
//! Invariant: a row that cannot be visited, as it is damaged or an earlier one is missing, is left to the pages of
//! [`read`](crate::read), which name what is wrong.

use std::ops::ControlFlow;

use eventbus::{
    BoxError, EventId, StreamId, Version,
    event::EventFields,
    port::{Direction, ReadError, ReadStream as _},
    store::{VisitEvent, VisitedEvent, visit_records},
    support::EventTypeNames,
};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{columns::bind_stream, record::is_object, store::PgEventStore};

/// The most events that one statement returns: their rows keep a connection, and a snapshot on the server.
const EVENTS_MAX: i64 = 10_000;

pub(crate) async fn visit_stream(
    store: &PgEventStore,
    stream: &StreamId,
    from: Version,
    visit: &mut VisitEvent<'_>,
) -> Result<(), ReadError> {
    let mut visitor =
        RowVisitor { next: from.max(Version::FIRST), rows: 0, names: EventTypeNames::default(), end: None, visit };
    loop {
        visitor.rows = 0;
        let query = store.inner().statements().query(include_str!("sql/visit.sql"));
        let query = bind_stream(query, stream).bind(visitor.next.as_i64()).bind(EVENTS_MAX);
        let fetched = store.inner().connections().fetch_each(query, |row| visitor.take(&row)).await;
        match (&visitor.end, fetched) {
            (Some(End::ByVisitor), _) => return Ok(()),
            (Some(End::AtFault), _) => break,
            (None, Err(error)) if visitor.rows == 0 => return Err(error.into()),
            // payloads of many bytes may take longer than a statement has: the pages are smaller
            (None, Err(_)) => break,
            (None, Ok(())) if visitor.rows < EVENTS_MAX => return Ok(()),
            (None, Ok(())) => {}
        }
    }
    let from = visitor.next;
    visit_records(store.read_stream(stream, from, Direction::Forward), visit).await
}

/// Why no further row is visited.
enum End {
    ByVisitor,
    /// The row is damaged, or not that of the next version.
    AtFault,
}

struct RowVisitor<'v, 'f> {
    /// The version of the next event.
    next: Version,
    /// Number of rows visited since the statement was sent.
    rows: i64,
    names: EventTypeNames,
    end: Option<End>,
    visit: &'v mut VisitEvent<'f>,
}

impl RowVisitor<'_, '_> {
    fn take(&mut self, row: &PgRow) {
        if self.end.is_some() {
            return;
        }
        self.end = match self.try_visit(row) {
            Ok(ControlFlow::Continue(())) => None,
            Ok(ControlFlow::Break(())) => Some(End::ByVisitor),
            Err(_) => Some(End::AtFault),
        };
    }

    fn try_visit(&mut self, row: &PgRow) -> Result<ControlFlow<()>, BoxError> {
        if row.try_get::<i64, _>(0)? != self.next.as_i64() {
            return Err("not the next version".into());
        }
        let event_type = self.names.name(row.try_get(1)?)?;
        let schema_version = u32::try_from(row.try_get::<i32, _>(2)?)?;
        let payload: &str = row.try_get_unchecked(5)?; // `json` as its text
        if schema_version == 0 || !is_object(payload) {
            return Err("damaged".into());
        }
        let has_sealed_fields = row.try_get(3)?;
        let event_id = EventId::from(row.try_get::<Uuid, _>(4)?);
        let fields = EventFields { event_type, schema_version, has_sealed_fields, payload };
        let event = VisitedEvent { version: self.next, event_id, fields };
        (self.next, self.rows) = (self.next.next(), self.rows + 1);
        Ok((self.visit)(event))
    }
}
