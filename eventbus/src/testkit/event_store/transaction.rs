//! Rules of the transactions in which handlers and projections take part.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;

use super::{multi_stream_appends::multi_stream, store_under_test::StoreUnderTest};
use crate::{
    EventId, Name, Position, StreamId, Uuid,
    port::{EventStore, Lease, Transaction, Transactions},
};

const HOUR: Duration = Duration::from_secs(3_600);
const ROLE: Name = Name::from_static("projection:orders");
const OWNER: Name = Name::from_static("one");
const OTHER: Name = Name::from_static("two");
const HANDLER: Name = Name::from_static("mail");

/// Time to observe that a call does not return. A slow store that is wrong may pass, but no correct store fails.
const OBSERVATION_TIME: Duration = Duration::from_millis(200);

/// The stream of the events that most rules deliver.
fn delivered_stream() -> StreamId {
    StreamId::parse("Order", "1").expect("a valid stream")
}

fn transactions<S: EventStore>(store: &StoreUnderTest<S>) -> Arc<dyn Transactions> {
    match store.transactions() {
        Some(transactions) => transactions,
        None => store.fail("the store has no transactions"),
    }
}

async fn begin<S: EventStore>(store: &StoreUnderTest<S>) -> Box<dyn Transaction> {
    store.ok(store.within("beginning", transactions(store).begin()).await, "beginning")
}

async fn commit<S: EventStore>(store: &StoreUnderTest<S>, transaction: Box<dyn Transaction>) {
    store.ok(store.within("committing", transaction.commit()).await, "committing");
}

async fn advance<S: EventStore>(
    store: &StoreUnderTest<S>,
    transaction: &mut Box<dyn Transaction>,
    lease: &Lease,
    from: u64,
    to: u64,
) -> bool {
    let advanced = transaction.advance(lease, from.into(), to.into());
    store.ok(store.within("advancing", advanced).await, format_args!("advancing from {from} to {to}"))
}

async fn is_first<S: EventStore>(
    store: &StoreUnderTest<S>,
    transaction: &mut Box<dyn Transaction>,
    handler: &Name,
    event: EventId,
) -> bool {
    is_first_of(store, transaction, handler, &delivered_stream(), event).await
}

async fn is_first_of<S: EventStore>(
    store: &StoreUnderTest<S>,
    transaction: &mut Box<dyn Transaction>,
    handler: &Name,
    stream: &StreamId,
    event: EventId,
) -> bool {
    let recorded = transaction.is_first(handler, stream, event);
    store.ok(store.within("recording a delivery", recorded).await, "recording a delivery")
}

/// Records a delivery in a transaction of its own.
async fn record_delivery<S: EventStore>(store: &StoreUnderTest<S>, event: EventId) -> bool {
    let mut transaction = begin(store).await;
    let first = is_first(store, &mut transaction, &HANDLER, event).await;
    if first {
        commit(store, transaction).await;
    }
    first
}

/// Advances the checkpoint in a transaction of its own, and commits it if the advance is allowed.
async fn advance_and_commit<S: EventStore>(store: &StoreUnderTest<S>, lease: &Lease, from: u64, to: u64) -> bool {
    let mut transaction = begin(store).await;
    let advanced = advance(store, &mut transaction, lease, from, to).await;
    if advanced {
        commit(store, transaction).await;
    }
    advanced
}

async fn seized<S: EventStore>(store: &StoreUnderTest<S>, owner: &Name) -> Lease {
    store.ok(store.seize_lease(&ROLE, owner, HOUR).await, "seizing")
}

async fn checkpoint<S: EventStore>(store: &StoreUnderTest<S>) -> Option<u64> {
    store.ok(store.load_checkpoint(&ROLE).await, "loading").map(Position::get)
}

