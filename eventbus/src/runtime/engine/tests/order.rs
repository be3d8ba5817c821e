//! The order in which a shard starts its events.

use super::{super::shard::End, event_at, new_shard};
use crate::domain::stream::Position;

const EVENTS: u64 = 400;

/// A shard that began the first event of each stream would leave more events behind its checkpoint than a save lists, and
/// give them rows.
#[test]
fn a_shard_starts_its_oldest_event_first_and_a_backlog_gets_no_rows() {
    let mut shard = new_shard(0, EVENTS);
    for number in 1..=EVENTS {
        shard.add(event_at(number, (number - 1) / 100), 0);
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
