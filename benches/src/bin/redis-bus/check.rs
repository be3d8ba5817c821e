//! Checks that both sides write the same entry.

use eventbus::{EventId, Name, NewEvent, Result, StreamId, Version, port::EventBus};
use redis::cmd;
use test_servers::unique_name;
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

use crate::{by_hand, order::Order, ours::Ours, server::Server, side::Side};

const AT: OffsetDateTime = datetime!(2026-11-20 06:57:24.243_021 UTC);

/// Makes both sides write one event, and compares the entries byte for byte.
pub async fn same_entries(server: &Server) -> Result<()> {
    let (order, id) = (Order::new(7), Uuid::now_v7());
    let (ours, by_hand) = (unique_name("ours"), unique_name("hand"));

    let stream = StreamId::new(Name::from_static("Order"), order.id.into());
    let event = NewEvent::from_event(&order.created)?.with_event_id(EventId::from(id)).with_occurred_at(AT);
    let side = Ours::open(server.url(), &ours, "group").await?;
    side.bus.publish(&[event.recorded_as(stream, Version::FIRST, None)]).await?;

    by_hand::add(&format!("{by_hand}:stream"), &order, id, AT)?.exec_async(&mut server.connection()).await?;

    let (ours, by_hand) = (only_entry(server, &ours).await?, only_entry(server, &by_hand).await?);
    if ours != by_hand {
        return Err(format!("the entries differ: ours {ours:#?}, by hand {by_hand:#?}").into());
    }
    Ok(())
}

async fn only_entry(server: &Server, prefix: &str) -> Result<Vec<(String, String)>> {
    let mut range = cmd("XRANGE");
    range.arg(format!("{prefix}:stream")).arg("-").arg("+");
    let entries: Vec<(String, Vec<(String, String)>)> = range.query_async(&mut server.connection()).await?;
    match <[_; 1]>::try_from(entries) {
        Ok([(_, fields)]) => Ok(fields),
        Err(entries) => Err(format!("{} entries instead of one", entries.len()).into()),
    }
}
