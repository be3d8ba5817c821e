//! A bus that exists: on Redis, or the in-process one whose progress is in the store.

use std::sync::Arc;

use eventbus::{InMemoryEventBus, bus::EventBus, dead_letter::DeadLetters, health::StreamInfo, store::EventStore};
use eventbus_redis::RedisEventBus;

use super::settings::ConnectionSettings;
use crate::error::CommandError;

/// A bus that exists. Opening it created no stream and no group.
#[derive(derive_more::Debug, Clone)]
#[non_exhaustive]
pub enum OpenBus {
    /// On Redis Streams.
    Redis(RedisEventBus),
    /// In the process of the application, with the progress of its groups in the store.
    InProcess(InMemoryEventBus),
    /// The bus, of any kind, of an application that runs in this process.
    #[debug("{}", _0.describe())]
    Other(Arc<dyn EventBus>),
}

impl OpenBus {
    /// Opens the bus that the settings name; without one, the in-process bus of `store`.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] if it cannot be reached, [`CommandError::Fault`] if there is none.
    pub async fn open(
        settings: &ConnectionSettings,
        store: Option<&Arc<dyn EventStore>>,
    ) -> Result<Self, CommandError> {
        if let Some(config) = settings.bus_config() {
            return Ok(Self::Redis(RedisEventBus::attach(config).await?));
        }
        let missing =
            || CommandError::Usage("which bus? pass `--bus URL`, or `--store URL` for the in-process bus".into());
        Self::in_process(store.ok_or_else(missing)?).await
    }

    /// Opens the bus of an application a second time, in a way that creates no keys. If its groups are in the process
    /// of the application, their progress and dead letters are read from `store`.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] if it cannot be reached, [`CommandError::Fault`] if there is none.
    pub async fn attach(bus: &Arc<dyn EventBus>, store: Option<&Arc<dyn EventStore>>) -> Result<Self, CommandError> {
        if let Some(bus) = as_redis(bus) {
            return Ok(Self::Redis(RedisEventBus::attach(bus.config().clone()).await?));
        }
        match store {
            // the application's own bus knows its store only once it has started
            Some(store) if !bus.is_durable() => Self::in_process(store).await,
            _ => Ok(Self::Other(Arc::clone(bus))),
        }
    }

    /// Returns the bus of an application that runs in this process.
    pub(crate) fn of_app(bus: &Arc<dyn EventBus>) -> Self {
        as_redis(bus).map_or_else(|| Self::Other(Arc::clone(bus)), |redis| Self::Redis(redis.clone()))
    }

    async fn in_process(store: &Arc<dyn EventStore>) -> Result<Self, CommandError> {
        let bus = InMemoryEventBus::new();
        bus.resume_from(Arc::clone(store)).await?;
        Ok(Self::InProcess(bus))
    }

    /// Returns the bus as a port.
    #[must_use]
    pub fn as_bus(&self) -> &dyn EventBus {
        match self {
            Self::Redis(bus) => bus,
            Self::InProcess(bus) => bus,
            Self::Other(bus) => &**bus,
        }
    }

    /// Returns the state of its stream and its groups.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] if the bus does not answer, [`CommandError::Fault`] if the server refuses.
    pub async fn stream_info(&self) -> Result<StreamInfo, CommandError> {
        if let Self::Redis(bus) = self {
            return Ok(bus.load_stream_info().await?);
        }
        let bus = self.as_bus();
        let info = bus.stream_info().await;
        match info.connected {
            true => Ok(info),
            false => Err(CommandError::unreachable(&bus.describe(), "it did not describe its stream and groups")),
        }
    }

    /// Returns its dead letters.
    ///
    /// # Errors
    /// [`CommandError::Fault`] if the bus keeps no dead letters.
    pub fn dead_letters(&self) -> Result<&dyn DeadLetters, CommandError> {
        let none = || CommandError::fault(format!("{} keeps no dead letters", self.as_bus().describe()));
        self.as_bus().dead_letters().ok_or_else(none)
    }

    /// Returns `true` if the groups of the bus are in the process of the application.
    #[must_use]
    pub fn is_in_process(&self) -> bool {
        match self {
            Self::Redis(_) => false,
            Self::InProcess(_) => true,
            Self::Other(bus) => !bus.is_durable(),
        }
    }
}

fn as_redis(bus: &Arc<dyn EventBus>) -> Option<&RedisEventBus> {
    bus.as_any()?.downcast_ref()
}
