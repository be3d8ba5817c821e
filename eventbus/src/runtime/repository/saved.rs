//! The report of a save.

use serde::Serialize;

use crate::{
    domain::{
        record::RecordedEvent,
        shown,
        stream::{Position, Version},
    },
    port::{MessageId, PublishError},
};

/// The stored events of a save, and whether they are published. Its JSON holds the complete events.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Saved {
    /// The version of the aggregate after the save.
    pub version: Version,
    /// The position of the last event, which `app.projected` waits for; `None` if no event was pending.
    pub position: Option<Position>,
    /// The events as recorded.
    pub events: Vec<RecordedEvent>,
    /// The outcome of publishing them.
    pub publication: Publication,
}

/// The stored events of several aggregates that were saved at once.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct SavedTogether {
    /// The position of the last event, which `app.projected` waits for; `None` if no event was pending.
    pub position: Option<Position>,
    /// The events as recorded, in the order of the aggregates.
    pub events: Vec<RecordedEvent>,
    /// The outcome of publishing them.
    pub publication: Publication,
}

impl SavedTogether {
    pub(super) fn new(events: Vec<RecordedEvent>, publication: Publication) -> Self {
        let position = events.last().and_then(RecordedEvent::position);
        Self { position, events, publication }
    }
}

/// The outcome of publishing saved events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Publication {
    /// The repository published no event: it has no bus, no event was pending, or an earlier call saved the events.
    None,
    /// The app's relay publishes them, in order; `app.published` waits for it.
    ByRelay,
    /// The bus has them under these message ids.
    Published(Vec<MessageId>),
    /// They are saved, but not published, or the outcome is unknown: see the error.
    Failed(#[serde(serialize_with = "shown::display")] PublishError),
}

impl Saved {
    pub(crate) fn nothing(version: Version) -> Self {
        Self { version, position: None, events: Vec::new(), publication: Publication::None }
    }

    pub(crate) fn new(version: Version, events: Vec<RecordedEvent>, publication: Publication) -> Self {
        let position = events.last().and_then(RecordedEvent::position);
        Self { version, position, events, publication }
    }
}
