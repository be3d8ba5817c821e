//! The oldest events that the streams of a bus still have: trimming has removed those before them.

use std::collections::BTreeMap;

use eventbus::Position;

use crate::{
    RedisCommandError,
    command::pages::{self, EntryPage},
    inner::BusInner,
    wire,
};

/// Entries that are read at once: mostly the first one has a position.
const PAGE_LEN: usize = 10;

/// Returns the position of the oldest event of each stream, by its name; `None` if it has no event with a position.
pub(crate) async fn oldest_positions(bus: &BusInner) -> Result<BTreeMap<String, Option<Position>>, RedisCommandError> {
    let mut oldest = BTreeMap::new();
    for part in bus.partitions_or_self() {
        part.ensure_open()?;
        oldest.insert(part.stream().to_owned(), oldest_position(part).await?);
    }
    Ok(oldest)
}

async fn oldest_position(part: &BusInner) -> Result<Option<Position>, RedisCommandError> {
    let mut after: Option<String> = None;
    loop {
        let page: EntryPage =
            part.run_idempotent(&pages::page(&[part.stream()], after.as_deref(), None, PAGE_LEN)).await?;
        let Some(last) = page.entries.last() else { return Ok(None) };
        after = Some(last.id.clone());
        let position = page.entries.iter().find_map(|entry| {
            let record = wire::decode(&entry.field_refs()?).ok()?;
            record.metadata().position()
        });
        if position.is_some() {
            return Ok(position);
        }
    }
}
