//! Fills stores for the tests of pages, and their bench.

use std::time::Duration;

use eventbus::{
    Name, Position,
    delivery::DeliveryAttempts,
    port::{ProgressUpdate, UnfinishedDeliveries, UnfinishedDelivery},
    support::ReaderKind,
};

/// Makes the first events of a store dead letters of a group, which has finished all up to `finished`.
pub(crate) async fn add_dead_letters(
    store: &impl UnfinishedDeliveries,
    group: &'static str,
    number: u64,
    finished: Position,
) {
    let group = Name::from_static(group);
    let unfinished = (1..=number).map(|position| UnfinishedDelivery {
        position: Position::new(position),
        attempts: DeliveryAttempts::default(),
        dead_since: Some(time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(position)),
    });
    let checkpoint = Some((ReaderKind::Group.name_of(&group), finished));
    let update = ProgressUpdate { checkpoint, unfinished: unfinished.collect(), finished: Vec::new() };
    store.save_progress(&group, &update).await.unwrap();
}
