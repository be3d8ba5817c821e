//! The statement that saves the progress of shards.

use eventbus::{
    BoxError, EventId, Name, Position,
    port::handler_progress::{DeliveryRow, ShardId, ShardSave},
};

use crate::{pool::Query, statements::Statements};

/// The names and numbers of shards, as parameters.
pub(crate) fn shard_columns<'s>(shards: impl Iterator<Item = &'s ShardId>) -> (Vec<&'s str>, Vec<i16>) {
    shards.map(|shard| (shard.handler.as_str(), shard_number(shard))).unzip()
}

fn shard_number(shard: &ShardId) -> i16 {
    // no store has a shard with such a number
    i16::try_from(shard.number).unwrap_or(i16::MAX)
}

/// Returns an epoch as a parameter.
pub(crate) fn epoch_parameter(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

/// Returns the statement of a joint save: one that does less if no save has rows, left types or a release.
pub(crate) fn save_statement(
    statements: &Statements,
    member: &Name,
    last_read: Option<(Position, EventId)>,
    saves: &[ShardSave],
) -> Result<Query<'static>, BoxError> {
    let is_plain =
        |save: &ShardSave| save.left.is_empty() && save.rows.is_empty() && save.finished.is_empty() && !save.is_release;
    if saves.iter().all(is_plain) {
        let query = statements.query(include_str!("sql/save_shards.sql"));
        return Ok(bind_progress(query, member, last_read, saves));
    }
    let query = statements.query(include_str!("sql/save_shards_with_rows.sql"));
    let query = bind_progress(query, member, last_read, saves);
    let left: Result<Vec<_>, _> = saves.iter().map(|save| serde_json::to_string(&save.left)).collect();
    let query = query.bind(left?).bind(saves.iter().map(|save| save.is_release).collect::<Vec<_>>());
    Ok(bind_finished(bind_rows(query, saves), saves))
}

fn bind_progress(
    query: Query<'static>,
    member: &Name,
    last_read: Option<(Position, EventId)>,
    saves: &[ShardSave],
) -> Query<'static> {
    let (handlers, numbers) = shard_columns(saves.iter().map(|save| &save.shard));
    query
        .bind(member.as_str())
        .bind(last_read.map(|(position, _)| position.as_i64()))
        .bind(last_read.map(|(_, event_id)| event_id.as_uuid()))
        .bind(handlers)
        .bind(numbers)
        .bind(saves.iter().map(|save| epoch_parameter(save.epoch)).collect::<Vec<_>>())
        .bind(saves.iter().map(|save| save.checkpoint.as_i64()).collect::<Vec<_>>())
        .bind(saves.iter().map(|save| array_text(&save.waiting)).collect::<Vec<_>>())
        .bind(saves.iter().map(|save| array_text(&save.started)).collect::<Vec<_>>())
        .bind(saves.iter().map(|save| save.has_progressed).collect::<Vec<_>>())
}

fn bind_rows(query: Query<'static>, saves: &[ShardSave]) -> Query<'static> {
    let rows: Vec<(&ShardId, &DeliveryRow)> =
        saves.iter().flat_map(|save| save.rows.iter().map(|row| (&save.shard, row))).collect();
    query
        .bind(rows.iter().map(|(shard, _)| shard.handler.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(shard, _)| shard_number(shard)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.position.as_i64()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.attempts.to_json()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.dead_since).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.is_held).collect::<Vec<_>>())
}

fn bind_finished(query: Query<'static>, saves: &[ShardSave]) -> Query<'static> {
    let finished: Vec<(&ShardId, Position)> =
        saves.iter().flat_map(|save| save.finished.iter().map(|position| (&save.shard, *position))).collect();
    query
        .bind(finished.iter().map(|(shard, _)| shard.handler.as_str()).collect::<Vec<_>>())
        .bind(finished.iter().map(|(shard, _)| shard_number(shard)).collect::<Vec<_>>())
        .bind(finished.iter().map(|(_, position)| position.as_i64()).collect::<Vec<_>>())
}

/// Returns the text of an array, since a parameter cannot be an array of arrays of different lengths.
fn array_text(positions: &[Position]) -> String {
    let positions: Vec<_> = positions.iter().map(|position| position.as_i64().to_string()).collect();
    format!("{{{}}}", positions.join(","))
}
