//! Trimming of the stream.
//!
//! Invariant: trimming never removes an entry that a known group has yet to read or acknowledge; one script decides and
//! removes.

use std::time::Duration;

use eventbus::port::MessageId;
use redis::ScriptInvocation;
use serde::{Serialize, Serializer};

use crate::{
    RedisCommandError,
    command::{admin, streams},
    entry_id::EntryId,
    inner::BusInner,
    keys,
    script::{self, PASSED_BYTES_MAX},
};

/// The number of entries that one script call removes: the server runs no other command meanwhile (about a
/// millisecond; longer for large entries, up to [`PASSED_BYTES_MAX`]).
const TRIM_BATCH_MAX: u64 = 200;

/// The limits of the stream: trimming may remove entries beyond either one. Without limits it removes none.
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
    /// The number of entries that may stay; 0 removes all that every group has finished.
    pub max_length: Option<u64>,
    /// The maximum age of an entry, by the server's clock, to the millisecond.
    pub max_age: Option<Duration>,
}

/// The result of trimming.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trimmed {
    /// The number of removed entries.
    pub removed: u64,
    /// The group, or the projection, that holds entries beyond the limits.
    pub held_by: Option<TrimBlocker>,
}

/// A group, or a projection over the stream, that has yet to handle entries beyond the limits of a [`Trim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TrimBlocker {
    /// The group, or the projection, that is furthest behind.
    pub group: String,
    /// The reason why it holds entries.
    pub reason: TrimBlockReason,
    /// The id of its oldest unfinished entry.
    pub oldest: MessageId,
    /// The time since that entry was published.
    #[serde(serialize_with = "in_seconds")]
    pub age: Duration,
}

/// The reason why a group holds entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TrimBlockReason {
    /// The group has not read them.
    Unread,
    /// The group has read them and not acknowledged them.
    Pending,
    /// A projection over the stream has not processed them; see
    /// [`EventProjection`](crate::streams::EventProjection::retire).
    Projection,
}

/// Serializes a duration as seconds, as in all statuses.
pub(crate) fn in_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Removes the oldest entries that are beyond the limits and that every group has finished.
pub(crate) async fn trim(bus: &BusInner, limits: Trim) -> Result<Trimmed, RedisCommandError> {
    let (trim, mut steps) = (trim_script(bus.stream(), limits, false), TrimProgress::default());
    while steps.add_step(bus.run::<TrimReply>(&trim).await?.into()) {}
    Ok(steps.total)
}

/// Removes the oldest entries beyond `max_length`; returns their number.
pub(crate) async fn trim_may_lose(bus: &BusInner, max_length: u64) -> Result<u64, RedisCommandError> {
    let length: u64 = bus.query_idempotent(&streams::length(bus.stream())).await?;
    // entries published meanwhile are left to the next trim
    let (mut removed, mut beyond) = (0, length.saturating_sub(max_length));
    while beyond > 0 {
        // a call removes at most some thousand entries, and none once the rest is a part of one of the server's blocks
        let step: u64 = bus.query_idempotent(&admin::trim(bus.stream(), max_length)).await?;
        if step == 0 {
            break;
        }
        removed += step;
        beyond = beyond.saturating_sub(step);
    }
    Ok(removed)
}

/// The result of one script call.
pub(crate) struct TrimStep {
    removed: u64,
    pub(crate) has_more: bool,
    length: u64,
    pub(crate) held_by: Option<TrimBlocker>,
}

/// The progress of a trim over several script calls.
#[derive(Default)]
pub(crate) struct TrimProgress {
    /// The length of the stream at the first call.
    length: Option<u64>,
    pub(crate) total: Trimmed,
}

impl TrimProgress {
    /// Adds the result of a call; returns `true` if a further one is to follow.
    pub(crate) fn add_step(&mut self, step: TrimStep) -> bool {
        self.total.removed += step.removed;
        self.total.held_by = step.held_by;
        // entries published meanwhile are left to the next trim
        step.has_more && self.total.removed < *self.length.get_or_insert(step.length)
    }
}

/// Builds the script that removes some of the oldest entries beyond the limits that no group needs; with `is_forced`
/// also those that groups need.
pub(crate) fn trim_script(stream: &str, limits: Trim, is_forced: bool) -> ScriptInvocation<'static> {
    let text = |limit: Option<u128>| limit.map(|limit| limit.to_string()).unwrap_or_default();
    let mut trim = script::group::TRIM.prepare_invoke();
    trim.key(stream).key(keys::projections(stream));
    trim.arg(text(limits.max_length.map(u128::from))).arg(text(limits.max_age.map(|age| age.as_millis())));
    trim.arg(TRIM_BATCH_MAX).arg(PASSED_BYTES_MAX).arg(u8::from(is_forced));
    trim
}

/// The reply of the script.
pub(crate) type TrimReply = (u64, bool, u64, u64, String, String, String);

impl From<TrimReply> for TrimStep {
    fn from((removed, has_more, length, now, why, group, oldest): TrimReply) -> Self {
        let reason = match why.as_str() {
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

/// Finds the reader that is furthest behind and has entries to finish.
pub(crate) async fn find_blocker(bus: &BusInner) -> Result<Option<TrimBlocker>, RedisCommandError> {
    let mut find = script::group::TRIM_BLOCKER.prepare_invoke();
    find.key(bus.stream()).key(keys::projections(bus.stream()));
    Ok(TrimStep::from(bus.run_idempotent::<TrimReply>(&find).await?).held_by)
}
