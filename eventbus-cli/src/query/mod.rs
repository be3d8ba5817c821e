//! Reads the contents of a store and a bus, without printing. No function changes data.
//!
//! In JSON, ids and positions are strings, and times are in the format of RFC 3339.

mod causes;
mod dead_letters;
mod deliveries;
mod events;
mod group_view;
mod groups;
mod handlers;
mod lag;
mod payload;
mod position;
mod projections;
mod relays;
mod skips;
mod state;
mod status;
mod streams;

pub use self::{
    causes::{CauseRow, CauseTree, SearchProgress, find_causes, position_at},
    dead_letters::{DeadLetterQuery, DeadLetterRow, find_dead_letters, search_dead_letters},
    deliveries::{DeadDeliveryRow, EventDeliveries, WaitingDeliveryRow},
    events::EventView,
    group_view::{AttemptsView, GroupView, PendingRow, load_group},
    groups::{GroupRow, list_groups},
    handlers::{HandlerRow, ShardRow, list_handlers},
    lag::{LagRow, ReaderSort, list_lags},
    position::Lag,
    projections::{ProjectionRow, StoppedRow, list_projections},
    relays::{RelayRow, list_relays},
    skips::{ReaderSkips, SkippedRow, list_other_skips},
    status::{StatusView, load_status},
    streams::{StreamPage, StreamRow, list_stream_page, list_streams},
};
#[cfg(feature = "dashboard")]
pub(crate) use self::{dead_letters::aggregate_text, events::event_bytes, lag::list_feed_lags};
pub(crate) use self::{
    handlers::progress_of,
    payload::{Change, Difference, FieldChoice, Payload, PayloadComparison},
    position::{RETIRED, ago, all_checkpoints, all_leases},
    state::StateComparison,
};
