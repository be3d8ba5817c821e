//! Which deaths of owners a shard counts.

use std::collections::BTreeMap;

use super::{
    super::shard::Restored,
    acquired, event_at,
    model::{Release, new_queue},
    new_shard,
};
use crate::{domain::clock::SharedClock, testkit::ManualClock};

/// The number of owners in a row without progress after which events run alone.
const UNCLEAN: u32 = 3;

#[test]
fn a_shard_without_unfinished_events_counts_no_death() {
    let mut shard = new_shard(UNCLEAN, 7);
    shard.note_read(6.into());
    assert!(!shard.save(false, false).unwrap().has_progressed, "the feed is not read to its end");
    shard.note_read(7.into());
    assert!(shard.save(false, true).unwrap().has_progressed);
    shard.add(event_at(8, 1), 0);
    assert_eq!((shard.wait_to_run_alone(), shard.ready()), (None, 1), "it runs beside others");
}

#[test]
fn a_shard_at_the_end_of_the_feed_counts_no_death() {
    let mut shard = new_shard(UNCLEAN, 0);
    shard.note_idle();
    assert!(shard.save(false, true).unwrap().has_progressed);
}

#[test]
fn a_shard_with_an_unfinished_event_that_its_owner_does_not_take_counts_deaths() {
    let clock = ManualClock::new();
    let has_progressed = |restored: Vec<Restored>| {
        let queue = new_queue(Release::Placed, &clock);
        queue.set_shard_count(1);
        let (noted, shared) = (BTreeMap::new(), SharedClock::new(clock.clone()));
        queue.acquire(&acquired(UNCLEAN), restored, (&noted, 0.into()), None, &shared);
        queue.save(false)[0].has_progressed
    };
    assert!(has_progressed(Vec::new()), "without the event");
    assert!(!has_progressed(vec![Restored { position: 1.into(), event: event_at(1, 1), row: None }]));
}

#[test]
fn a_shard_with_an_event_that_former_owners_may_have_run_counts_their_deaths() {
    let mut shard = new_shard(UNCLEAN, 7);
    shard.add(event_at(5, 1), 0);
    shard.note_read(7.into());
    assert!(shard.save(false, false).is_none_or(|save| !save.has_progressed));
    assert_eq!((shard.wait_to_run_alone().is_some(), shard.ready()), (true, 0), "it runs alone");
}
