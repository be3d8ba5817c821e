//! Where a store gets its connections: from pools of its own, or from a pool of the application.

use std::{sync::Arc, time::Duration};

use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The source of a store's connections.
#[derive(Debug, Clone)]
pub(crate) enum Connector {
    /// Connections that the store opens with these options, which hold its settings.
    Own(Arc<PgConnectOptions>),
    /// Connections of the application's pool; the store opens none, and leaves no setting on them.
    Shared(PgPool),
}

impl Connector {
    /// Returns the address and the TLS mode of the connections.
    pub(crate) fn options(&self) -> Arc<PgConnectOptions> {
        match self {
            Self::Own(options) => Arc::clone(options),
            Self::Shared(pool) => pool.connect_options(),
        }
    }

    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Returns the pool from which the task of the notifications takes its connection.
    pub(crate) fn listener_pool(&self, connect_timeout: Duration) -> PgPool {
        match self {
            // a pool for each attempt: a connection that hangs does not delay the next one
            Self::Own(options) => PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(connect_timeout)
                .idle_timeout(None)
                .max_lifetime(None)
                .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
                .connect_lazy_with(PgConnectOptions::clone(options)),
            Self::Shared(pool) => pool.clone(),
        }
    }
}

/// Refuses a standby, to which the address may lead after a failover: it does not have the locks behind the feed.
pub(crate) async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    if sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await? {
        return Err(sqlx::Error::Protocol("the server is a standby".into()));
    }
    Ok(())
}