/// A committed transaction is kept, and was invisible before the commit.
pub async fn committed_transaction_is_kept_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("committed_transaction_is_kept_whole", store);
    let (lease, event) = (seized(&store, &OWNER).await, EventId::new());
    let mut transaction = begin(&store).await;
    store.check(is_first(&store, &mut transaction, &HANDLER, event).await, "the first delivery is not first");
    store.check(!is_first(&store, &mut transaction, &HANDLER, event).await, "it is first twice in one transaction");
    store.check(advance(&store, &mut transaction, &lease, 0, 5).await, "the owner cannot advance");
    store.check(advance(&store, &mut transaction, &lease, 5, 7).await, "the owner cannot advance twice");
    store.same(checkpoint(&store).await, None, "the checkpoint before the commit");
    commit(&store, transaction).await;
    store.same(checkpoint(&store).await, Some(7), "the checkpoint after the commit");
    store.check(!record_delivery(&store, event).await, "a delivery that was committed is forgotten");
}

/// A dropped transaction leaves no trace and blocks no later one.
pub async fn dropped_transaction_leaves_nothing<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("dropped_transaction_leaves_nothing", store);
    let (lease, event) = (seized(&store, &OWNER).await, EventId::new());
    for _ in 0..30 {
        let mut transaction = begin(&store).await;
        store.check(is_first(&store, &mut transaction, &HANDLER, event).await, "a dropped transaction is recorded");
        store.check(advance(&store, &mut transaction, &lease, 0, 5).await, "a dropped transaction has advanced");
        drop(transaction);
    }
    store.check(record_delivery(&store, event).await, "a dropped transaction is recorded");
    store.same(checkpoint(&store).await, None, "the checkpoint");
}

/// A checkpoint advances only from its current position; one that was never saved is at the start.
pub async fn checkpoint_advances_only_from_where_it_is<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("checkpoint_advances_only_from_where_it_is", store);
    let lease = seized(&store, &OWNER).await;
    store.check(!advance_and_commit(&store, &lease, 3, 5).await, "it advanced from a position that was never saved");
    store.same(checkpoint(&store).await, None, "the checkpoint");
    store.check(advance_and_commit(&store, &lease, 0, 5).await, "it cannot advance from the start");
    for from in [0, 4, 6] {
        store.check(!advance_and_commit(&store, &lease, from, 9).await, format_args!("it advanced from {from}"));
        store.same(checkpoint(&store).await, Some(5), "the checkpoint");
    }
    store.check(advance_and_commit(&store, &lease, 5, 9).await, "it cannot advance from where it is");
    store.ok(store.save_checkpoint(&ROLE, Position::START).await, "saving");
    store.check(!advance_and_commit(&store, &lease, 9, 10).await, "it advanced although it was set back");
    store.check(advance_and_commit(&store, &lease, 0, 2).await, "it cannot advance from where it was set");
    store.same(checkpoint(&store).await, Some(2), "the checkpoint");
}

/// A former owner of the lease, or one that never had it, cannot advance the checkpoint.
pub async fn former_owner_moves_nothing<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("former_owner_moves_nothing", store);
    let former = seized(&store, &OWNER).await;
    store.check(advance_and_commit(&store, &former, 0, 1).await, "the owner cannot advance");
    let owner = seized(&store, &OTHER).await;
    for lease in [&former, &Lease { role: Name::from_static("unowned"), ..owner.clone() }] {
        for from in [0, 1] {
            store.check(
                !advance_and_commit(&store, lease, from, 5).await,
                format_args!("{lease:?} advanced from {from}"),
            );
        }
    }
    store.same(checkpoint(&store).await, Some(1), "the checkpoint");
    store.check(advance_and_commit(&store, &owner, 1, 2).await, "the owner cannot advance");
    store.check(seized(&store, &OTHER).await.epoch > owner.epoch, "epochs do not grow");
    store.check(!advance_and_commit(&store, &owner, 2, 3).await, "the owner advanced with its former lease");
}

/// A new owner sees what the former owner committed: it waits for the commit, or fences the former owner.
pub async fn takeover_sees_what_was_committed<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("takeover_sees_what_was_committed", store);
    let mut at = 0;
    for round in 0..6 {
        let lease = seized(&store, &OWNER).await;
        let mut transaction = begin(&store).await;
        store.check(advance(&store, &mut transaction, &lease, at, at + 1).await, "the owner cannot advance");
        let takeover = takeover(&store);
        if round % 2 == 0 {
            tokio::time::sleep(OBSERVATION_TIME / 4).await;
        }
        let committed = store.within("committing", transaction.commit()).await.is_ok();
        let seen = store.ok(store.within("taking over", takeover).await, "taking over");
        at += u64::from(committed);
        store.same(seen.unwrap_or(0), at, "the checkpoint as the new owner sees it");
    }
}

