//! Projections of a stream into keys of the same Redis.
//!
//! Invariant: one step writes the effects of entries and moves the checkpoint, only if the checkpoint is still where
//! the entries were read after. So any number of runners may run, and die at any moment. A projection stops if entries
//! are gone that it had not processed.
//!
//! Real time, not the given clock: reconnecting to Redis.

mod apply;
mod batch;
mod effects;
mod error;
mod progress;
mod rebuild;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use eventbus::{
    BoxError, Name,
    port::{MessageId, Outage},
};
use serde::de::DeserializeOwned;

use self::apply::ProjectionTarget;
pub use self::{
    effects::Effects,
    error::StreamProjectionError,
    progress::{Applied, ProjectionProgress},
};
use super::{Consume, EntryError, RedisStreams, StreamEntry};
use crate::{RedisCommandError, blocking_read::RECONNECT_BACKOFF, command::streams, keys};

/// A projection of the plain events of one stream into keys of the same Redis; made by [`RedisStreams::projection`].
///
/// One step writes the effects of the handlers and moves the checkpoint, unless it has moved: a crash neither repeats
/// nor loses an entry, and any number of processes may run the projection at once, as long as Redis keeps what it
/// acknowledged. A handler may be called for an entry more than once, so it only writes [`Effects`].
///
/// A projection is identified by its name, its stream and the
/// [`stream_prefix`](crate::RedisStreamsConfig::stream_prefix) of the configuration: one with the same name over a
/// different stream, or of a program with a different prefix, has its own checkpoint. Programs must keep the keys of
/// their handlers apart.
///
/// Entries that are gone before they were processed stop it with [`Missing`](StreamProjectionError::Missing), and a
/// stream that was made anew with [`Replaced`](StreamProjectionError::Replaced): no entry is missed in silence.
/// [`RedisStreams::trim`] removes no such entry; a publisher's maximum length does.
///
/// [`catch_up`](Self::catch_up) processes the entries of the stream, [`run`](Self::run) also new ones,
/// [`rebuild`](Self::rebuild) starts from the oldest entry while the old numbers are served.
///
/// # Examples
/// ```no_run
/// # async fn run(streams: eventbus_redis::RedisStreams) -> eventbus::Result<()> {
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
#[derive(Clone)]
pub struct EventProjection {
    streams: RedisStreams,
    name: String,
    stream: String,
    handlers: HashMap<String, EventHandlerFn>,
    skip_predicates: Vec<SkipPredicate>,
}

/// Delay before a running projection retries an entry that stopped it.
const STOPPED_RETRY_DELAY: Duration = Duration::from_secs(60);

type SkipPredicate = Arc<dyn Fn(&StreamEntry) -> bool + Send + Sync>;
type EventHandlerFn = Arc<dyn Fn(&StreamEntry, &mut Effects) -> Result<(), ApplyFailure> + Send + Sync>;

/// Reason why a handler wrote no effects.
enum ApplyFailure {
    Entry(EntryError),
    Handler(BoxError),
}

impl RedisStreams {
    /// Returns a projection of the stream of a key, as `events:orders`, without handlers.
    #[must_use]
    pub fn projection(&self, name: &str, key: &str) -> EventProjection {
        let (streams, name, stream) = (self.clone(), name.into(), key.into());
        EventProjection { streams, name, stream, handlers: HashMap::new(), skip_predicates: Vec::new() }
    }
}

