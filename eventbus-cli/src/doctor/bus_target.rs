//! A bus on Redis, opened once: what it keeps there, `eventbus-redis` reads.

use eventbus::{Name, health::StreamInfo, support::ReaderKind};
use eventbus_redis::{RedisConnectError, RedisEventBus, RedisEventBusConfig};

use super::{
    outcome::{CheckError, unread},
    redis_target::RedisTarget,
};

/// A bus on Redis.
#[derive(Debug)]
pub(crate) struct BusTarget<'a> {
    redis: RedisTarget,
    config: &'a RedisEventBusConfig,
    /// The bus, `None` if the server holds none, or the reason why it cannot be opened.
    opened: Result<Option<RedisEventBus>, String>,
}

impl<'a> BusTarget<'a> {
    pub(crate) const fn new(
        redis: RedisTarget,
        config: &'a RedisEventBusConfig,
        opened: Result<Option<RedisEventBus>, String>,
    ) -> Self {
        Self { redis, config, opened }
    }

    /// Opens a bus, without creating one; `None` if the server holds none.
    pub(crate) async fn open(config: &RedisEventBusConfig) -> Result<Option<RedisEventBus>, CheckError> {
        match RedisEventBus::attach(config.clone()).await {
            Ok(bus) => Ok(Some(bus)),
            Err(RedisConnectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(unread(error)),
        }
    }

    pub(crate) const fn redis(&self) -> &RedisTarget {
        &self.redis
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.config.stream_prefix
    }

    /// Returns the key of the stream.
    pub(crate) fn stream(&self) -> String {
        self.config.stream_name()
    }

    /// Returns the role of the relay to this bus: a store keeps its checkpoint and its lease by that name.
    pub(crate) fn relay(&self) -> Result<Name, CheckError> {
        let destination = Name::new("destination", format!("redis:{}", self.stream()));
        Ok(ReaderKind::Relay.name_of(&destination.map_err(|error| CheckError::Other(error.to_string()))?))
    }

    /// Returns the bus; `None` if the server holds none.
    pub(crate) fn opened(&self) -> Result<Option<&RedisEventBus>, CheckError> {
        self.opened.as_ref().map(Option::as_ref).map_err(|reason| CheckError::Other(reason.clone()))
    }

    /// Loads the state of the stream and its groups; `None` if there is no bus.
    pub(crate) async fn load_info(&self) -> Result<Option<StreamInfo>, CheckError> {
        let Some(bus) = self.opened()? else { return Ok(None) };
        Ok(Some(bus.load_stream_info().await.map_err(unread)?))
    }
}
