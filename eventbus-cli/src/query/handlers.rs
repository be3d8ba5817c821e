//! The handlers of a store, which keeps their progress.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::{
    Position,
    clock::SharedClock,
    port::{
        HandlerProgress,
        handler_progress::{ListedHandler, ListedShard},
    },
    store::EventStore,
};
use serde::Serialize;

use super::position::Lag;
use crate::{error::CommandError, output::serialize_position};

/// A handler of a store.
#[derive(Debug, Clone, Serialize)]
pub struct HandlerRow {
    /// Its durable name.
    pub handler: String,
    /// Its group, by which it is paused.
    pub group: String,
    /// Set if its group is paused: it is not behind.
    #[serde(rename = "paused")]
    pub is_paused: bool,
    /// Set if no live process has it, while the application runs: a release may have removed or renamed it.
    #[serde(rename = "unused")]
    pub is_unused: bool,
    /// The processes that own its shards.
    pub owners: Vec<String>,
    /// Its shards.
    pub shards: Vec<ShardRow>,
    /// Its position: the lowest checkpoint of its shards.
    #[serde(serialize_with = "serialize_position")]
    pub position: Position,
    /// The end of the feed.
    #[serde(serialize_with = "serialize_position")]
    pub head: Position,
    /// Its lag behind the end of the feed.
    #[serde(flatten)]
    pub lag: Lag,
    /// The events up to the checkpoints that it has not finished: they wait, run, or wait for a retry.
    pub waiting: u64,
    /// Its dead letters.
    pub dead_letters: u64,
}

/// A shard of a handler.
#[derive(Debug, Clone, Serialize)]
pub struct ShardRow {
    /// Its number.
    pub shard: u16,
    /// The process that owns it.
    pub owner: Option<String>,
    /// The number of owners that it has had.
    pub epoch: u64,
    /// The highest event that was started.
    #[serde(serialize_with = "serialize_position")]
    pub checkpoint: Position,
    /// The events up to the checkpoint that have not started and have not failed.
    pub waiting: u64,
    /// The events that ran when the progress was saved last.
    pub started: u64,
    /// The event types that the checkpoint does not count for, with the positions from which on they wait.
    pub left: BTreeMap<String, String>,
}

impl From<&ListedShard> for ShardRow {
    fn from(shard: &ListedShard) -> Self {
        Self {
            shard: shard.number,
            owner: shard.owner.as_ref().map(ToString::to_string),
            epoch: shard.epoch,
            checkpoint: shard.checkpoint,
            waiting: shard.waiting,
            started: shard.started,
            left: shard.left.iter().map(|(name, from)| (name.to_string(), from.to_string())).collect(),
        }
    }
}

impl HandlerRow {
    /// Returns the owner as one text: the process, or the number of processes.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        match &*self.owners {
            [] => None,
            [owner] => Some(owner.clone()),
            owners => Some(format!("{} processes", owners.len())),
        }
    }

    /// Returns what an operator must know of it before its lag: `paused`, `unused`.
    #[must_use]
    pub const fn remark(&self) -> Option<&'static str> {
        match (self.is_paused, self.is_unused) {
            (true, _) => Some("paused"),
            (false, true) => Some("unused"),
            (false, false) => None,
        }
    }
}

/// Returns the progress of the handlers of a store.
///
/// # Errors
/// [`CommandError::Usage`] if the store keeps none.
pub(crate) fn progress_of(store: &dyn EventStore) -> Result<&dyn HandlerProgress, CommandError> {
    store.handler_progress().ok_or_else(|| CommandError::Usage(format!("{} keeps no handlers", store.describe())))
}

/// Lists the handlers of a store, by name; none if the store keeps none.
///
/// # Errors
/// [`CommandError`] if the store cannot be reached.
pub async fn list_handlers(store: &dyn EventStore, clock: &SharedClock) -> Result<Vec<HandlerRow>, CommandError> {
    let Some(progress) = store.handler_progress() else { return Ok(Vec::new()) };
    let handlers = progress.list_handlers().await?;
    let head = store.head().await?;
    let owned = |handler: &ListedHandler| handler.shards.iter().any(|shard| shard.owner.is_some());
    let is_app_running = handlers.iter().any(owned);
    let mut lags = BTreeMap::new();
    let mut rows = Vec::with_capacity(handlers.len());
    for handler in &handlers {
        let position = handler.shards.iter().map(|shard| shard.checkpoint).min().unwrap_or(head);
        // most handlers are at the same position
        let lag = match lags.get(&position) {
            Some(lag) => *lag,
            None => *lags.entry(position).or_insert(Lag::load(store, clock, position, head).await?),
        };
        let owners: BTreeSet<_> = handler.shards.iter().filter_map(|shard| shard.owner.as_ref()).collect();
        let open: u64 = handler.shards.iter().map(|shard| shard.waiting + shard.started).sum();
        rows.push(HandlerRow {
            handler: handler.noted.name.to_string(),
            group: handler.noted.group.to_string(),
            is_paused: handler.is_paused,
            is_unused: is_app_running && !owned(handler),
            owners: owners.into_iter().map(ToString::to_string).collect(),
            shards: handler.shards.iter().map(ShardRow::from).collect(),
            position,
            head,
            lag,
            waiting: open + handler.waiting_rows,
            dead_letters: handler.dead_rows,
        });
    }
    Ok(rows)
}
