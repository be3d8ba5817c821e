//! The reader of the feed under test, which must see every event once and in order.

use std::time::Duration;

use eventbus::{Position, port::ReadFeed};
use futures_util::StreamExt as _;

use super::{
    evidence::{Effect, Order, Promise, Reader},
    history::StoredAt,
};

/// Time that it waits after an empty read before it polls again.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Follows a feed, resuming after a broken connection, until `is_over` returns `true` and no event remains.
pub async fn follow(store: impl ReadFeed, is_over: impl Fn() -> bool) -> Reader {
    let mut reader = Reader {
        name: "read_all".into(),
        promise: Promise { once: true, order: Order::Total },
        checkpoint: Some(0),
        ..Reader::default()
    };
    loop {
        let was_over = is_over();
        let after = reader.checkpoint.unwrap_or(0);
        let mut feed = store.read_all(Position::new(after));
        let (mut found, mut is_whole) = (false, true);
        while let Some(event) = feed.next().await {
            let Ok(event) = event else {
                is_whole = false;
                continue;
            };
            let place = StoredAt::from(&event);
            reader.effects.push(Effect { event: place.event, epoch: 0 });
            reader.checkpoint = Some(place.position);
            found = true;
        }
        if !found && is_whole {
            if was_over {
                return reader;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
