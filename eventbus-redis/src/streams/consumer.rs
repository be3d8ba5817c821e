//! Consumes plain events in a consumer group.
//!
//! Invariant: a blocking read is never dropped, because the server may have assigned entries to it; a claim reports
//! entries that were deleted while they were pending.

use std::time::Duration;

use eventbus::port::MessageId;

use super::{RedisStreams, StreamEntry};
use crate::{
    RedisCommandError,
    blocking_read::{Deadline, GroupReader},
    command::{
        self, GroupRead,
        streams::{self, ClaimReply},
    },
    error::CommandError,
    script,
};

/// Options of [`EventConsumer::consume`] and [`StreamReader::wait`](super::StreamReader::wait).
///
/// # Examples
/// ```
/// use eventbus_redis::streams::Consume;
/// use std::time::Duration;
/// assert_eq!(Consume::default(), Consume { count: 10, block: Duration::from_millis(5_000) });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consume {
    /// The maximum number of entries, at least one. Default 10.
    pub count: usize,
    /// The time to wait if there are none; with 0 the call does not wait. Default 5,000 ms.
    pub block: Duration,
}

impl Default for Consume {
    fn default() -> Self {
        Self { count: 10, block: Duration::from_millis(5_000) }
    }
}

/// Options of [`EventConsumer::claim_pending`].
///
/// # Examples
/// ```
/// use eventbus_redis::streams::Claim;
/// use std::time::Duration;
/// assert_eq!(Claim::default(), Claim { min_idle: Duration::from_millis(60_000), count: 10 });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The minimum time since the last delivery of an entry. With 0 a consumer claims its entries from before a crash,
    /// and also all entries that are in flight at other consumers. Default 60,000 ms.
    pub min_idle: Duration,
    /// The maximum number of entries, at least one. Default 10.
    pub count: usize,
}

impl Default for Claim {
    fn default() -> Self {
        Self { min_idle: Duration::from_millis(60_000), count: 10 }
    }
}

/// Result of [`EventConsumer::claim_pending`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claimed {
    /// The entries, the oldest first.
    pub entries: Vec<StreamEntry>,
    /// Entries that were trimmed or deleted while they were pending: they cannot be handled, and are no longer pending.
    pub deleted: Vec<MessageId>,
}

/// A consumer of a group; made by [`RedisStreams::consumer`].
///
/// The consumers of a group share the entries of the stream. An entry stays pending until its consumer acknowledges it;
/// after a crash a consumer of the group [claims](Self::claim_pending) it. So an entry may be handled more than once.
///
/// # Examples
/// ```no_run
/// # use eventbus_redis::streams::{EntryError, RedisStreams, StreamEntry};
/// # async fn run(streams: RedisStreams) -> eventbus::Result<()> {
/// # async fn process(_: &StreamEntry) -> Result<(), EntryError> { Ok(()) }
/// use eventbus_redis::streams::{Claim, Consume};
/// let mut consumer = streams.consumer("events:orders", "billing-service", "billing-1").await?;
/// loop {
///     for entry in consumer.consume(Consume::default()).await? {
///         match process(&entry).await {
///             Ok(()) => drop(consumer.acknowledge([&entry.id]).await?),
///             Err(error) => eprintln!("error processing {}: {error}", entry.id), // it stays pending
///         }
///     }
///     for entry in consumer.claim_pending(Claim::default()).await?.entries {
///         println!("{} was pending on a consumer that died", entry.id);
///     }
/// }
/// # }
/// ```
#[derive(derive_more::Debug)]
pub struct EventConsumer {
    #[debug(skip)]
    streams: RedisStreams,
    key: String,
    group: String,
    consumer: String,
    #[debug(skip)]
    reader: GroupReader,
}

impl EventConsumer {
    pub(super) async fn join(
        streams: &RedisStreams,
        key: &str,
        group: &str,
        consumer: &str,
    ) -> Result<Self, RedisCommandError> {
        let (streams, reader) = (streams.clone(), GroupReader::default());
        let joined = Self { streams, key: key.into(), group: group.into(), consumer: consumer.into(), reader };
        joined.ensure_group().await?;
        Ok(joined)
    }

