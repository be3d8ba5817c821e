//! Tags for events that were stored before their type declared them.

use futures_util::TryStreamExt as _;

use super::error::BoundaryError;
use crate::{
    domain::{
        error::{BoxError, Error},
        name::Name,
        record::{EncodeEvent, EventSet},
        stream::Position,
    },
    port::{EventStore, FeedFilter},
    runtime::stored_declarations::{Declaration, note_current},
};

/// Progress of [`tag_stored_events`](crate::App::tag_stored_events).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TaggedEvents {
    /// Events read, of the types that declare tags.
    pub events: u64,
    /// Tags that were added to them.
    pub tags: u64,
}

/// Adds the tags that the types of `E` declare.
pub(crate) async fn tag_stored_events<E: EventSet + EncodeEvent>(
    store: &dyn EventStore,
    mut progress: impl FnMut(&TaggedEvents),
) -> Result<TaggedEvents, Error> {
    let boundaries = store.boundaries().ok_or_else(|| BoundaryError::Unsupported { store: store.describe() })?;
    let mut tagged = TaggedEvents::default();
    let declaring = || E::EVENTS.descriptors().iter().filter(|event| !event.tags.is_empty());
    let types: Vec<Name> = declaring().flat_map(|event| event.event_types()).map(Name::from_static).collect();
    if types.is_empty() {
        return Ok(tagged);
    }
    let aggregate_types = declaring().map(|event| Name::from_static(event.aggregate_type));
    let filter = FeedFilter::all().aggregate_types(aggregate_types).event_types(types);
    let head = store.head().await?;
    let mut feed = store.read_feed(Position::START, head, &filter);
    while let Some(record) = feed.try_next().await? {
        let at = |error: BoxError| {
            let (version, stream) = (record.version(), record.metadata().stream());
            format!("event {version} of `{stream}`: {error}")
        };
        let event = E::decode(&record).map_err(|error| at(error.into()))?;
        let encoded = event.encode().map_err(|error| at(error.into()))?;
        for tag in encoded.tags() {
            tagged.tags += u64::from(boundaries.add_tag(&record, tag).await?);
        }
        tagged.events += 1;
        progress(&tagged);
    }
    note_current(store, Declaration::Tags, E::EVENTS.descriptors()).await?;
    progress(&tagged);
    Ok(tagged)
}
