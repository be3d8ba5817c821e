//! Makes dead letters in stores, for tests and the bench of the pages.

use std::{collections::BTreeMap, slice, time::Duration};

use eventbus::{
    Name, Position,
    delivery::DeliveryAttempts,
    handler::HandlerStart,
    port::{
        HandlerProgress,
        handler_progress::{ALL_TYPES, DeclaredHandler, DeliveryRow, Member, MemberHandler, ShardId, ShardSave},
    },
};
use time::OffsetDateTime;

/// Makes events of a store dead letters of a new handler, which has read all up to the last of them.
pub(crate) async fn add_dead_letters(
    store: &impl HandlerProgress,
    handler: &'static str,
    dead: impl IntoIterator<Item = (Position, OffsetDateTime)>,
) {
    let (handler, member) = (Name::from_static(handler), Name::from_static("filling"));
    let row = |(position, since): (Position, OffsetDateTime)| DeliveryRow {
        position,
        attempts: DeliveryAttempts::default(),
        dead_since: Some(since),
        is_held: false,
    };
    let rows: Vec<_> = dead.into_iter().map(row).collect();
    let checkpoint = rows.iter().map(|row| row.position).max().unwrap_or_default();
    let declared = DeclaredHandler {
        name: handler.clone(),
        group: handler.clone(),
        types: vec![ALL_TYPES],
        shards: 1,
        start: HandlerStart::Oldest,
    };
    store.declare_handlers(&[declared], checkpoint).await.unwrap();
    let of_member = MemberHandler { list: 1, crate_name: "filling".into() };
    let joining = Member { name: member.clone(), handlers: BTreeMap::from([(handler.clone(), of_member)]) };
    let _alive = store.join(&joining).await.unwrap();
    let shard = ShardId { handler, number: 0 };
    let acquired = store.acquire_shards(&member, slice::from_ref(&shard), Duration::from_secs(10)).await.unwrap();
    let save = ShardSave {
        shard,
        epoch: acquired[0].epoch,
        checkpoint,
        waiting: Vec::new(),
        started: Vec::new(),
        has_progressed: true,
        left: acquired[0].left.keys().map(|name| (name.clone(), None)).collect(),
        rows,
        finished: Vec::new(),
        is_release: true,
    };
    store.save_shards(&member, None, &[save]).await.unwrap();
    store.leave(&member).await.unwrap();
}

/// Makes the first events of a store dead letters.
pub(crate) async fn add_first_dead_letters(store: &impl HandlerProgress, handler: &'static str, number: u64) {
    let since = |position: u64| OffsetDateTime::UNIX_EPOCH + Duration::from_secs(position);
    add_dead_letters(store, handler, (1..=number).map(|position| (Position::new(position), since(position)))).await;
}