    /// Reads entries that the group has not delivered yet. If there are none, waits for some, and returns an empty list
    /// if none arrive.
    ///
    /// An entry of another program, or a damaged one, arrives like any entry: only the methods that read its fields
    /// [fail](super::EntryError), and it can be acknowledged.
    ///
    /// If the server has lost the group, this call creates it again: the group continues at its low-water mark if that
    /// is known, else with the oldest entry. Dropping the future, as `select!` and timeouts do, loses no entry: the
    /// next call continues the same read, even if its options differ.
    ///
    /// # Errors
    /// [`RedisCommandError`]. If a reply was lost, or a consumer was dropped or died while it waited, its entries are
    /// pending, and can be [claimed](Self::claim_pending).
    #[doc(alias = "xreadgroup")]
    pub async fn consume(&mut self, options: Consume) -> Result<Vec<StreamEntry>, RedisCommandError> {
        let until = Deadline::after(options.block);
        loop {
            let (stream, group, consumer) = (&*self.key, &*self.group, &*self.consumer);
            let reader = GroupRead { stream, group, consumer, count: options.count.clamp(1, i32::MAX as usize) };
            let block = Some(until.remaining_slice()).filter(|left| !left.is_zero());
            let (link, timeout) = (self.streams.connection(), self.streams.read_timeout());
            match self.reader.read_new(link, timeout, reader, block).await.map_err(CommandError::Sent) {
                Ok(entries) if entries.is_empty() && !until.is_past() => {}
                Ok(entries) => return Ok(entries.into_iter().map(StreamEntry::from).collect()),
                Err(error) if command::is_unblocked(&error) || command::is_group_missing(&error) => {
                    self.ensure_group().await?;
                }
                Err(error) => return Err(RedisCommandError::from_command_error(&self.key, error)),
            }
        }
    }

    /// Acknowledges entries, and returns how many of them were pending.
    ///
    /// # Errors
    /// [`RedisCommandError`]; acknowledging again is safe.
    #[doc(alias = "xack")]
    pub async fn acknowledge<'e>(
        &self,
        ids: impl IntoIterator<Item = &'e MessageId>,
    ) -> Result<u64, RedisCommandError> {
        let ids: Vec<_> = ids.into_iter().cloned().collect();
        if ids.is_empty() {
            return Ok(0);
        }
        self.streams.query_idempotent(&self.key, &command::acknowledge(&self.key, &self.group, &ids)).await
    }

    /// Claims entries of all consumers, including this one, that have been pending for long. Scans the pending entries
    /// until it has `count` of them.
    ///
    /// # Errors
    /// [`RedisCommandError`]. Entries that were already claimed are pending on this consumer.
    #[doc(alias = "xautoclaim")]
    pub async fn claim_pending(&self, options: Claim) -> Result<Claimed, RedisCommandError> {
        let (mut all, mut from, wanted) = (Claimed::default(), "0-0".to_owned(), options.count.max(1));
        while all.entries.len() < wanted {
            let count = (wanted - all.entries.len()).min(command::SCRIPT_BATCH_MAX);
            let reader = GroupRead { stream: &self.key, group: &self.group, consumer: &self.consumer, count };
            let claim = streams::claim(reader, options.min_idle, &from);
            // never sent twice: the entries that a first run claimed are no longer idle
            let claimed: Result<ClaimReply, _> = self.streams.connection().query(&claim).await;
            let (next, entries, deleted) = match claimed {
                Err(error) if command::is_group_missing(&error) => {
                    self.ensure_group().await?;
                    break;
                }
                claimed => claimed.map_err(|error| self.command_error(error))?,
            };
            all.entries.extend(entries.into_iter().map(StreamEntry::from));
            all.deleted.extend(deleted.into_iter().map(MessageId::new));
            from = next;
            if from == "0-0" {
                break;
            }
        }
        Ok(all)
    }

    /// Creates the group if it is missing, and lists it among the groups for which trimming waits.
    async fn ensure_group(&self) -> Result<(), RedisCommandError> {
        let mut create = script::group::CREATE_GROUP.key(&self.key);
        create.arg(&self.group).arg("0-0");
        let made: Result<u64, _> = self.streams.connection().run_idempotent(&create).await;
        made.map(drop).map_err(|error| self.command_error(error))
    }

    fn command_error(&self, error: CommandError) -> RedisCommandError {
        RedisCommandError::from_command_error(&self.key, error)
    }
}
