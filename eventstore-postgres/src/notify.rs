//! Telling the stores of other processes that something was appended, and hearing it from them.
//!
//! Keep: it only wakes. Nothing waits for it and nothing fails with it; who misses a notification finds the events when it
//! looks next. No append is ever sent together with a notification, whose commits wait for each other in the whole server.
//!
//! Real time, not the given clock: a connection to PostgreSQL.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use eventbus::port::AppendSignal;
use sqlx::{
    AssertSqlSafe, Executor as _, SqlSafeStr as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{config::PgEventStoreConfig, pool::refuse_standby, schema::Schema, statement_error::NoAnswerWithin};

/// The least time between two notifications: what is appended meanwhile is told in one.
const NOTIFY_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// A connection that was silent this long is asked whether it still lives.
const PING_AFTER_SILENCE: Duration = Duration::from_secs(30);

const RECONNECT_DELAY_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(30);

/// Something was appended: by this store, or by another one.
#[derive(Debug, Default)]
pub(crate) struct AppendNotifier {
    pub(crate) signal: AppendSignal,
    /// Changes with each append of this store; true once it is closed.
    local_appends: watch::Sender<bool>,
}

impl AppendNotifier {
    /// Says that this store appended.
    pub(crate) fn notify(&self) {
        self.signal.notify();
        self.local_appends.send_modify(|_| {});
    }

    /// Stops telling and listening.
    pub(crate) async fn close(&self) {
        self.local_appends.send_replace(true);
        self.local_appends.closed().await;
    }
}

/// What tells others, and listens to them: a task on a connection of its own.
pub(crate) struct NotifyTask {
    channel: String,
    /// What this store signs with, so as not to hear itself.
    sender_id: String,
    options: PgConnectOptions,
    connect_timeout: Duration,
    answer_timeout: Duration,
    append_notifier: Weak<AppendNotifier>,
}

impl NotifyTask {
    pub(crate) fn new(
        config: &PgEventStoreConfig,
        options: &PgConnectOptions,
        schema: &Schema,
        append_notifier: &Arc<AppendNotifier>,
    ) -> Self {
        Self {
            channel: schema.channel(),
            sender_id: config.clock.new_id().to_string(),
            options: options.clone(),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout(),
            append_notifier: Arc::downgrade(append_notifier),
        }
    }

    /// Keeps it up until the store is closed or its last clone is gone.
    pub(crate) fn spawn(self) {
        let Some(append_notifier) = self.append_notifier.upgrade() else { return };
        let (mut end, local_appends) =
            (append_notifier.local_appends.subscribe(), append_notifier.local_appends.subscribe());
        drop(append_notifier);
        tokio::spawn(async move {
            tokio::select! {
                // an error: the store is gone
                _ = end.wait_for(|is_closed| *is_closed) => {}
                () = self.run(local_appends) => {}
            }
        });
    }

    async fn run(&self, mut local_appends: watch::Receiver<bool>) {
        let mut retry = RECONNECT_DELAY_FIRST;
        loop {
            let mut is_connected = false;
            let Err(error) = self.run_connected(&mut local_appends, &mut is_connected).await else { return };
            if is_connected {
                retry = RECONNECT_DELAY_FIRST;
            }
            tracing::debug!(channel = self.channel, ?error, ?retry, "no notifications of appends for now");
            sleep(retry).await;
            retry = (retry * 2).min(RECONNECT_DELAY_MAX);
        }
    }

    /// Tells and listens until the connection is lost, or the store.
    async fn run_connected(
        &self,
        local_appends: &mut watch::Receiver<bool>,
        is_connected: &mut bool,
    ) -> Result<(), sqlx::Error> {
        let mut listener = self.connect_listener().await?;
        *is_connected = true;
        // what was missed meanwhile
        self.wake_readers();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                heard = listener.try_recv() => match heard? {
                    Some(notification) if notification.payload() != self.sender_id => self.wake_readers(),
                    Some(_) => {}
                    None => return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())),
                },
                changed = async { sleep_until(next).await; local_appends.changed().await } => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    if let Err(error) = self.send_notification(&mut listener).await {
                        local_appends.mark_changed();
                        return Err(error);
                    }
                    next = Instant::now() + NOTIFY_INTERVAL_MIN;
                }
                () = sleep(PING_AFTER_SILENCE) => self.execute(&mut listener, "SELECT".into()).await?,
            }
        }
    }

    async fn connect_listener(&self) -> Result<PgListener, sqlx::Error> {
        // a pool for each try: a connection that hangs is not waited for
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.connect_timeout)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
            .connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        self.with_timeout(listener.listen(&self.channel)).await?;
        Ok(listener)
    }

    /// Nothing is kept, so nothing need be written to disk.
    async fn send_notification(&self, listener: &mut PgListener) -> Result<(), sqlx::Error> {
        let Self { channel, sender_id: signature, .. } = self;
        self.execute(listener, format!("SET LOCAL synchronous_commit = off; NOTIFY \"{channel}\", '{signature}'")).await
    }

    async fn execute(&self, listener: &mut PgListener, sql: String) -> Result<(), sqlx::Error> {
        // our own text, the name of the schema, which is checked, and an id
        let sql = sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str());
        self.with_timeout(listener.execute(sql)).await.map(drop)
    }

    async fn with_timeout<T>(&self, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let late = |_| sqlx::Error::Io(std::io::Error::other(NoAnswerWithin(self.answer_timeout)));
        timeout(self.answer_timeout, answer).await.map_err(late)?
    }

    /// Wakes the readers in this process.
    fn wake_readers(&self) {
        if let Some(append_notifier) = self.append_notifier.upgrade() {
            append_notifier.signal.notify();
        }
    }
}

impl fmt::Debug for NotifyTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyTask").field("channel", &self.channel).finish_non_exhaustive()
    }
}
