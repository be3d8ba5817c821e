//! Groups that an operator retires.

use std::sync::{Arc, Mutex};

use crate::common::{another, fresh, until};
use eventbus::{
    HandlerError, Name,
    event::EventFilter,
    port::{DeadLetterFilter, DeadLetters as _, EventBus, Subscriber},
};
use eventbus_file::{FileQueue, FileQueueError, RemovalCondition};
use tokio::task::JoinSet;

const REPORTS: Name = Name::from_static("reports");

/// Consumes for the group until it has finished all events, and returns their ids; the handler fails if `fails`. Checks
/// that no worker can retire the group meanwhile.
async fn consume(former: &FileQueue, fails: bool) -> Vec<u64> {
    let (queue, seen) = (another(former).await, Arc::<Mutex<Vec<u64>>>::default());
    let sees = Arc::clone(&seen);
    let subscriber = Subscriber::new(Name::from_static("report"), EventFilter::All, move |delivery| {
        sees.lock().unwrap().push(delivery.message_id().unwrap().as_str().parse().unwrap());
        let outcome = if fails { Err(HandlerError::permanent("no")) } else { Ok(()) };
        Box::pin(async move { outcome })
    });
    queue.add_subscriber(REPORTS, subscriber);
    let consuming = queue.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    until("it consumes for the group", async || queue.stream_info().await.active_consumers == 1).await;
    until("all is handled", async || queue.progress(&REPORTS).await.unwrap().is_settled()).await;
    for queue in [former, &queue] {
        let refused = queue.retire_group(&REPORTS).await.unwrap_err();
        assert!(matches!(&refused, FileQueueError::GroupInUse { group } if *group == REPORTS), "{refused:?}");
    }
    queue.stop_consuming().await;
    consumer.await.unwrap();
    seen.lock().unwrap().clone()
}

async fn is_listed(queue: &FileQueue) -> bool {
    queue.stream_info().await.consumer_groups.iter().any(|group| REPORTS == group.name.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_group_holds_removal_no_more_and_what_it_left_is_said() {
    let queue = fresh().await;
    queue.publish_all(&["one", "two"]).await.unwrap();
    assert_eq!(consume(&queue, false).await, [1, 2]);
    queue.publish(&"three").await.unwrap();
    let remove = async || queue.remove_through(u64::MAX, RemovalCondition::Groups).await.unwrap().through;
    assert_eq!(remove().await, 2);
    assert!(is_listed(&queue).await);
    let retired = queue.retire_group(&REPORTS).await.unwrap();
    assert_eq!((retired.pending, retired.unread), (0, 1));
    let again = queue.retire_group(&REPORTS).await.unwrap_err();
    assert!(matches!(&again, FileQueueError::GroupNotFound { group } if *group == REPORTS), "{again:?}");
    assert!(!is_listed(&queue).await);
    assert_eq!(remove().await, 3);
    assert!(queue.check().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_named_like_a_retired_one_begins_with_the_oldest_event_and_holds_removal() {
    let queue = fresh().await;
    queue.publish_all(&["one", "two"]).await.unwrap();
    assert_eq!(consume(&queue, false).await, [1, 2]);
    queue.retire_group(&REPORTS).await.unwrap();
    assert_eq!(consume(&queue, false).await, [1, 2]);
    queue.publish(&"three").await.unwrap();
    assert_eq!(queue.remove_through(u64::MAX, RemovalCondition::Groups).await.unwrap().through, 2);
    queue.retire_group(&REPORTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_retired_group_stay_and_replays_are_dead_letters_again() {
    let queue = fresh().await;
    queue.publish_all(&["one", "two"]).await.unwrap();
    consume(&queue, true).await;
    let listed = async || queue.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let letters = listed().await;
    assert_eq!(letters.len(), 2);
    let first = &letters[0].id;
    assert!(queue.replay(first).await.unwrap());
    assert_eq!(listed().await.len(), 1);
    let retired = queue.retire_group(&REPORTS).await.unwrap();
    assert_eq!((retired.pending, retired.unread), (1, 0));
    assert_eq!(listed().await.len(), 2);
    // a replay waits for a group of that name, or for the next call
    assert!(queue.replay(first).await.unwrap());
    assert_eq!(queue.retire_group(&REPORTS).await.unwrap().pending, 1);
    assert_eq!(listed().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_operators_who_retire_a_group_at_once_one_does() {
    let queue = fresh().await;
    queue.publish(&"one").await.unwrap();
    consume(&queue, false).await;
    let mut retiring = JoinSet::new();
    for _ in 0..8 {
        let queue = another(&queue).await;
        retiring.spawn(async move { queue.retire_group(&REPORTS).await });
    }
    let outcomes = retiring.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(error, FileQueueError::GroupInUse { .. } | FileQueueError::GroupNotFound { .. }), "{error:?}");
    }
    assert!(!is_listed(&queue).await);
}