impl EventProjection {
    /// Sets the handler of a type of events, and replaces an earlier one. Their data is decoded into `T`.
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
        self.handlers.insert(event_type.into(), Arc::new(handle));
        self
    }

    /// Skips entries of any type before their fields are read: a damaged one, or those of a foreign program. The
    /// checkpoint moves past them, [`Applied::skipped`] counts them, and a rebuild skips them too. Without this an
    /// entry that cannot be read [stops](StreamProjectionError::Entry) the projection.
    ///
    /// # Examples
    /// ```no_run
    /// # fn run(stats: eventbus_redis::EventProjection) -> eventbus_redis::EventProjection {
    /// stats
    ///     .skip_if(|entry| entry.id.as_str() == "1795157844243-0") // the error has named it
    ///     .skip_if(|entry| entry.field("type").is_none()) // the audit log writes here, too
    /// # }
    /// ```
    #[must_use]
    pub fn skip_if(mut self, is_skipped: impl Fn(&StreamEntry) -> bool + Send + Sync + 'static) -> Self {
        self.skip_predicates.push(Arc::new(is_skipped));
        self
    }

    /// Returns the last processed entry; `None` before the first.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn checkpoint(&self) -> Result<Option<MessageId>, RedisCommandError> {
        Ok(Some(self.live_checkpoint().await?).filter(|at| at != apply::CHECKPOINT_START).map(MessageId::new))
    }

    /// Processes the entries after the checkpoint, and returns the result. Entries of types without a handler are
    /// skipped and counted.
    ///
    /// Dropping the future, or the end of the process, at any moment neither repeats nor loses an entry.
    ///
    /// # Errors
    /// [`StreamProjectionError`].
    pub async fn catch_up(&self) -> Result<Applied, StreamProjectionError> {
        let mut applied = Applied::default();
        self.apply_available(&mut applied).await?;
        Ok(applied)
    }

    async fn apply_available(&self, applied: &mut Applied) -> Result<(), StreamProjectionError> {
        loop {
            let (batch, deleted) = self.next_batch(&ProjectionTarget::Live).await?;
            applied.deleted += deleted;
            applied.position = batch.checkpoint_id();
            if batch.entries.is_empty() {
                return Ok(());
            }
            // if a concurrent runner was first, the loop continues behind it
            self.apply_batch(&ProjectionTarget::Live, &batch, applied).await?;
        }
    }

    /// Processes the entries of the stream and new ones until `stop` completes; returns the result by then, without a
    /// step under way. It retries with backoff in an outage, and every minute after an
    /// [entry error](StreamProjectionError::is_entry_error). Logs the first entry of each type without a handler.
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
        let mut coming = self.streams.reader(&self.stream);
        let (mut failures, mut last_logged) = (0, None);
        let clock = &self.streams.config().clock;
        let (mut outage, mut stop) = (Outage::new(clock.clone()), Outage::new(clock.clone()));
        loop {
            let followed = async {
                self.apply_available(applied).await?;
                if let Some(lasted) = stop.ends() {
                    last_logged = None;
                    tracing::info!(projection = self.name, stream = self.stream, ?lasted, "projection goes on");
                }
                if let Some(position) = &applied.position {
                    coming = std::mem::replace(&mut coming, self.streams.reader(&self.stream)).after(position);
                }
                Ok::<_, StreamProjectionError>(coming.wait(Consume { count: 1, ..Consume::default() }).await?)
            };
            match followed.await {
                Ok(_) => {
                    failures = 0;
                    if let Some(lasted) = outage.ends() {
                        tracing::info!(projection = self.name, stream = self.stream, ?lasted, "projection reads again");
                    }
                }
                Err(error) if error.is_retryable() => {
                    failures += 1;
                    if outage.begins() {
                        tracing::warn!(projection = self.name, %error, "projection interrupted, trying again");
                    }
                    tokio::time::sleep(RECONNECT_BACKOFF.jittered(failures)).await;
                }
                Err(error) if error.is_entry_error() => {
                    stop.begins();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    let current = Some((error.to_string(), cause));
                    // logged again if a different entry fails, or for a different cause
                    if last_logged != current
                        && let Some((error, cause)) = &current
                    {
                        tracing::error!(
                            projection = self.name,
                            error,
                            cause,
                            "projection stopped, trying again every minute"
                        );
                    }
                    last_logged = current;
                    clock.sleep(STOPPED_RETRY_DELAY).await;
                }
                Err(error) => return error,
            }
        }
    }

    /// Removes the projection's note from the stream, so that it holds no [trimming](RedisStreams::trim) any more. The
    /// keys that it wrote, and its checkpoint, stay. The next run notes it again, or fails because entries may be
    /// [missing](StreamProjectionError::Missing).
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn retire(&self) -> Result<(), RedisCommandError> {
        let delete = streams::delete_fields(
            &keys::projections(&self.stream),
            &[&self.progress_field(), &self.rebuild_progress_field()],
        );
        self.query::<u64>(&delete).await.map(drop)
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisCommandError> {
        self.streams.query(&self.stream, command).await
    }

    fn own_key(&self, what: &str) -> String {
        keys::projection_key(&self.streams.config().stream_prefix, &self.stream, &self.name, what)
    }

    fn check_name(&self) -> Result<(), StreamProjectionError> {
        match Name::new("projection", &self.name) {
            Ok(_) => Ok(()),
            Err(reason) => {
                Err(StreamProjectionError::InvalidName { projection: self.name.clone(), reason: reason.into() })
            }
        }
    }

    /// Returns its name among the projections of the stream.
    fn progress_field(&self) -> String {
        keys::projection_field(&self.streams.config().stream_prefix, &self.name)
    }

    /// Returns the name of a rebuild among the projections of the stream.
    fn rebuild_progress_field(&self) -> String {
        format!("{}:rebuild", self.progress_field())
    }
}

impl fmt::Debug for EventProjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventProjection")
            .field("name", &self.name)
            .field("stream", &self.stream)
            .field("types", &self.handlers.keys())
            .finish_non_exhaustive()
    }
}
