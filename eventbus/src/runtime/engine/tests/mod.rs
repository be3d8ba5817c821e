//! Tests of the engine on the store in memory, and of a shard alone.

mod deaths;
mod model;
mod order;

use std::collections::BTreeMap;

use super::shard::Shard;
use crate::{
    domain::{
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{Position, StreamId},
    },
    port::handler_progress::{AcquiredShard, ShardId},
};

/// Returns a shard at the start of the feed, as its owner finds it after so many owners without progress.
fn acquired(unclean: u32) -> AcquiredShard {
    AcquiredShard {
        shard: ShardId { handler: Name::from_static("mail"), number: 0 },
        epoch: 1,
        has_crashed: unclean > 0,
        unclean,
        changes: 0,
        checkpoint: Position::START,
        waiting: Vec::new(),
        started: Vec::new(),
        left: BTreeMap::new(),
    }
}

/// Returns a shard that has read nothing, after so many owners without progress, of a feed that ends at `head`.
fn new_shard(unclean: u32, head: u64) -> Shard {
    Shard::new(&acquired(unclean), head.into())
}

/// Returns the event at a position, of a stream.
fn event_at(position: u64, stream: u64) -> RecordedEvent {
    let stream = StreamId::parse("Order", &format!("o-{stream}")).unwrap();
    let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
    event.recorded_as(stream, position.into(), Some(position.into()))
}
