//! Notifications between stores of different processes: of appends, and of processes with handlers that leave (`LISTEN`,
//! `NOTIFY`).
//!
//! Invariant: a notification only wakes readers. No operation waits for one or fails with one; a reader that misses one
//! finds the events at its next poll. No append shares a transaction with a notification: the commits of transactions
//! that notify wait for each other in the whole server.
//!
//! Real time, not the given clock: a connection to PostgreSQL.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use eventbus::{
    RecordedEvent,
    port::AppendSignal,
    support::{Backoff, BackoffTimer, Outage},
};
use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _, postgres::PgListener};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    config::PgEventStoreConfig,
    connector::Connector,
    schema::Schema,
    statement_error::{NoAnswerWithin, StatementError},
};

/// The least time between two notifications; the second covers all appends in between.
const NOTIFY_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// The payload by which `sql/forget_member.sql` announces that a process with handlers has left.
const LEFT: &str = "left";

/// The task pings a connection that was silent for this long.
const PING_AFTER_SILENCE: Duration = Duration::from_secs(30);

const RECONNECT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));

/// Signals of appends: by this store, and by stores of other processes.
#[derive(Debug, Default)]
pub(crate) struct AppendNotifier {
    pub(crate) signal: AppendSignal,
    /// Changes with each append of this store.
    local_appends: watch::Sender<()>,
    /// `true` once the store is closed. A channel of its own: a task that waits for the end is not woken by appends.
    is_closed: watch::Sender<bool>,
}

impl AppendNotifier {
    /// Wakes readers in this process, and the task, which notifies other processes.
    pub(crate) fn notify(&self) {
        self.signal.notify();
        self.local_appends.send_modify(|_| {});
    }

    /// As [`notify`](Self::notify), with the events that this store appended.
    pub(crate) fn notify_of<'e>(&self, appended: impl IntoIterator<Item = &'e RecordedEvent>) {
        self.signal.notify_of(appended);
        self.local_appends.send_modify(|_| {});
    }

    /// Makes readers poll, here and in other processes: a transaction of the application has appended, and only its
    /// owner sees it commit.
    pub(crate) fn notify_begun(&self) {
        self.signal.notify_begun();
        self.local_appends.send_modify(|_| {});
    }

    /// Returns a guard for a statement that may store events: it notifies if the caller goes away before the answer.
    pub(crate) const fn sent(&self) -> SentAppend<'_> {
        SentAppend(Some(self))
    }

    /// Ends the task, and waits for its end.
    pub(crate) async fn close(&self) {
        self.is_closed.send_replace(true);
        self.is_closed.closed().await;
    }
}

/// A statement that may store events. Dropping it notifies; see [`end`](Self::end).
#[must_use]
pub(crate) struct SentAppend<'a>(Option<&'a AppendNotifier>);

impl SentAppend<'_> {
    /// Ends the guard. It notifies only if there is no answer: the statement may still store events after its append
    /// has failed.
    pub(crate) fn end<T>(mut self, answer: &Result<T, StatementError>) {
        if !matches!(answer, Err(StatementError::NoAnswer(_))) {
            self.0 = None;
        }
    }
}

impl Drop for SentAppend<'_> {
    fn drop(&mut self) {
        if let Some(append_notifier) = self.0 {
            append_notifier.notify();
        }
    }
}

/// The task that notifies other stores and listens to them, on a connection of its own.
///
/// | State | Event | Next state |
/// |---|---|---|
/// | connecting | connected, `LISTEN` done | listening: readers wake, since notifications may have been missed |
/// | connecting | error or timeout | backoff |
/// | listening | notification of another store | listening: readers wake |
/// | listening | notification that a process has left | listening: the apps here learn it |
/// | listening | own notification | listening |
/// | listening | this store appended, [`NOTIFY_INTERVAL_MIN`] after the last `NOTIFY` | listening: `NOTIFY` is sent |
/// | listening | no event for [`PING_AFTER_SILENCE`] | listening: the connection answers a ping |
/// | listening | connection lost, or no answer in time | backoff from the first delay: readers wake, and poll more often; a failed `NOTIFY` stays due |
/// | backoff | the delay is over | connecting; the next delay is twice as long, up to 30 s |
/// | any | the store or the application's pool is closed, or the store's last clone is dropped | ended |
pub(crate) struct NotifyTask {
    channel: String,
    /// The payload of this store's notifications, by which it ignores its own.
    sender_id: String,
    connector: Connector,
    connect_timeout: Duration,
    answer_timeout: Duration,
    append_notifier: Weak<AppendNotifier>,
}

/// The time in which the task listens. It also ends if the task is aborted or panics: readers would otherwise poll too
/// seldom.
struct Listening<'a>(&'a NotifyTask);

impl<'a> Listening<'a> {
    fn begin(task: &'a NotifyTask) -> Self {
        task.set_listening(true);
        Self(task)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.set_listening(false);
    }
}

