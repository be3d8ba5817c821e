//! What a store and a bus hold, apart from printing: each function reads, and changes nothing.
//!
//! As JSON, ids and positions are strings, and times are in the format of RFC 3339.

mod causes;
mod dead_letters;
mod events;
mod groups;
mod lag;
mod payload;
mod position;
mod projections;
mod relays;
mod status;
mod streams;

pub use self::{
    causes::{CauseRow, CauseTree, DeadDeliveryRow, SearchProgress, find_causes, position_at},
    dead_letters::{DeadLetterQuery, DeadLetterRow, DeadLetterTally, find_dead_letters, search_dead_letters},
    events::EventView,
    groups::{GroupDetail, GroupRow, list_groups, list_groups_with},
    lag::{LagRow, ReaderSort, list_lags, list_lags_with},
    position::Lag,
    projections::{ProjectionRow, SkippedRow, list_projections},
    relays::{RelayRow, list_relays},
    status::{StatusView, load_status},
    streams::{StreamPage, StreamRow, list_stream_page, list_streams, read_newest_events},
};
pub(crate) use self::{
    payload::{Change, Difference, Payload, PayloadComparison},
    position::ago,
};
