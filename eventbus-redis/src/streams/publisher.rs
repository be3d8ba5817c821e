//! Publishes plain events.

use std::borrow::Cow;

use eventbus::{event::FieldError, port::MessageId, support::to_json};
use serde::Serialize;

use super::RedisStreams;
use crate::{
    RedisCommandError, command,
    error::CommandError,
    keys::plain_field as field,
    publish::{self, partial_publish_error},
    wire::EntryFields,
};

/// Publishes events to streams called `{prefix}:{stream}`; made by [`RedisStreams::publisher`].
///
/// An entry has the fields `type`, `timestamp` (by the configured clock, milliseconds since 1970) and `data` (JSON), in
/// this order. The server orders the entries of a stream, and its clock gives them their ids.
///
/// # Examples
/// ```no_run
/// # async fn run(streams: eventbus_redis::streams::RedisStreams) -> eventbus::Result<()> {
/// use serde_json::json;
/// let publisher = streams.publisher();
/// let paid = json!({ "order_id": "12345", "payment_id": "pay_abc123", "amount": 49.99 });
/// let id = publisher.publish("orders", "order.paid", &paid).await?; // to `events:orders`
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct EventPublisher {
    streams: RedisStreams,
}

/// Reason why an event was not published, or may not have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventPublishError {
    /// The data cannot be encoded as JSON, for example because a number is NaN; no event was published.
    #[error("the data of `{event_type}` cannot be encoded: {source}")]
    Unencodable {
        /// The type of the event.
        event_type: String,
        /// The reason.
        source: FieldError,
    },
    /// The server did not publish the event; only after [`RedisCommandError::OutcomeUnknown`] it may have: a retry may
    /// then publish twice.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

impl EventPublisher {
    pub(super) fn new(streams: &RedisStreams) -> Self {
        Self { streams: streams.clone() }
    }

    /// Publishes one event, and returns the id of its entry.
    ///
    /// # Errors
    /// [`EventPublishError`].
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        stream: &str,
        event_type: &str,
        data: &T,
    ) -> Result<MessageId, EventPublishError> {
        self.add(stream, event_type, data, None).await
    }

    /// Publishes one event, and makes the server keep about `max_length` entries of the stream; some dozens more may
    /// stay, and a call removes at most 10,000. **This also removes entries that groups and projections have not
    /// read**: a projection then [stops](super::StreamProjectionError::Missing). [`RedisStreams::trim`] removes no
    /// unread entries.
    ///
    /// # Errors
    /// [`EventPublishError`].
    pub async fn publish_capped<T: Serialize + ?Sized>(
        &self,
        stream: &str,
        event_type: &str,
        data: &T,
        max_length: u64,
    ) -> Result<MessageId, EventPublishError> {
        self.add(stream, event_type, data, Some(max_length)).await
    }

    /// Publishes events in one step, all or none, and returns the ids of their entries. Readers see all of them or
    /// none, and no other entries between them. The server runs no other command meanwhile: keep batches small.
    ///
    /// # Errors
    /// [`EventPublishError`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(publisher: eventbus_redis::streams::EventPublisher) -> eventbus::Result<()> {
    /// use serde_json::json;
    /// let events = [("order.created", json!({ "total": 49.99 })), ("order.paid", json!({ "amount": 49.99 }))];
    /// let ids = publisher.publish_batch("orders", events).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_batch<'e, T: Serialize>(
        &self,
        stream: &str,
        events: impl IntoIterator<Item = (&'e str, T)>,
    ) -> Result<Vec<MessageId>, EventPublishError> {
        let key = self.streams.config().stream_key(stream);
        let events = events.into_iter();
        let entries =
            events.map(|(event_type, data)| self.entry_fields(event_type, &data)).collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = Vec::with_capacity(entries.len());
        let added = publish::add_batch(self.streams.connection(), &key, &entries, &mut ids).await;
        let added = added.map_err(|error| match ids.len() {
            0 => error,
            added => CommandError::Sent(partial_publish_error(added, &error)),
        });
        added.map(|()| ids).map_err(|error| RedisCommandError::from_command_error(&key, error).into())
    }

    /// Returns the fields of an entry, in their order.
    fn entry_fields<T: Serialize + ?Sized>(
        &self,
        event_type: &str,
        data: &T,
    ) -> Result<EntryFields<'static>, EventPublishError> {
        let unencodable = |source| EventPublishError::Unencodable { event_type: event_type.into(), source };
        let data = to_json(data).map_err(unencodable)?;
        let now = self.streams.config().clock.unix_millis();
        Ok(vec![
            (field::TYPE, Cow::Owned(event_type.as_bytes().to_vec())),
            (field::TIMESTAMP, Cow::Owned(now.to_string().into_bytes())),
            (field::DATA, Cow::Owned(data.into_bytes())),
        ])
    }

    async fn add<T: Serialize + ?Sized>(
        &self,
        stream: &str,
        event_type: &str,
        data: &T,
        max_length: Option<u64>,
    ) -> Result<MessageId, EventPublishError> {
        let fields = self.entry_fields(event_type, data)?;
        let key = self.streams.config().stream_key(stream);
        Ok(add_entry(&self.streams, &key, &fields, max_length).await?)
    }
}

/// Adds an entry to the stream of a key, and returns its id.
pub(super) async fn add_entry<V: AsRef<[u8]>>(
    streams: &RedisStreams,
    key: &str,
    fields: &[(&str, V)],
    max_length: Option<u64>,
) -> Result<MessageId, RedisCommandError> {
    // never sent twice: that would publish twice
    let id: Result<String, _> = streams.connection().query(&command::add(key, fields, max_length)).await;
    id.map(MessageId::new).map_err(|error| RedisCommandError::from_command_error(key, error))
}
