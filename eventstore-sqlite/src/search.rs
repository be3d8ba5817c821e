//! The limits of a search in the feed.

use eventbus::Position;
use rusqlite::Connection;

use crate::{
    query::{QueryError, query_value},
    row::to_position,
};

/// Maximum number of positions that one page searches; with tags, only events with the rarest tag of a set count. So a
/// search for rare events does not keep a connection for long.
pub(crate) const SEARCH_POSITIONS_MAX: i64 = 8_192;

/// Returns the position of the last event: there is nothing to search for beyond it.
pub(crate) fn load_head(connection: &Connection) -> Result<Position, QueryError> {
    let head: i64 = query_value(connection, include_str!("sql/head.sql"), [])?.unwrap_or(0);
    Ok(to_position(head, || format!("position {head}"))?)
}
