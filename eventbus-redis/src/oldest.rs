//! The oldest event that the stream of a bus still has: trimming has removed those before it.

use eventbus::Position;

use crate::{
    RedisCommandError,
    command::pages::{self, EntryPage},
    inner::BusInner,
    wire,
};

/// Entries that are read at once: mostly the first one has a position.
const PAGE_LEN: usize = 10;

/// Returns the position of the oldest event with one; `None` if there is none.
pub(crate) async fn oldest_position(bus: &BusInner) -> Result<Option<Position>, RedisCommandError> {
    bus.ensure_open()?;
    let mut after: Option<String> = None;
    loop {
        let page: EntryPage = bus.run_idempotent(&pages::page(bus.stream(), after.as_deref(), None, PAGE_LEN)).await?;
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
