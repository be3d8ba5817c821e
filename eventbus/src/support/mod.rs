//! Parts that several backends share: pages, checks of events, addresses, outages, lists of types, notes of
//! personal fields, kinds of migrations.
//!
//! Applications do not need this module.

mod address;
mod check;
mod counted_versions;
mod event_type_names;
mod feed_versions;
mod listed_types;
mod listing_scan;
mod migration_kind;
mod note_names;
mod outage;
mod page;
mod personal_fields;
mod reader_kind;
mod schema_state;
mod skip;
mod source_chain;
#[cfg(feature = "opentelemetry")]
#[cfg_attr(docsrs, doc(cfg(feature = "opentelemetry")))]
pub mod spans;
#[cfg(not(feature = "opentelemetry"))]
#[path = "no_spans.rs"]
pub(crate) mod spans;
mod store_end;
mod stream_cursor;
mod tags;
mod unique;

pub use address::{is_this_machine, redacted};
pub use check::{
    MissingIndex, MultiStreamDecision, StreamAttempt, check_events, check_ids, check_indexes, check_multi_stream,
    check_range, check_records, decide_multi_stream, first_multi_stream_result, first_result,
};
pub use counted_versions::CountedVersions;
pub use event_type_names::EventTypeNames;
pub use feed_versions::FeedVersions;
pub use listed_types::ListedEventTypes;
pub use listing_scan::{LISTING_ROWS_MAX, NameScan, StreamKey, StreamScan};
pub use migration_kind::MigrationKind;
pub(crate) use note_names::note_names;
pub use outage::Outage;
pub(crate) use page::read_batch;
pub use page::{PAGE_BYTES, Page, collect_page, fetched_ahead, paged, paged_after, paged_ahead};
pub use personal_fields::PersonalFields;
pub use reader_kind::ReaderKind;
pub use schema_state::{Migration, SchemaState};
pub(crate) use skip::{
    SKIPS_REFRESH_INTERVAL, Skip, SkipsError, count_around, ranges_around, read_around, reader_of_note, relay_to,
    save_skips, skipped_positions, skips, skips_to_note,
};
pub use source_chain::source_chain;
pub(crate) use store_end::{is_beyond_end, position_before};
pub use stream_cursor::{StreamCursor, missing_event_error};
pub use tags::{TagUse, boundary_moved, count_then_read, no_such_event, tag_uses, too_many_tags};
pub use unique::{last_of_each_name, unique_changes};

pub use crate::domain::{
    json::{from_json, to_json},
    trace_context::TraceContext,
};

pub use crate::port::backoff::{Backoff, BackoffTimer};
