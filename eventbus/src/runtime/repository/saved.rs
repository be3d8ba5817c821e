//! What a save reports.

use serde::Serialize;

use crate::{
    domain::{
        record::RecordedEvent,
        shown,
        stream::{Position, Version},
    },
    port::{MessageId, PublishError},
};

/// What a save stored, and what became of publishing it. As JSON it holds the events whole.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Saved {
    /// The version of the aggregate now.
    pub version: Version,
    /// The position of the last event; `None` if there was nothing to save. What `app.projected` waits for.
    pub position: Option<Position>,
    /// The events as recorded.
    pub events: Vec<RecordedEvent>,
    /// What became of publishing them.
    pub publication: Publication,
}

/// What became of publishing saved events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Publication {
    /// The repository publishes nothing: it has no bus, or there was nothing to publish.
    None,
    /// The app's relay publishes them, in order; `app.published` waits for it.
    ByRelay,
    /// They are published under these ids.
    Published(Vec<MessageId>),
    /// They are saved, but not published, or nobody knows: see the error.
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
