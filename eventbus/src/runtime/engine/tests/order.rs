//! The order in which a shard starts its events.

use std::collections::BTreeMap;

use super::super::shard::{End, Shard};
use crate::{
    domain::{
        name::Name,
        record::NewEvent,
        stream::{Position, StreamId},
    },
    port::handler_progress::{AcquiredShard, ShardId},
};

const EVENTS: u64 = 400;

/// A shard that began the first event of each stream would leave more events behind its checkpoint than a save lists, and
/// give them rows.
#[test]
fn a_shard_starts_its_oldest_event_first_and_a_backlog_gets_no_rows() {
    let mut shard = Shard::new(&AcquiredShard {
        shard: ShardId { handler: Name::from_static("mail"), number: 0 },
        epoch: 1,
        has_crashed: false,
        unclean: 0,
        changes: 0,
        checkpoint: Position::START,
        waiting: Vec::new(),
        started: Vec::new(),
        left: BTreeMap::new(),
    });
    for number in 1..=EVENTS {
        let stream = StreamId::parse("Order", &format!("o-{}", (number - 1) / 100)).unwrap();
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        shard.add(event.recorded_as(stream, number.into(), Some(number.into())), 0);
    }
    for number in 1..=EVENTS {
        let taken = shard.take().unwrap();
        assert_eq!(taken.position, Position::new(number));
        let save = shard.save(false, false).unwrap();
        assert_eq!((save.rows.len(), save.checkpoint), (0, Position::new(number)));
        shard.end(&taken, End::Done, 0);
    }
    assert!(shard.take().is_none());
}
