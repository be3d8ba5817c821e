//! Recorded events as a store returns them.

use std::pin::Pin;

use futures_core::Stream;

use super::ReadError;
use crate::domain::record::RecordedEvent;

/// Recorded events, read page by page while they are consumed.
pub type RecordStream<'a> = Pin<Box<dyn Stream<Item = Result<RecordedEvent, ReadError>> + Send + 'a>>;