impl NotifyTask {
    pub(crate) fn new(
        config: &PgEventStoreConfig,
        connector: &Connector,
        schema: &Schema,
        append_notifier: &Arc<AppendNotifier>,
    ) -> Self {
        Self {
            channel: schema.channel(),
            sender_id: config.clock.new_id().to_string(),
            connector: connector.clone(),
            connect_timeout: config.connect_timeout,
            answer_timeout: config.answer_timeout(),
            append_notifier: Arc::downgrade(append_notifier),
        }
    }

    /// Runs the task until the store or its pool is closed, or the last clone of the store is dropped.
    pub(crate) fn spawn(self) {
        let Some(append_notifier) = self.append_notifier.upgrade() else { return };
        let (mut end, local_appends) =
            (append_notifier.is_closed.subscribe(), append_notifier.local_appends.subscribe());
        drop(append_notifier);
        tokio::spawn(async move {
            // the end cancels `run` at any wait, also in a connect or a backoff
            tokio::select! {
                // an error: the store was dropped
                _ = end.wait_for(|is_closed| *is_closed) => {}
                () = self.run(local_appends) => {}
            }
        });
    }

    async fn run(&self, mut local_appends: watch::Receiver<()>) {
        let (mut backoff, mut outage) = (BackoffTimer::new(RECONNECT_BACKOFF), Outage::default());
        loop {
            let mut is_connected = false;
            let ended = self.run_connected(&mut local_appends, &mut is_connected, &mut outage).await;
            let Err(error) = ended else { return };
            if matches!(error, sqlx::Error::PoolClosed) {
                return;
            }
            if is_connected {
                backoff.reset();
            }
            let retry = backoff.next_delay();
            // no log line for a connection that is lost and made again at once
            if !is_connected && outage.begins() {
                tracing::warn!(
                    channel = self.channel, %error,
                    "no connection for notifications, trying again: processes see each other's events up to seconds later"
                );
            }
            tracing::debug!(channel = self.channel, ?error, ?retry, "no connection for notifications, reconnecting");
            sleep(retry).await;
        }
    }

    /// Notifies and listens until the connection is lost (`Err`) or the store is dropped (`Ok`).
    async fn run_connected(
        &self,
        local_appends: &mut watch::Receiver<()>,
        is_connected: &mut bool,
        outage: &mut Outage,
    ) -> Result<(), sqlx::Error> {
        let mut listener = self.connect_listener().await?;
        *is_connected = true;
        if let Some(lasted) = outage.ends() {
            tracing::info!(channel = self.channel, ?lasted, "connected for notifications again");
        }
        // readers wake: notifications sent while it was not connected are lost
        let _listening = Listening::begin(self);
        let mut next = Instant::now();
        loop {
            // one connection for all: `select!` drops the pending receive before a branch sends on it
            tokio::select! {
                received = listener.try_recv() => match received? {
                    Some(notification) if notification.payload() == LEFT => self.signal(AppendSignal::notify_left),
                    Some(notification) if notification.payload() != self.sender_id => self.signal(AppendSignal::notify),
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
        let mut listener = PgListener::connect_with(&self.connector.listener_pool(self.connect_timeout)).await?;
        listener.eager_reconnect(false);
        self.with_timeout(listener.listen(&self.channel)).await?;
        Ok(listener)
    }

    /// Sends a notification, without waiting for the disk: its transaction writes no rows.
    async fn send_notification(&self, listener: &mut PgListener) -> Result<(), sqlx::Error> {
        let Self { channel, sender_id, .. } = self;
        self.execute(listener, format!("SET LOCAL synchronous_commit = off; NOTIFY \"{channel}\", '{sender_id}'")).await
    }

    async fn execute(&self, listener: &mut PgListener, sql: String) -> Result<(), sqlx::Error> {
        // safe: this crate's own text, the checked name of the schema, and an id
        let sql = sqlx::raw_sql(AssertSqlSafe(sql).into_sql_str());
        self.with_timeout(listener.execute(sql)).await.map(drop)
    }

    async fn with_timeout<T>(&self, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let late = |_| sqlx::Error::Io(std::io::Error::other(NoAnswerWithin(self.answer_timeout)));
        timeout(self.answer_timeout, answer).await.map_err(late)?
    }

    /// Sets for the readers in this process whether the task listens to other stores, and wakes them.
    fn set_listening(&self, is_listening: bool) {
        self.signal(|signal| signal.set_hears_all(is_listening));
    }

    /// Signals what the task has heard in this process.
    fn signal(&self, signal: impl FnOnce(&AppendSignal)) {
        if let Some(append_notifier) = self.append_notifier.upgrade() {
            signal(&append_notifier.signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_statement_without_an_answer_wakes_readers() {
        let append_notifier = AppendNotifier::default();
        let mut watch = append_notifier.signal.watch();
        append_notifier.sent().end(&Ok(()));
        assert!(timeout(Duration::ZERO, watch.appended()).await.is_err());
        append_notifier.sent().end::<()>(&Err(StatementError::NoAnswer("connection broken".into())));
        assert!(timeout(Duration::ZERO, watch.appended()).await.is_ok());
    }
}
