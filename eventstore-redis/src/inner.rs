//! State that the clones of a store share.

use std::sync::Arc;

use eventbus::{Position, port::AppendSignal, support::ListedEventTypes};
use eventbus_redis_core::{connection::SharedConnection, error::RedisConnectError, url::address};
use redis::ScriptInvocation;
use uuid::Uuid;

use crate::{
    config::RedisEventStoreConfig,
    durability::AcknowledgedPosition,
    keys::{FORMAT, StoreKeys},
    script,
};

/// State that the clones of a store share.
#[derive(derive_more::Debug)]
#[debug("RedisEventStore({id}, {config:?})")]
pub(crate) struct StoreInner {
    config: RedisEventStoreConfig,
    keys: StoreKeys,
    connection: SharedConnection,
    id: Uuid,
    append_signal: Arc<AppendSignal>,
    known_event_types: ListedEventTypes,
    acknowledged: AcknowledgedPosition,
}

impl StoreInner {
    /// Connects, and creates the store if there is none with this prefix yet.
    pub(crate) async fn connect(config: RedisEventStoreConfig) -> Result<Self, RedisConnectError> {
        let keys = StoreKeys::new(&config.key_prefix);
        let mut open = script::OPEN_STORE.prepare_invoke();
        open.key(keys.meta()).key(keys.feed()).key(keys.ids()).key(keys.event_types());
        FORMAT.add_arguments(open.arg(config.clock.new_id().to_string()));
        Self::connect_by(&open, keys, config).await
    }

    /// Connects to the store with this prefix, which must exist.
    pub(crate) async fn attach(config: RedisEventStoreConfig) -> Result<Self, RedisConnectError> {
        let keys = StoreKeys::new(&config.key_prefix);
        let mut find = script::FIND_STORE.prepare_invoke();
        FORMAT.add_arguments(&mut *find.key(keys.meta()));
        Self::connect_by(&find, keys, config).await
    }

    /// Connects, and runs the script that opens or finds the store.
    async fn connect_by(
        open: &ScriptInvocation<'_>,
        keys: StoreKeys,
        config: RedisEventStoreConfig,
    ) -> Result<Self, RedisConnectError> {
        config.validate()?;
        let append_signal = Arc::<AppendSignal>::default();
        let reconnected = Arc::clone(&append_signal);
        // a failover may have lost events
        let link = SharedConnection::new(config.server(), move || reconnected.note_possible_restore())?;
        let reply: Vec<String> = link.connect(open).await?;
        let address = address(&config.redis_url);
        let id = match &reply.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["too new", format, min_reader] => {
                return Err(FORMAT.too_new_error(&address, &keys.meta(), format, min_reader));
            }
            ["none"] => return Err(RedisConnectError::NotFound { address, of: "event store", key: keys.meta() }),
            [_, id] => Uuid::try_parse(id).ok(),
            _ => None,
        };
        let no_id = || format!("key `{}` holds no id of a store", keys.meta()).into();
        let id = id.ok_or_else(|| RedisConnectError::Refused { address, source: no_id() })?;
        let (known_event_types, acknowledged) = Default::default();
        Ok(Self { config, keys, connection: link, id, append_signal, known_event_types, acknowledged })
    }

    pub(crate) fn config(&self) -> &RedisEventStoreConfig {
        &self.config
    }

    pub(crate) fn keys(&self) -> &StoreKeys {
        &self.keys
    }

    pub(crate) fn connection(&self) -> &SharedConnection {
        &self.connection
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn append_signal(&self) -> &AppendSignal {
        &self.append_signal
    }

    pub(crate) fn known_event_types(&self) -> &ListedEventTypes {
        self.known_event_types.forget_after(self.append_signal.possible_restores());
        &self.known_event_types
    }

    pub(crate) fn acknowledged(&self) -> &AcknowledgedPosition {
        &self.acknowledged
    }

    /// Compares the end of the store with `acknowledged`, and notes a loss.
    pub(crate) fn check_head(&self, acknowledged: Position, found: Position) {
        if self.acknowledged.check_head(acknowledged, found) {
            self.append_signal.note_possible_restore();
        }
    }
}
