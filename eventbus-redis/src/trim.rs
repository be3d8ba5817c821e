//! Keeping the stream short.
//!
//! Keep: what a known group has yet to read or acknowledge is never removed, and deciding and removing are one script.

use std::time::Duration;

use eventbus::port::MessageId;
use redis::ScriptInvocation;
use serde::{Serialize, Serializer};

use crate::{RedisCommandError, RedisEventBus, bus::BusInner, command::admin, entry_id::EntryId, keys, script};

/// How many entries are removed at once: the server does nothing else meanwhile (about a millisecond).
const TRIM_BATCH_MAX: u64 = 200;

/// From when on entries may be removed from the stream: those beyond either limit. Without limits none are.
///
/// # Examples
/// ```
/// use eventbus_redis::Trim;
/// use std::time::Duration;
/// let trim = Trim { max_length: Some(100_000), max_age: Some(Duration::from_secs(7 * 86_400)) };
/// assert_eq!(Trim::default(), Trim { max_length: None, max_age: None });
/// # drop(trim);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trim {
    /// How many entries may stay; 0 removes all that every group is done with. Of several partitions each keeps its even
    /// share.
    pub max_length: Option<u64>,
    /// How old an entry may become, by the server's clock, to the millisecond.
    pub max_age: Option<Duration>,
}

/// What came of trimming.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trimmed {
    /// How many entries were removed.
    pub removed: u64,
    /// The group, or the projection, because of which entries beyond the limits are still there.
    pub held_by: Option<TrimBlocker>,
}

/// A group, or a projection over the stream, that has yet to handle entries beyond the limits of a [`Trim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TrimBlocker {
    /// The group, or the projection; of several the one that is furthest behind.
    pub group: String,
    /// Why it holds entries.
    pub reason: TrimBlockReason,
    /// The id of its oldest unfinished entry.
    pub oldest: MessageId,
    /// How long ago that entry was published.
    #[serde(serialize_with = "in_seconds")]
    pub age: Duration,
}

/// Why a group holds entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TrimBlockReason {
    /// It has not read them.
    Unread,
    /// It has read them and not acknowledged them.
    Pending,
    /// The server has lost it; a consumer of the group makes it anew, and it goes on where it was. If there is none any
    /// more, [`retire_group`](RedisEventBus::retire_group) says so.
    Missing,
    /// It is a projection over the stream, and has not come so far; see
    /// [`EventProjection`](crate::EventProjection::retire).
    Projection,
}

/// How durations are written in statuses: as seconds.
pub(crate) fn in_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl RedisEventBus {
    /// Removes the oldest entries that are beyond the limits, as far as every consumer group is done with them.
    ///
    /// Every group of the stream counts, also one of another program that has never read, until it is
    /// [retired](Self::retire_group); only a bus's own group counts from when a consumer has joined it. A group that
    /// nobody consumes any more holds its entries for ever: it is named in [`held_by`](Trimmed::held_by). Where a relay publishes, the newest entry stays. The server is kept busy for about a millisecond at a time. Several may trim at
    /// once.
    ///
    /// # Errors
    /// [`RedisCommandError`]; what was removed until then stays so, and calling again goes on with the rest.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// use eventbus_redis::Trim;
    /// let trimmed = bus.trim(Trim { max_length: Some(100_000), ..Default::default() }).await?;
    /// if let Some(held) = trimmed.held_by {
    ///     println!("group {} is {:?} behind", held.group, held.age);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn trim(&self, limits: Trim) -> Result<Trimmed, RedisCommandError> {
        let mut all = Trimmed::default();
        for part in self.inner.partitions_or_self() {
            let part = part.trim(limits).await?;
            all.removed += part.removed;
            all.held_by = older_blocker(all.held_by, part.held_by);
        }
        Ok(all)
    }

    /// Removes the oldest entries beyond `max_length`, some dozens more may stay, **also those that groups have not
    /// read**: they are lost to them. Returns how many. [`trim`](Self::trim) loses nothing.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    pub async fn trim_may_lose(&self, max_length: u64) -> Result<u64, RedisCommandError> {
        let mut removed = 0;
        for part in self.inner.partitions_or_self() {
            let keep = part.even_share(max_length);
            removed += part.query::<u64>(&admin::trim(&part.stream, keep)).await?;
        }
        Ok(removed)
    }
}

