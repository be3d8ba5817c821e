//! A projection: its handlers, and the loop that runs it.
//!
//! Real time, not the given clock: reconnecting to Redis.

use std::time::Duration;

use eventbus::{
    BoxError,
    port::MessageId,
    support::{BackoffTimer, Outage},
};
use serde::de::DeserializeOwned;

use super::{
    Applied, Effects, ProjectionProgress, StreamProjectionError,
    handlers::{ApplyFailure, EventHandlers},
    step_runner::{StepRunner, checkpoint_id},
};
use crate::{
    RedisCommandError,
    blocking_read::RECONNECT_BACKOFF,
    command::streams,
    streams::{Consume, RedisStreams, StreamEntry},
};

/// A projection of the plain events of one stream into keys of the same Redis; made by [`RedisStreams::projection`].
///
/// One step writes the effects of the handlers and moves the checkpoint, unless the checkpoint has moved already. So a
/// crash neither repeats nor loses an entry, and any number of processes may run the projection at once, as long as
/// Redis keeps what it acknowledged. A handler may be called for an entry more than once, so it only writes
/// [`Effects`].
///
/// Its name, its stream and the [`stream_prefix`](crate::streams::RedisStreamsConfig::stream_prefix) of the
/// configuration identify a projection: with the same name over a different stream, or in a program with a different
/// prefix, it has its own checkpoint. The handlers of different programs must write different keys.
///
/// If entries are gone before they were processed, the projection stops with
/// [`Missing`](StreamProjectionError::Missing), also if the stream was made anew. It does not notice a single entry that
/// was deleted by name (`XDEL`) between others. [`RedisStreams::trim`] removes no unprocessed entry; a publisher's
/// maximum length does.
///
/// [`catch_up`](Self::catch_up) processes the entries that the stream has, [`run`](Self::run) also waits for new ones,
/// [`rebuild`](Self::rebuild) starts again from the oldest entry.
///
/// # Examples
/// ```no_run
/// # async fn run(streams: eventbus_redis::streams::RedisStreams) -> eventbus::Result<()> {
/// #[derive(serde::Deserialize)]
/// struct OrderCreated { total: f64 }
/// #[derive(serde::Deserialize)]
/// struct OrderShipped {}
///
/// let stats = streams
///     .projection("order-stats", "events:orders")
///     .on("order.created", |order: OrderCreated, effects| {
///         effects.hincrby("stats:orders", "total_count", 1);
///         effects.hincrbyfloat("stats:orders", "total_value", order.total);
///     })
///     .on("order.shipped", |_: OrderShipped, effects| effects.hincrby("stats:orders", "shipped_count", 1));
/// let rebuilt = stats.rebuild(|now| println!("{} of {}, {:?} left", now.done, now.of, now.time_left())).await?;
/// println!("{} processed", rebuilt.processed);
/// stats.run(std::future::pending()).await?; // with new entries, until the process ends
/// # Ok(())
/// # }
/// ```
#[derive(derive_more::Debug, Clone)]
#[debug("EventProjection({} over {})", runner.name(), runner.stream())]
pub struct EventProjection {
    runner: StepRunner,
    handlers: EventHandlers,
}

/// Delay before a running projection retries an entry that stopped it.
const STOPPED_RETRY_DELAY: Duration = Duration::from_secs(60);

impl EventProjection {
    pub(crate) fn new(streams: &RedisStreams, name: &str, stream: &str) -> Self {
        Self { runner: StepRunner::new(streams, name, stream), handlers: EventHandlers::default() }
    }

    /// Sets the handler of an event type, and replaces an earlier one. The data of the events is decoded into `T`.
    #[must_use]
    pub fn on<T, F>(self, event_type: &str, handler: F) -> Self
    where
        T: DeserializeOwned,
        F: Fn(T, &mut Effects) + Send + Sync + 'static,
    {
        self.try_on(event_type, move |event: T, effects| {
            handler(event, effects);
            Ok::<_, BoxError>(())
        })
    }

