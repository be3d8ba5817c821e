//! Publishing: one round trip, an id per event.

use eventbus::{
    RecordedEvent,
    port::{MessageId, PublishError},
};
use redis::{RedisError, RedisResult};
use tracing::Instrument;

use crate::{
    bus::Shared,
    command,
    connection::{CommandError, boxed},
    trace, wire,
};

/// Some entries were added, others refused.
#[derive(Debug, thiserror::Error)]
#[error("{added} of {all} events were published")]
struct Partly {
    added: usize,
    all: usize,
    #[source]
    refusal: RedisError,
}

impl Shared {
    pub(crate) async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let destination = self.destination.clone();
        if self.consuming.is_closed() {
            return Err(PublishError::ShutDown { destination });
        }
        let entries: Vec<_> = match events.iter().map(wire::encode).collect() {
            Ok(entries) => entries,
            Err(refused) => {
                return Err(PublishError::Refused { destination, source: Box::new(refused) });
            }
        };
        let add = command::add(&self.stream, &entries);
        let sending = self.link.query_all::<Vec<RedisResult<String>>>(&add);
        let span = trace::publish(self, events.len());
        match sending.instrument(span).await {
            Ok(replies) => self.ids(replies),
            Err(error @ CommandError::NotSent(_)) => {
                Err(PublishError::Unavailable { destination, source: boxed(error) })
            }
            Err(error @ CommandError::Sent(_)) => {
                Err(PublishError::OutcomeUnknown { destination, source: boxed(error) })
            }
        }
    }

    fn ids(&self, replies: Vec<RedisResult<String>>) -> Result<Vec<MessageId>, PublishError> {
        let all = replies.len();
        let (mut ids, mut refusal) = (Vec::with_capacity(all), None);
        for reply in replies {
            match reply {
                Ok(id) => ids.push(MessageId::new(id)),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        self.counters.events_published(ids.len() as u64);
        let Some(refusal) = refusal else {
            return Ok(ids);
        };
        let destination = self.destination.clone();
        Err(if !ids.is_empty() {
            let added = ids.len();
            let source = Box::new(Partly { added, all, refusal });
            PublishError::OutcomeUnknown { destination, source }
        } else if command::is_refusal(&refusal) {
            let source = refusal.into();
            PublishError::Refused { destination, source }
        } else {
            let source = refusal.into();
            PublishError::Unavailable { destination, source }
        })
    }
}
