//! A bus that exists: on Redis, or none, if handlers read the store.

use std::sync::Arc;

use eventbus::{
    InMemoryEventBus,
    bus::{EventBus, MergedDeadLetters, bus_of_store, reads_store},
    dead_letter::DeadLetters,
    health::StreamInfo,
    store::EventStore,
};
use eventbus_redis::RedisEventBus;

use super::settings::ConnectionSettings;
use crate::error::CommandError;

/// A bus that exists. Opening it created no stream and no group.
#[derive(derive_more::Debug, Clone)]
#[non_exhaustive]
pub enum OpenBus {
    /// On Redis Streams, with the dead letters of the stream and of the handlers of the store, if there is one.
    #[debug("{_0:?}")]
    Redis(RedisEventBus, MergedDeadLetters),
    /// None: the handlers read the store, which keeps their progress and dead letters.
    #[debug("{}", _0.describe())]
    Store(Arc<dyn EventBus>),
    /// The bus, of any kind, of an application that runs in this process.
    #[debug("{}", _0.describe())]
    Other(Arc<dyn EventBus>),
}

impl OpenBus {
    /// Opens the bus that the settings name; without one, the handlers of `store`.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] if it cannot be reached, [`CommandError::Fault`] if there is none.
    pub async fn open(
        settings: &ConnectionSettings,
        store: Option<&Arc<dyn EventStore>>,
    ) -> Result<Self, CommandError> {
        if let Some(config) = settings.bus_config() {
            return Ok(Self::on_redis(RedisEventBus::attach(config).await?, store));
        }
        let missing =
            || CommandError::Usage("which bus? pass `--bus URL`, or `--store URL` for the handlers of a store".into());
        store.map(Self::of_store).ok_or_else(missing)
    }

    /// Opens the bus of an application a second time, in a way that creates no keys. A bus in the process keeps nothing:
    /// progress and dead letters are then those of `store`.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] if it cannot be reached, [`CommandError::Fault`] if there is none.
    pub async fn attach(bus: &Arc<dyn EventBus>, store: Option<&Arc<dyn EventStore>>) -> Result<Self, CommandError> {
        if let Some(bus) = as_redis(bus) {
            return Ok(Self::on_redis(RedisEventBus::attach(bus.config().clone()).await?, store));
        }
        match store {
            Some(store) if reads_store(&**bus) || is_in_memory(bus) => Ok(Self::of_store(store)),
            _ => Ok(Self::Other(Arc::clone(bus))),
        }
    }

    /// Returns the bus of an application that runs in this process.
    pub(crate) fn of_app(bus: &Arc<dyn EventBus>, store: Option<&Arc<dyn EventStore>>) -> Self {
        match as_redis(bus) {
            Some(redis) => Self::on_redis(redis.clone(), store),
            None if reads_store(&**bus) => Self::Store(Arc::clone(bus)),
            None => Self::Other(Arc::clone(bus)),
        }
    }

    fn on_redis(bus: RedisEventBus, store: Option<&Arc<dyn EventStore>>) -> Self {
        let of_store = store.filter(|store| store.handler_progress().is_some()).cloned().map(bus_of_store);
        let dead_letters = MergedDeadLetters::new(of_store.into_iter().chain([Arc::new(bus.clone()) as _]));
        Self::Redis(bus, dead_letters)
    }

    fn of_store(store: &Arc<dyn EventStore>) -> Self {
        Self::Store(bus_of_store(Arc::clone(store)))
    }

    /// Returns the bus as a port.
    #[must_use]
    pub fn as_bus(&self) -> &dyn EventBus {
        match self {
            Self::Redis(bus, _) => bus,
            Self::Store(bus) | Self::Other(bus) => &**bus,
        }
    }

    /// Returns the state of its stream and its groups.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] if the bus does not answer, [`CommandError::Fault`] if the server refuses.
    pub async fn stream_info(&self) -> Result<StreamInfo, CommandError> {
        if let Self::Redis(bus, _) = self {
            return Ok(bus.load_stream_info().await?);
        }
        let bus = self.as_bus();
        let info = bus.stream_info().await;
        match info.connected {
            true => Ok(info),
            false => Err(CommandError::unreachable(&bus.describe(), "it did not describe its stream and groups")),
        }
    }

    /// Returns the dead letters of the bus alone.
    ///
    /// # Errors
    /// [`CommandError::Fault`] if the bus keeps no dead letters.
    pub fn of_bus(&self) -> Result<&dyn DeadLetters, CommandError> {
        let none = || CommandError::fault(format!("{} keeps no dead letters", self.as_bus().describe()));
        self.as_bus().dead_letters().ok_or_else(none)
    }

    /// Returns the dead letters, of the handlers of the store too.
    ///
    /// # Errors
    /// [`CommandError::Fault`] if the bus keeps no dead letters.
    pub fn dead_letters(&self) -> Result<&dyn DeadLetters, CommandError> {
        if let Self::Redis(_, dead_letters) = self {
            return Ok(dead_letters);
        }
        self.of_bus()
    }

    /// Returns `true` if no server and no file transports the events.
    #[must_use]
    pub fn is_in_process(&self) -> bool {
        match self {
            Self::Redis(..) => false,
            Self::Store(_) => true,
            Self::Other(bus) => is_in_memory(bus),
        }
    }
}

fn is_in_memory(bus: &Arc<dyn EventBus>) -> bool {
    bus.as_any().is_some_and(|bus| bus.is::<InMemoryEventBus>())
}

fn as_redis(bus: &Arc<dyn EventBus>) -> Option<&RedisEventBus> {
    bus.as_any()?.downcast_ref()
}
