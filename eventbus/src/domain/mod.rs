//! Pure values and traits: what an event, a stream and an aggregate are. No I/O, no tasks.

pub(crate) mod aggregate;
pub(crate) mod attributes;
pub(crate) mod clock;
pub(crate) mod codec;
pub(crate) mod context;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod field_error;
pub(crate) mod field_text;
pub(crate) mod fields;
pub(crate) mod id;
pub(crate) mod idempotency_key;
pub(crate) mod json;
pub(crate) mod metadata;
pub(crate) mod name;
#[cfg(feature = "testkit")]
pub(crate) mod probe;
pub(crate) mod record;
pub(crate) mod shown;
pub(crate) mod snapshot_codec;
pub(crate) mod stream;
pub(crate) mod tag;
pub(crate) mod trace;
pub(crate) mod unique;
pub(crate) mod upcast;
pub(crate) mod validity;