fn takeover<S: EventStore>(store: &StoreUnderTest<S>) -> JoinHandle<Option<u64>> {
    let store = store.clone();
    tokio::spawn(async move {
        seized(&store, &OTHER).await;
        checkpoint(&store).await
    })
}

/// A delivery is the first one exactly once for each handler.
pub async fn deliveries_are_first_once_per_handler<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("deliveries_are_first_once_per_handler", store);
    let events = [EventId::new(), EventId::new()];
    for wanted in [true, false] {
        for handler in ["mail", "Mail", "mail ", "o'brien", "漢字 ünï"] {
            let handler = store.ok(Name::new("handler", handler), "naming a handler");
            for event in events {
                let mut transaction = begin(&store).await;
                let first = is_first(&store, &mut transaction, &handler, event).await;
                store.same(first, wanted, format_args!("first delivery to `{handler}`"));
                commit(&store, transaction).await;
            }
        }
    }
}

/// An event id is unique within its stream only: a handler handles the events of several streams with one id, each
/// once. Streams differ by type, id or tenant.
pub async fn deliveries_are_first_once_per_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("deliveries_are_first_once_per_stream", store);
    let event = EventId::new();
    let named = |aggregate_type, id| store.ok(StreamId::parse(aggregate_type, id), "naming a stream");
    let streams = [
        named("Order", "1"),
        named("Order", "2"),
        named("Order", "1 "),
        named("order", "1"),
        named("Order:1", "1"),
        named("Order", "1:1"),
        named("Order", "1").with_tenant_id(Some(Uuid::from_u128(1))),
        named("Order", "1").with_tenant_id(Some(Uuid::from_u128(2))),
    ];
    for wanted in [true, false] {
        let mut together = begin(&store).await;
        for stream in &streams {
            let first = is_first_of(&store, &mut together, &HANDLER, stream, event).await;
            store.same(first, wanted, format_args!("first delivery of the event of {stream}"));
        }
        commit(&store, together).await;
    }
    for stream in &streams {
        let mut transaction = begin(&store).await;
        let first = is_first_of(&store, &mut transaction, &HANDLER, stream, event).await;
        store.check(!first, format_args!("the event of {stream} is handled twice"));
    }
    let forgotten = store.ok(multi_stream(&store).forget_deliveries(Duration::ZERO).await, "forgetting");
    store.same(forgotten, streams.len() as u64, "forgotten deliveries");
}

/// A transaction that records a delivery waits for an earlier one that has recorded the same: it is first only if the
/// earlier one is dropped.
pub async fn same_delivery_waits_for_the_other_one<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("same_delivery_waits_for_the_other_one", store);
    for is_committed in [true, false] {
        let event = EventId::new();
        let mut transaction = begin(&store).await;
        store.check(is_first(&store, &mut transaction, &HANDLER, event).await, "the first delivery is not first");
        let mut other = tokio::spawn({
            let store = store.clone();
            async move { record_delivery(&store, event).await }
        });
        let early = tokio::time::timeout(OBSERVATION_TIME, &mut other).await;
        store.check(early.is_err(), "it did not wait for the other transaction");
        if is_committed {
            commit(&store, transaction).await;
        } else {
            drop(transaction);
        }
        let first = store.ok(store.within("recording the same", other).await, "recording the same");
        store.same(first, !is_committed, "first after the other transaction");
    }
}

/// Of many concurrent advances from one position, exactly one succeeds.
pub async fn one_of_racing_advances_is_made<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("one_of_racing_advances_is_made", store);
    let lease = seized(&store, &OWNER).await;
    for at in 0..5 {
        let advanced = store
            .at_once(4, |_| {
                let (store, lease) = (store.clone(), lease.clone());
                async move { advance_and_commit(&store, &lease, at, at + 1).await }
            })
            .await;
        let winners = advanced.into_iter().filter(|advanced| *advanced).count();
        store.same(winners, 1, format_args!("advances from {at}"));
        store.same(checkpoint(&store).await, Some(at + 1), "the checkpoint");
    }
}
