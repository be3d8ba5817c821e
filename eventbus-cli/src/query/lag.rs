//! The lags of all readers.

use eventbus::{Position, bus::EventBus, clock::SharedClock, store::EventStore};
use serde::Serialize;

use super::{
    groups::list_groups,
    handlers::{HandlerRow, list_handlers},
    position::Lag,
    projections::list_projections,
    relays::list_relays,
};
use crate::{connection::OpenBus, error::CommandError};

/// The sort of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReaderSort {
    /// A projection.
    Projection,
    /// The relay to a bus.
    Relay,
    /// A handler of the store.
    Handler,
    /// A consumer group of the bus.
    Group,
}

impl ReaderSort {
    /// Returns the sort as a text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Projection => "projection",
            Self::Relay => "relay",
            Self::Handler => "handler",
            Self::Group => "group",
        }
    }
}

/// The lag of a reader.
#[derive(Debug, Clone, Serialize)]
pub struct LagRow {
    /// The sort of the reader.
    pub kind: ReaderSort,
    /// Its name.
    pub name: String,
    /// Its position in the feed, if it has one.
    pub position: Option<String>,
    /// The end of the feed, if the reader has a position.
    pub head: Option<String>,
    /// The number of events that it has not handled; for a feed an upper bound, because positions have gaps. `None` if
    /// unknown.
    pub events: Option<u64>,
    /// The time since the first of them was recorded or published, if known.
    pub seconds: Option<f64>,
    /// The process that has the reader's role.
    pub owner: Option<String>,
    /// Set for a handler that does not run for a reason that is no fault: `paused`, `unused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<&'static str>,
}

impl LagRow {
    /// Returns `true` if its lag is no fault.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        self.remark.is_some()
    }
}

/// Lists the lags of all readers of a store and a bus: projections, relays, handlers, groups.
///
/// # Errors
/// [`CommandError`] if the store or the bus cannot be reached.
pub async fn list_lags(
    store: Option<&dyn EventStore>,
    bus: &OpenBus,
    clock: &SharedClock,
) -> Result<Vec<LagRow>, CommandError> {
    let mut rows = Vec::new();
    if let Some(store) = store {
        let redis: Option<&dyn EventBus> = Some(bus.as_bus()).filter(|_| !bus.is_in_process());
        rows = list_feed_lags(store, redis, clock).await?;
    }
    // the numbers of dead letters are not shown
    for row in list_groups(bus).await? {
        rows.push(LagRow {
            kind: ReaderSort::Group,
            events: row.unfinished(),
            position: None,
            head: None,
            name: row.group,
            seconds: row.seconds,
            owner: None,
            remark: None,
        });
    }
    Ok(rows)
}

/// Lists the lags of the readers of a store's feed: projections, relays and handlers. Asks `bus` for the position of the relay to
/// it.
///
/// # Errors
/// [`CommandError`] if the store or the bus cannot be reached.
pub(crate) async fn list_feed_lags(
    store: &dyn EventStore,
    bus: Option<&dyn EventBus>,
    clock: &SharedClock,
) -> Result<Vec<LagRow>, CommandError> {
    let projections = list_projections(store, clock).await?.into_iter();
    let projections =
        projections.map(|row| feed_row(ReaderSort::Projection, row.name, [row.position, row.head], row.lag, row.owner));
    let relays = list_relays(store, bus, clock).await?.into_iter();
    let relays =
        relays.map(|row| feed_row(ReaderSort::Relay, row.destination, [row.position, row.head], row.lag, row.leader));
    let handlers = list_handlers(store, clock).await?.into_iter().map(handler_row);
    Ok(projections.chain(relays).chain(handlers).collect())
}

fn handler_row(row: HandlerRow) -> LagRow {
    let (owner, remark) = (row.owner(), row.remark());
    let lag = Lag { events: row.lag.events.saturating_add(row.waiting), ..row.lag };
    LagRow { remark, ..feed_row(ReaderSort::Handler, row.handler, [row.position, row.head], lag, owner) }
}

/// Returns the row of a reader of the feed.
fn feed_row(
    kind: ReaderSort,
    name: String,
    [position, head]: [Position; 2],
    lag: Lag,
    owner: Option<String>,
) -> LagRow {
    LagRow {
        kind,
        name,
        position: Some(position.to_string()),
        head: Some(head.to_string()),
        events: Some(lag.events),
        seconds: lag.seconds,
        owner,
        remark: None,
    }
}