    /// Sets a handler that may fail. The projection then stops with the entry's id, and writes no effects of the event.
    #[must_use]
    pub fn try_on<T, E, F>(mut self, event_type: &str, handler: F) -> Self
    where
        T: DeserializeOwned,
        E: Into<BoxError>,
        F: Fn(T, &mut Effects) -> Result<(), E> + Send + Sync + 'static,
    {
        let handle = move |entry: &StreamEntry, effects: &mut Effects| {
            let event = entry.data().map_err(ApplyFailure::Entry)?;
            handler(event, effects).map_err(|error| ApplyFailure::Handler(error.into()))
        };
        self.handlers.set(event_type, handle);
        self
    }

    /// Skips entries of any type before their fields are read, for example a damaged entry, or entries of another
    /// program. The checkpoint moves past them, [`Applied::skipped`] counts them, and a rebuild skips them too. Without
    /// this, an entry that cannot be read [stops](StreamProjectionError::Entry) the projection.
    ///
    /// # Examples
    /// ```no_run
    /// # fn run(stats: eventbus_redis::streams::EventProjection) -> eventbus_redis::streams::EventProjection {
    /// stats
    ///     .skip_if(|entry| entry.id.as_str() == "1795157844243-0") // the error has named it
    ///     .skip_if(|entry| entry.field("type").is_none()) // the audit log writes here, too
    /// # }
    /// ```
    #[must_use]
    pub fn skip_if(mut self, is_skipped: impl Fn(&StreamEntry) -> bool + Send + Sync + 'static) -> Self {
        self.handlers.skip_if(is_skipped);
        self
    }