/// Who holds the older entry.
pub(crate) fn older_blocker(one: Option<TrimBlocker>, other: Option<TrimBlocker>) -> Option<TrimBlocker> {
    one.into_iter().chain(other).max_by_key(|held_by| held_by.age)
}

/// What one run of the script did.
pub(crate) struct TrimStep {
    removed: u64,
    pub(crate) has_more: bool,
    length: u64,
    pub(crate) held_by: Option<TrimBlocker>,
}

/// The steps of a trimming.
#[derive(Default)]
pub(crate) struct TrimProgress {
    /// How many entries there were at first.
    length: Option<u64>,
    pub(crate) total: Trimmed,
}

impl TrimProgress {
    /// Adds what a step did, and says whether there is to be another one.
    pub(crate) fn add_step(&mut self, step: TrimStep) -> bool {
        self.total.removed += step.removed;
        self.total.held_by = step.held_by;
        // what is published meanwhile is for the next time
        step.has_more && self.total.removed < *self.length.get_or_insert(step.length)
    }
}

/// What removes some of the oldest entries that are beyond the limits and that nobody needs; with `is_forced` also those
/// that somebody needs.
pub(crate) fn trim_script(stream: &str, limits: Trim, is_forced: bool) -> ScriptInvocation<'static> {
    let text = |limit: Option<u128>| limit.map(|limit| limit.to_string()).unwrap_or_default();
    let mut trim = script::TRIM.prepare_invoke();
    trim.key(stream).key(keys::floors(stream)).key(keys::relay(stream)).key(keys::projections(stream));
    trim.arg(text(limits.max_length.map(u128::from))).arg(text(limits.max_age.map(|age| age.as_millis())));
    trim.arg(TRIM_BATCH_MAX).arg(u8::from(is_forced));
    trim
}

/// What the script replies.
pub(crate) type TrimReply = (u64, bool, u64, u64, String, String, String);

impl From<TrimReply> for TrimStep {
    fn from((removed, has_more, length, now, why, group, oldest): TrimReply) -> Self {
        let reason = match why.as_str() {
            "missing" => Some(TrimBlockReason::Missing),
            "unread" => Some(TrimBlockReason::Unread),
            "pending" => Some(TrimBlockReason::Pending),
            "projection" => Some(TrimBlockReason::Projection),
            _ => None,
        };
        let held_by = reason.map(|reason| {
            let published = oldest.parse::<EntryId>().map_or(now, |id| id.ms);
            let age = Duration::from_millis(now.saturating_sub(published));
            TrimBlocker { group, reason, oldest: MessageId::new(oldest), age }
        });
        Self { removed, has_more, length, held_by }
    }
}

impl BusInner {
    async fn trim(&self, limits: Trim) -> Result<Trimmed, RedisCommandError> {
        let mut steps = TrimProgress::default();
        while steps.add_step(self.trim_step(limits).await?) {}
        Ok(steps.total)
    }

    /// How many of so many entries one stream may keep.
    fn even_share(&self, length: u64) -> u64 {
        length.div_ceil(self.config.partitions.max(1).into())
    }

    /// Removes some of the oldest entries that are beyond the limits and that every group is done with.
    pub(crate) async fn trim_step(&self, limits: Trim) -> Result<TrimStep, RedisCommandError> {
        let limits = Trim { max_length: limits.max_length.map(|length| self.even_share(length)), ..limits };
        self.run::<TrimReply>(&trim_script(&self.stream, limits, false)).await.map(TrimStep::from)
    }
}
