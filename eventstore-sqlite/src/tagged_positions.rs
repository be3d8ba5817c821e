//! The positions of the events that have wanted tags.
//!
//! Each set of tags is walked along its rarest tag, in the order of `sql/tagged_positions.sql`; the walks are merged.

use std::collections::{BTreeMap, VecDeque};

use eventbus::Position;
use rusqlite::{Connection, Row, params};
use serde_json::Value;

use crate::{
    filter::FilterParameters,
    query::{QueryError, query_rows},
    row::to_position,
    tag_rows::TagRow,
};

/// The number of events that a walk reads at once.
const WALK_EVENTS: i64 = 64;

/// The events up to a position that have the rarest tag of a wanted set, in position order, each once.
pub(crate) struct TaggedPositions<'c> {
    connection: &'c Connection,
    filter: &'c FilterParameters,
    through: Position,
    walks: Vec<TagWalk>,
}

/// A position, and whether its event has all tags of a set and matches the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaggedPosition {
    pub(crate) position: Position,
    pub(crate) is_wanted: bool,
}

impl<'c> TaggedPositions<'c> {
    /// Finds the tags of the filter's sets; the positions begin after `after`.
    ///
    /// `through` is at most the position of the last event, so that all statements find the same events.
    pub(crate) fn find(
        connection: &'c Connection,
        after: Position,
        through: Position,
        filter: &'c FilterParameters,
    ) -> Result<Self, QueryError> {
        let mut walks = Vec::new();
        for set in filter.tags.iter().flatten() {
            let mut of_tenants = BTreeMap::<_, Vec<TagRow>>::new();
            for tag in set {
                for (tenant, row) in TagRow::find_all(connection, filter.tenant_id(), tag)? {
                    of_tenants.entry(tenant).or_default().push(row);
                }
            }
            let of_all_tags = of_tenants.into_values().filter(|rows| rows.len() == set.len());
            walks.extend(of_all_tags.filter_map(|rows| TagWalk::new(&rows, after)));
        }
        Ok(Self { connection, filter, through, walks })
    }

    /// Returns the next position; `None` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<TaggedPosition>, QueryError> {
        let mut next: Option<TaggedPosition> = None;
        for walk in &mut self.walks {
            let Some(found) = walk.peek(self.connection, self.through, self.filter)? else { continue };
            match &mut next {
                Some(next) if next.position < found.position => {}
                Some(next) if next.position == found.position => next.is_wanted |= found.is_wanted,
                _ => next = Some(found),
            }
        }
        if let Some(next) = next {
            self.walks.iter_mut().for_each(|walk| walk.pop(next.position));
        }
        Ok(next)
    }
}

/// The events that have a tag.
struct TagWalk {
    tag_no: i64,
    /// A JSON array: the numbers of the other tags of the set.
    other_tags: String,
    /// Positions that were read, and not yet returned.
    read_ahead: VecDeque<TaggedPosition>,
    /// Where the next read begins; `None` if there is no further event.
    after: Option<Position>,
}

impl TagWalk {
    /// A walk along the rarest tag; `None` if no event has one of the tags.
    fn new(rows: &[TagRow], after: Position) -> Option<Self> {
        let tag_no = rows.iter().min_by_key(|row| row.total())?.number()?;
        let numbers = rows.iter().map(TagRow::number).collect::<Option<Vec<_>>>()?;
        let other_tags: Value = numbers.into_iter().filter(|number| *number != tag_no).collect();
        let (other_tags, read_ahead) = (other_tags.to_string(), VecDeque::new());
        Some(Self { tag_no, other_tags, read_ahead, after: Some(after) })
    }

    fn peek(
        &mut self,
        connection: &Connection,
        through: Position,
        filter: &FilterParameters,
    ) -> Result<Option<TaggedPosition>, QueryError> {
        if let (true, Some(after)) = (self.read_ahead.is_empty(), self.after) {
            let FilterParameters { aggregate_types, event_types, slots, .. } = filter;
            let (after, through) = (after.as_i64(), through.as_i64());
            let parameters =
                params![self.tag_no, self.other_tags, after, through, aggregate_types, event_types, WALK_EVENTS, slots];
            let sql = include_str!("sql/tagged_positions.sql");
            self.read_ahead = query_rows(connection, sql, parameters, decode)?.into();
            let is_full = self.read_ahead.len() == WALK_EVENTS as usize;
            self.after = self.read_ahead.back().filter(|_| is_full).map(|last| last.position);
        }
        Ok(self.read_ahead.front().copied())
    }

    fn pop(&mut self, position: Position) {
        self.read_ahead.pop_front_if(|front| front.position == position);
    }
}

fn decode(row: &Row<'_>) -> Result<TaggedPosition, QueryError> {
    let position = to_position(row.get(0)?, || "the position of a tagged event".into())?;
    Ok(TaggedPosition { position, is_wanted: row.get(1)? })
}
