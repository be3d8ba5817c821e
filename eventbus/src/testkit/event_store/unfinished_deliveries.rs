//! Rules of unfinished deliveries: events that a group has not finished although its checkpoint has passed them.

use time::{OffsetDateTime, macros::datetime};

use super::store_under_test::StoreUnderTest;
use crate::{
    Name, Position,
    domain::clock::SharedClock,
    port::{DeadDelivery, EventStore, ProgressUpdate, UnfinishedDelivery, attempts::DeliveryAttempts},
};

const MAIL: Name = Name::from_static("mail");
const AUDIT: Name = Name::from_static("audit:\u{fc} 1");
const CHECKPOINT: Name = Name::from_static("group:mail");

fn attempts(error: &str) -> DeliveryAttempts {
    let mut attempts = DeliveryAttempts::undecodable(error.to_owned(), &SharedClock::SYSTEM);
    (attempts.first_failed_at, attempts.last_failed_at) = (Some(1_795_231_024_077), Some(1_795_231_024_078));
    attempts.attempts = 3;
    attempts.done = vec!["one".into(), "two".into()];
    attempts
}

fn waiting(position: u64) -> UnfinishedDelivery {
    let attempts = attempts(&format!("failed at {position}: \"quoted\", \u{0} and 漢"));
    UnfinishedDelivery { position: position.into(), attempts, dead_since: None }
}

fn dead(position: u64, dead_since: OffsetDateTime) -> UnfinishedDelivery {
    UnfinishedDelivery { dead_since: Some(dead_since), ..waiting(position) }
}

async fn save<S: EventStore>(
    store: &StoreUnderTest<S>,
    group: &Name,
    unfinished: Vec<UnfinishedDelivery>,
    finished: &[u64],
    checkpoint: Option<u64>,
) {
    let finished = finished.iter().copied().map(Position::new).collect();
    let checkpoint = checkpoint.map(|position| (CHECKPOINT, position.into()));
    let saved = store.save_progress(group, &ProgressUpdate { checkpoint, unfinished, finished }).await;
    store.ok(saved, format_args!("saving progress of {group}"));
}

async fn assert_waiting<S: EventStore>(store: &StoreUnderTest<S>, group: &Name, wanted: Vec<UnfinishedDelivery>) {
    let found =
        store.ok(store.waiting_deliveries(group).await, format_args!("loading the waiting deliveries of {group}"));
    store.same(found, wanted, format_args!("waiting deliveries of {group}"));
}

/// The store returns the rows saved last, by group and in position order, until they are removed.
pub async fn unfinished_deliveries_are_what_was_saved_last<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("unfinished_deliveries_are_what_was_saved_last", store);
    assert_waiting(&store, &MAIL, Vec::new()).await;
    save(&store, &MAIL, Vec::new(), &[], None).await;
    save(&store, &MAIL, vec![waiting(12), waiting(7), waiting(i64::MAX as u64)], &[], None).await;
    save(&store, &AUDIT, vec![waiting(7)], &[], None).await;
    assert_waiting(&store, &MAIL, vec![waiting(7), waiting(12), waiting(i64::MAX as u64)]).await;
    let parked = UnfinishedDelivery { position: 7.into(), attempts: DeliveryAttempts::default(), dead_since: None };
    save(&store, &MAIL, vec![parked.clone()], &[12, 13, i64::MAX as u64], None).await;
    assert_waiting(&store, &MAIL, vec![parked]).await;
    assert_waiting(&store, &AUDIT, vec![waiting(7)]).await;
}

/// Rows and checkpoint are saved together; an update without a checkpoint leaves it unchanged.
pub async fn progress_moves_the_checkpoint_with_its_rows<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("progress_moves_the_checkpoint_with_its_rows", store);
    for (checkpoint, wanted) in [(None, None), (Some(9), Some(9)), (None, Some(9)), (Some(4), Some(4))] {
        save(&store, &MAIL, vec![waiting(3)], &[2], checkpoint).await;
        let found = store.ok(store.load_checkpoint(&CHECKPOINT).await, "loading the checkpoint");
        store.same(found.map(Position::get), wanted, "the checkpoint");
    }
    assert_waiting(&store, &MAIL, vec![waiting(3)]).await;
}