    /// Returns the last processed entry; `None` before the first.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn checkpoint(&self) -> Result<Option<MessageId>, RedisCommandError> {
        self.runner.checkpoint().await
    }

    /// Processes the entries after the checkpoint, and returns the result. Skips and counts entries of types without a
    /// handler.
    ///
    /// Dropping the future, or the end of the process, at any moment neither repeats nor loses an entry.
    ///
    /// # Errors
    /// [`StreamProjectionError`].
    pub async fn catch_up(&self) -> Result<Applied, StreamProjectionError> {
        let mut applied = Applied::default();
        self.apply_available(&mut applied, |_| {}).await?;
        Ok(applied)
    }

    async fn apply_available(
        &self,
        applied: &mut Applied,
        mut on_step: impl FnMut(&Applied),
    ) -> Result<(), StreamProjectionError> {
        loop {
            let batch = self.runner.next_batch().await?;
            applied.position = checkpoint_id(&batch.checkpoint);
            if batch.entries.is_empty() {
                return Ok(());
            }
            // if a concurrent runner was first, the loop continues after its entries
            self.runner.apply(&self.handlers, &batch, applied).await?;
            on_step(applied);
        }
    }

    /// Processes the entries of the stream and new ones until `stop` completes; then returns the result, without a step
    /// that is under way. Retries with backoff in an outage, and every minute after an [entry
    /// error](StreamProjectionError::is_entry_error). Logs the first entry of each type without a handler.
    ///
    /// # Errors
    /// [`StreamProjectionError`] of any other kind.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<Applied, StreamProjectionError> {
        let mut applied = Applied::default();
        // a step under way may be dropped: the server makes all of it or none
        let failed = tokio::select! {
            () = stop => None,
            error = self.run_until_error(&mut applied) => Some(error),
        };
        failed.map_or(Ok(applied), Err)
    }

    async fn run_until_error(&self, applied: &mut Applied) -> StreamProjectionError {
        let (projection, stream) = (self.runner.name(), self.runner.stream());
        let mut coming = self.runner.streams().reader(stream);
        let (mut backoff, mut last_logged) = (BackoffTimer::new(RECONNECT_BACKOFF), None);
        let clock = &self.runner.streams().config().clock;
        let (mut outage, mut stop) = (Outage::new(clock.clone()), Outage::new(clock.clone()));
        loop {
            let followed = async {
                self.apply_available(applied, |_| {}).await?;
                if let Some(lasted) = stop.ends() {
                    last_logged = None;
                    tracing::info!(projection, stream, ?lasted, "projection goes on");
                }
                if let Some(position) = &applied.position {
                    coming = std::mem::replace(&mut coming, self.runner.streams().reader(stream)).after(position);
                }
                Ok::<_, StreamProjectionError>(coming.wait(Consume { count: 1, ..Consume::default() }).await?)
            };
            match followed.await {
                Ok(_) => {
                    backoff.reset();
                    if let Some(lasted) = outage.ends() {
                        tracing::info!(projection, stream, ?lasted, "projection reads again");
                    }
                }
                Err(error) if error.is_retryable() => {
                    if outage.begins() {
                        tracing::warn!(projection, %error, "projection interrupted, trying again");
                    }
                    tokio::time::sleep(backoff.next_jittered()).await;
                }
                Err(error) if error.is_entry_error() => {
                    stop.begins();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    let current = Some((error.to_string(), cause));
                    // logged again if a different entry fails, or for a different cause
                    if last_logged != current
                        && let Some((error, cause)) = &current
                    {
                        tracing::error!(projection, error, cause, "projection stopped, trying again every minute");
                    }
                    last_logged = current;
                    clock.sleep(STOPPED_RETRY_DELAY).await;
                }
                Err(error) => return error,
            }
        }
    }

    /// Removes the checkpoint and all keys that the projection has written, in one step, and processes the stream from
    /// its oldest entry on. The result counts the [processed](Applied::processed) entries.
    ///
    /// Until the rebuild has caught up, the keys show what it has processed so far. Where that must not be seen, build a
    /// projection with a new name into new keys, and let readers switch. `on_progress` is called after each hundred
    /// entries. A rebuild that is dropped or killed goes on with the next [`catch_up`](Self::catch_up) or
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// [`StreamProjectionError`]; the projection continues after the entries that it has processed.
    pub async fn rebuild(
        &self,
        mut on_progress: impl FnMut(ProjectionProgress),
    ) -> Result<Applied, StreamProjectionError> {
        self.runner.reset().await?;
        let stream = self.runner.stream();
        let length: u64 = self.runner.streams().query_idempotent(stream, &streams::length(stream)).await?;
        let clock = &self.runner.streams().config().clock;
        let (began, mut applied) = (clock.instant(), Applied::default());
        let report = |applied: &Applied| {
            let (done, took) = (applied.processed, clock.elapsed(began));
            on_progress(ProjectionProgress { done, of: length.max(done), took });
        };
        self.apply_available(&mut applied, report).await?;
        Ok(applied)
    }

    /// Sets the checkpoint to after an entry, or with `None` before the oldest one: the projection continues there,
    /// with the entries that the stream has now.
    ///
    /// Call it where a run cannot decide: after [`Missing`](StreamProjectionError::Missing) with the id that the error
    /// names, if the projection can do without the missing entries; with `None`, if the stream was made anew. The
    /// projection processes the entries after the checkpoint, **once more if it had processed them**;
    /// [`rebuild`](Self::rebuild) begins from zero instead.
    ///
    /// # Errors
    /// [`StreamProjectionError::Command`], also if `entry` is not an id of an entry.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(stats: eventbus_redis::streams::EventProjection) -> eventbus::Result<()> {
    /// use eventbus_redis::streams::StreamProjectionError;
    /// if let Err(StreamProjectionError::Missing { after, entries, .. }) = stats.catch_up().await {
    ///     eprintln!("{entries:?} orders are missing in the statistics from now on");
    ///     stats.set_checkpoint_after(Some(&after)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "save_checkpoint")]
    pub async fn set_checkpoint_after(&self, entry: Option<&MessageId>) -> Result<(), StreamProjectionError> {
        self.runner.set_checkpoint_after(entry).await
    }

    /// Removes the projection's note from the stream, so that it no longer holds up [trimming](RedisStreams::trim). The
    /// keys that it wrote, and its checkpoint, stay. The next run writes the note again, or fails because entries may
    /// be [missing](StreamProjectionError::Missing).
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn retire(&self) -> Result<(), RedisCommandError> {
        self.runner.retire().await
    }
}
