//! A place in the stream of a bus, and reads from there.

use std::sync::Arc;

use eventbus::port::MessageId;
use redis::ScriptInvocation;

use super::{HistoryEntry, HistoryError};
use crate::{command::pages::EntryPage, entry_id::EntryId, inner::BusInner};

/// A place in the stream of a bus; it starts before the oldest entry.
#[derive(derive_more::Debug, Clone)]
pub(super) struct Cursor {
    #[debug("{}", bus.stream())]
    bus: Arc<BusInner>,
    after: Option<MessageId>,
}

impl Cursor {
    pub(super) fn new(bus: Arc<BusInner>) -> Self {
        Self { bus, after: None }
    }

    pub(super) fn bus(&self) -> &BusInner {
        &self.bus
    }

    pub(super) fn move_behind(&mut self, id: &MessageId) {
        self.after = Some(id.clone());
    }

    /// Returns the id that was read last, as the server expects it.
    pub(super) fn id(&self) -> Result<Option<&str>, HistoryError> {
        let Some(id) = &self.after else {
            return Ok(None);
        };
        match EntryId::parse_id_or_time(id.as_str()) {
            Some(_) => Ok(Some(id.as_str())),
            None => Err(HistoryError::InvalidId { id: id.clone() }),
        }
    }

    pub(super) fn stream(&self) -> &str {
        self.bus.stream()
    }

    /// Reads a page; the cursor stays.
    pub(super) async fn read(&self, page: &ScriptInvocation<'_>) -> Result<Vec<HistoryEntry>, HistoryError> {
        self.check_open()?;
        let page: Result<EntryPage, _> = self.bus.connection().run_idempotent(page).await;
        let page = page.map_err(|error| HistoryError::from_command_error(self.bus.destination(), error))?;
        Ok(page.entries.into_iter().map(HistoryEntry::from).collect())
    }

    pub(super) fn check_open(&self) -> Result<(), HistoryError> {
        if self.bus.consuming().is_closed() {
            return Err(HistoryError::ShutDown { destination: self.bus.destination().clone() });
        }
        Ok(())
    }
}
