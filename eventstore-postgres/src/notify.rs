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

use crate::{config::PgEventStoreConfig, fault::NoAnswerWithin, pool::refuse_standby, schema::Schema};

/// The least time between two notifications: what is appended meanwhile is told in one.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection that was silent this long is asked whether it still lives.
const SILENCE: Duration = Duration::from_secs(30);

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Something was appended: by this store, or by another one.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    pub(crate) signal: AppendSignal,
    /// Changes with each append of this store; true once it is closed.
    own: watch::Sender<bool>,
}

impl Appended {
    /// Says that this store appended.
    pub(crate) fn notify(&self) {
        self.signal.notify();
        self.own.send_modify(|_| {});
    }

    /// Stops telling and listening.
    pub(crate) async fn close(&self) {
        self.own.send_replace(true);
        self.own.closed().await;
    }
}

/// What tells others, and listens to them: a task on a connection of its own.
pub(crate) struct Wire {
    channel: String,
    /// What this store signs with, so as not to hear itself.
    signature: String,
    options: PgConnectOptions,
    connect_timeout: Duration,
    answer_timeout: Duration,
    appended: Weak<Appended>,
}

impl Wire {
    pub(crate) fn new(
        config: &PgEventStoreConfig,
        options: &PgConnectOptions,
        schema: &Schema,
        appended: &Arc<Appended>,
    ) -> Self {
        Self {
            channel: schema.channel(),
            signature: config.clock.new_id().to_string(),
            options: options.clone(),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout(),
            appended: Arc::downgrade(appended),
        }
    }

    /// Keeps it up until the store is closed or its last clone is gone.
    pub(crate) fn spawn(self) {
        let Some(appended) = self.appended.upgrade() else { return };
        let (mut end, own) = (appended.own.subscribe(), appended.own.subscribe());
        drop(appended);
        tokio::spawn(async move {
            tokio::select! {
                // an error: the store is gone
                _ = end.wait_for(|is_closed| *is_closed) => {}
                () = self.keep_up(own) => {}
            }
        });
    }

    async fn keep_up(&self, mut own: watch::Receiver<bool>) {
        let mut retry = FIRST_RETRY;
        loop {
            let mut is_up = false;
            let Err(error) = self.serve(&mut own, &mut is_up).await else { return };
            if is_up {
                retry = FIRST_RETRY;
            }
            tracing::debug!(channel = self.channel, ?error, ?retry, "no notifications of appends for now");
            sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Tells and listens until the connection is lost, or the store.
    async fn serve(&self, own: &mut watch::Receiver<bool>, is_up: &mut bool) -> Result<(), sqlx::Error> {
        let mut listener = self.listen().await?;
        *is_up = true;
        // what was missed meanwhile
        self.wake();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                heard = listener.try_recv() => match heard? {
                    Some(notification) if notification.payload() != self.signature => self.wake(),
                    Some(_) => {}
                    None => return Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionAborted.into())),
                },
                changed = async { sleep_until(next).await; own.changed().await } => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    if let Err(error) = self.tell(&mut listener).await {
                        own.mark_changed();
                        return Err(error);
                    }
                    next = Instant::now() + PAUSE;
                }
                () = sleep(SILENCE) => self.run(&mut listener, "SELECT".into()).await?,
            }
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
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
        self.in_time(listener.listen(&self.channel)).await?;
        Ok(listener)
    }

    /// Nothing is kept, so nothing need be written to disk.
    async fn tell(&self, listener: &mut PgListener) -> Result<(), sqlx::Error> {
        let Self { channel, signature, .. } = self;
        self.run(listener, format!("SET LOCAL synchronous_commit = off; NOTIFY \"{channel}\", '{signature}'")).await
    }

    async fn run(&self, listener: &mut PgListener, sql: String) -> Result<(), sqlx::Error> {
        // our own text, the name of the schema, which is checked, and an id
        let sql = sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str());
        self.in_time(listener.execute(sql)).await.map(drop)
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let late = |_| sqlx::Error::Io(std::io::Error::other(NoAnswerWithin(self.answer_timeout)));
        timeout(self.answer_timeout, answer).await.map_err(late)?
    }

    /// Wakes the readers in this process.
    fn wake(&self) {
        if let Some(appended) = self.appended.upgrade() {
            appended.signal.notify();
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("channel", &self.channel).finish_non_exhaustive()
    }
}