/// A dead letter is not among the waiting deliveries: the store lists the dead letters of all groups, oldest first,
/// page by page.
pub async fn dead_deliveries_are_listed_oldest_first<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("dead_deliveries_are_listed_oldest_first", store);
    let (first, second) = (datetime!(2026-07-01 12:00:00.000_001 UTC), datetime!(2026-07-01 12:00:00.000_002 UTC));
    save(&store, &MAIL, vec![waiting(1), dead(5, second), dead(9, first)], &[], None).await;
    save(&store, &AUDIT, vec![dead(5, second), dead(6, second)], &[], None).await;
    assert_waiting(&store, &MAIL, vec![waiting(1)]).await;
    for (at_most, counted) in [(u64::MAX, 4), (4, 4), (3, 3), (0, 0)] {
        let count = store.ok(store.count_dead_deliveries(at_most).await, "counting");
        store.same(count, counted, format_args!("dead letters, up to {at_most}"));
    }
    for limit in [1, 2, 3, 10] {
        let mut all: Vec<DeadDelivery> = Vec::new();
        loop {
            let page = store.dead_deliveries(all.last(), limit).await;
            let page = store.ok(page, format_args!("asking for dead letters after {}", all.len()));
            store.check(page.len() <= limit, format_args!("{} dead letters in a page of {limit}", page.len()));
            if page.is_empty() {
                break;
            }
            all.extend(page);
            store.check(all.len() <= 4, format_args!("pages of {limit} repeat: {all:#?}"));
        }
        store.check(all.iter().map(|dead| dead.dead_since).is_sorted(), format_args!("not oldest first: {all:#?}"));
        let mut found: Vec<_> = all.iter().map(|dead| (dead.group.clone(), dead.position.get())).collect();
        found.sort();
        store.same(found, vec![(AUDIT, 5), (AUDIT, 6), (MAIL, 5), (MAIL, 9)], format_args!("pages of {limit}"));
        store.check(all.iter().all(|dead| dead.attempts == waiting(dead.position.get()).attempts), "their attempts");
    }
    let positions = store.ok(store.dead_positions(&MAIL, 5.into()).await, "asking for positions");
    store.same(positions, vec![Position::new(9)], "the dead letters of a group after a position");
    let one = store.ok(store.dead_delivery(&MAIL, 9.into()).await, "asking for one");
    let wanted = DeadDelivery { group: MAIL, position: 9.into(), attempts: waiting(9).attempts, dead_since: first };
    store.same(one, Some(wanted), "one dead letter");
    for (group, position) in [(MAIL, 1), (MAIL, 2), (AUDIT, 9)] {
        let none = store.ok(store.dead_delivery(&group, position.into()).await, "asking for none");
        store.same(none, None, format_args!("no dead letter of {group} at {position}"));
    }
}

/// A dead letter ends once: by a replay, after which it waits again, or by its removal.
pub async fn dead_delivery_is_ended_once<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("dead_delivery_is_ended_once", store);
    let at = datetime!(2026-07-01 12:00:00 UTC);
    save(&store, &MAIL, vec![waiting(1), dead(5, at), dead(9, at)], &[], None).await;
    save(&store, &AUDIT, vec![dead(5, at)], &[], None).await;
    let end = async |group: &Name, position: u64, again: Option<&DeliveryAttempts>| {
        store.ok(store.end_dead_delivery(group, position.into(), again).await, "ending a dead letter")
    };
    let anew = DeliveryAttempts::replayed(vec!["one".into()]);
    store.check(!end(&MAIL, 1, None).await, "a waiting delivery is ended as a dead letter");
    store.check(end(&MAIL, 5, Some(&anew)).await, "a dead letter is not ended");
    store.check(!end(&MAIL, 5, Some(&anew)).await, "a replayed dead letter is ended again");
    store.check(end(&MAIL, 9, None).await, "a dead letter is not ended");
    store.check(!end(&MAIL, 9, None).await, "a removed dead letter is ended again");
    let again = UnfinishedDelivery { position: 5.into(), attempts: anew, dead_since: None };
    assert_waiting(&store, &MAIL, vec![waiting(1), again.clone()]).await;
    store.same(store.ok(store.count_dead_deliveries(u64::MAX).await, "counting"), 1, "dead letters left");
    // finishing removes a delivery, waiting or dead
    save(&store, &MAIL, vec![dead(5, at)], &[], None).await;
    assert_waiting(&store, &MAIL, vec![waiting(1)]).await;
    save(&store, &MAIL, Vec::new(), &[5], None).await;
    save(&store, &AUDIT, Vec::new(), &[5], None).await;
    store.same(store.ok(store.count_dead_deliveries(u64::MAX).await, "counting"), 0, "dead letters left");
}
