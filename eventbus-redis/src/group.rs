//! Creating and retiring consumer groups on request.
//!
//! | state of a group | event | next state |
//! |---|---|---|
//! | absent | a bus connects | unjoined: does not count |
//! | absent, unjoined | a consumer joins, or an operator creates it | listed: trimming keeps its unfinished entries |
//! | listed | the server loses the group | missing: trimming stops |
//! | missing | a consumer, an operator or a resync creates it | listed, at its low-water mark |
//! | listed, missing | an operator retires it | absent |

use eventbus::{Name, Position, port::MessageId};
use redis::ScriptInvocation;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{RedisCommandError, RedisEventBus, bus::BusInner, entry_id::EntryId, keys, script};

/// Entries that one script searches for a position.
const POSITION_SEARCH_PAGE: usize = 500;

/// Start of a consumer group.
///
/// A group that its first consumer creates begins with the oldest entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupStart {
    /// The oldest entry of the stream.
    Beginning,
    /// The next entry that is published.
    Now,
    /// The first entry after this one.
    After(MessageId),
    /// The first entry published at this time or later, by the server's clock, to the millisecond.
    AtTime(OffsetDateTime),
    /// The first entry whose event has a higher position in its store; if there is none, the next entry that is
    /// published. The group passes over entries without a position, of other publishers, until then.
    Position(Position),
}

/// Unfinished entries of a retired group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RetiredGroup {
    /// Entries it had read and not acknowledged.
    pub pending: u64,
    /// Entries it had not read.
    pub unread: u64,
}

/// Reasons why a group was not created or retired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// There is no such group.
    #[error("stream `{stream}` has no consumer group `{group}`")]
    NotFound {
        /// The stream.
        stream: String,
        /// The group.
        group: Name,
    },
    /// Live consumers of the group would create it again. Stop them first.
    #[error("consumer group `{group}` of `{stream}` is in use, live consumers: {consumers}")]
    InUse {
        /// The stream.
        stream: String,
        /// The group.
        group: Name,
        /// Number of live consumers.
        consumers: u64,
    },
    /// The start is not the id of an entry.
    #[error("`{id}` is no id of an entry of `{stream}`")]
    InvalidStart {
        /// The stream.
        stream: String,
        /// The id.
        id: MessageId,
    },
    /// The command to the server failed.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

/// Reasons why a store was not retired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetireStoreError {
    /// A process with the store has filled backlogs within the last 30 s. Stop it first.
    #[error("store {store} is in use: a process with it brings events to `{stream}`")]
    InUse {
        /// The stream.
        stream: String,
        /// The store.
        store: Uuid,
    },
    /// The command to the server failed.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

impl RedisEventBus {
    /// Creates a consumer group that begins at `start`, and returns `true` if it did: an existing group continues where
    /// it is. From then on [`trim`](Self::trim) keeps the entries that the group has yet to handle.
    ///
    /// A known group that the server has lost continues where it was, regardless of `start`; to begin elsewhere,
    /// [retire](Self::retire_group) it first.
    ///
    /// # Errors
    /// [`GroupError::InvalidStart`], or [`GroupError::Command`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// use eventbus::Name;
    /// use eventbus_redis::GroupStart;
    /// // a new service that is not interested in what was before
    /// bus.create_group(&Name::new("group", "newsletter")?, GroupStart::Now).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_group(&self, group: &Name, start: GroupStart) -> Result<bool, GroupError> {
        let bus = &self.inner;
        let start = match start {
            GroupStart::Beginning => EntryId::ZERO.to_string(),
            GroupStart::Now => "$".into(),
            GroupStart::After(id) => bus.parse_entry_id(id)?.to_string(),
            GroupStart::AtTime(at) => id_before_time(at).to_string(),
            GroupStart::Position(position) => return self.create_group_at(group, position).await,
        };
        let mut is_new = false;
        for part in bus.partitions_or_self() {
            is_new |= part.create_group(group, &start).await?;
        }
        Ok(is_new)
    }

    async fn create_group_at(&self, group: &Name, position: Position) -> Result<bool, GroupError> {
        let mut is_new = false;
        for part in self.inner.partitions_or_self() {
            let start = part.id_before_position(position).await?;
            is_new |= part.create_group(group, &start).await?;
        }
        Ok(is_new)
    }

    /// Forgets that a group ever announced an event type, in all its versions, and returns `true` if it had. For
    /// operators, when the group's last handler of that type was removed for good; `"*"` if that was a handler of all
    /// types. Running consumers then skip entries that were pending for a member with such a handler, in a partition at
    /// the owner's next heartbeat. A consumer that handles the type announces it again.
    ///
    /// # Errors
    /// [`RedisCommandError`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// bus.forget_event_type(bus.default_group(), "OrderArchived").await?;
    /// # Ok(())
    /// # }
    /// # use eventbus::port::EventBus;
    /// ```
    pub async fn forget_event_type(&self, group: &Name, event_type: &str) -> Result<bool, RedisCommandError> {
        let mut was_known = false;
        let backlog = keys::backlog(&self.inner.base_stream, group);
        for part in self.inner.partitions_or_self() {
            was_known |= self.inner.forget_event_type(group, event_type, &part.stream).await?;
        }
        was_known |= self.inner.forget_event_type(group, event_type, &backlog).await?;
        Ok(was_known)
    }

    /// Removes a consumer group for good, with all its records, so that it no longer blocks [trimming](Self::trim).
    /// Returns the numbers of its unfinished entries. A consumer that joins a group of that name later begins with the
    /// oldest entry.
    ///
    /// # Errors
    /// [`GroupError::NotFound`]; [`GroupError::InUse`] while the group has live consumers; [`GroupError::Command`].
    pub async fn retire_group(&self, group: &Name) -> Result<RetiredGroup, GroupError> {
        let mut all = None;
        for part in self.inner.partitions_or_self() {
            match part.retire_group(group).await {
                Ok(part) => {
                    let all = all.get_or_insert(RetiredGroup { pending: 0, unread: 0 });
                    all.pending += part.pending;
                    all.unread += part.unread;
                }
                Err(GroupError::NotFound { .. }) => {} // an earlier call may have ended half way
                Err(error) => return Err(error),
            }
        }
        all.ok_or_else(|| GroupError::NotFound { stream: self.inner.stream.clone(), group: group.clone() })
    }

    /// Forgets a store that is gone for good and published here, and returns `true` if it was known: new groups no
    /// longer wait for its events. Its events in the stream stay there. If a process with the store starts after all,
    /// its relay publishes again the events that groups had not finished.
    ///
    /// # Errors
    /// [`RetireStoreError`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: &eventbus_redis::RedisEventBus, old: uuid::Uuid) -> eventbus::Result<()> {
    /// bus.retire_store(old).await?; // the id is in the log line of a group that waits for it
    /// # Ok(())
    /// # }
    /// ```
    pub async fn retire_store(&self, store: Uuid) -> Result<bool, RetireStoreError> {
        let mut was_known = false;
        for part in self.inner.partitions_or_self() {
            let mut retire = script::RETIRE_STORE.key(keys::relay(&part.stream));
            retire.key(keys::fills(&part.stream)).arg(store.to_string());
            let outcome: String = self.inner.run_idempotent(&retire).await?;
            if outcome == "live" {
                return Err(RetireStoreError::InUse { stream: part.stream.clone(), store });
            }
            was_known |= outcome == "known";
        }
        let mut forget = redis::cmd("HDEL");
        forget.arg(keys::dead_letter_copies(&self.inner.config.dlq_stream_name())).arg(store.to_string());
        was_known |= self.inner.query::<u64>(&forget).await? > 0;
        Ok(was_known)
    }
}

/// Creator of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupCreation {
    /// A bus that connects: the group does not count until a consumer joins it.
    Unjoined = 0,
    /// An operator, who chooses the start.
    Listed = 1,
    /// A consumer, which needs all events of the stores.
    WithBacklog = 2,
}

impl BusInner {
    /// Prepares creating a group for its consumers, listed in the floors: with the oldest event, or with the next one
    /// if all its handlers request that.
    pub(crate) fn create_joined_group_script(&self, group: &Name) -> ScriptInvocation<'static> {
        match self.is_backlog() {
            true => self.create_group_script(group, "0-0", GroupCreation::Listed),
            false if self.subscribers.start_now(group) => {
                self.create_group_script(group, "$", GroupCreation::WithBacklog)
            }
            false => self.create_group_script(group, "0-0", GroupCreation::WithBacklog),
        }
    }

    /// Prepares creating a group unless it exists.
    pub(crate) fn create_group_script(
        &self,
        group: &Name,
        start: &str,
        joining: GroupCreation,
    ) -> ScriptInvocation<'static> {
        let mut create = script::CREATE_GROUP.key(&self.stream);
        create.key(keys::floors(&self.stream)).key(keys::relay(&self.stream));
        create.arg(group.as_str()).arg(start).arg(joining as u8);
        create
    }

    async fn create_group(&self, group: &Name, start: &str) -> Result<bool, RedisCommandError> {
        self.run(&self.create_group_script(group, start, GroupCreation::Listed)).await
    }

    async fn retire_group(&self, group: &Name) -> Result<RetiredGroup, GroupError> {
        let (stream, prefix) = (&self.stream, &self.config.retry_key_prefix);
        let mut retire = script::RETIRE_GROUP.prepare_invoke();
        retire.key(stream).key(keys::floors(stream));
        retire.key(keys::retry(stream, prefix, group)).key(keys::members(&self.base_stream, group));
        retire.key(keys::lease(stream, group));
        retire.key(keys::known_types(&self.base_stream, group)).key(keys::skipped(stream, group));
        let backlog = keys::backlog(&self.base_stream, group);
        retire.key(&backlog).key(keys::members(&backlog, group)).key(keys::retry(&backlog, prefix, group));
        retire.key(keys::floors(&backlog)).key(keys::lease(&backlog, group)).key(keys::relay(&backlog));
        retire.key(keys::retried(&backlog));
        retire.arg(group.as_str());
        let (outcome, count, last, unread): (String, u64, String, i64) = self.run(&retire).await?;
        let (stream, group) = (stream.clone(), group.clone());
        match outcome.as_str() {
            "retired" => {}
            "live" => return Err(GroupError::InUse { stream: self.base_stream.clone(), group, consumers: count }),
            _ => return Err(GroupError::NotFound { stream, group }),
        }
        let unread = match u64::try_from(unread) {
            Ok(unread) => unread,
            // the server does not know the number
            Err(_) => self.count_after(&last).await.map_err(|error| self.command_error(error))?,
        };
        Ok(RetiredGroup { pending: count, unread })
    }

    async fn forget_event_type(&self, group: &Name, event_type: &str, stream: &str) -> Result<bool, RedisCommandError> {
        let mut forget = script::FORGET_TYPE.prepare_invoke();
        forget.key(keys::known_types(&self.base_stream, group)).key(stream).arg(group.as_str()).arg(event_type);
        self.run(&forget).await
    }

    fn parse_entry_id(&self, id: MessageId) -> Result<EntryId, GroupError> {
        let parsed = id.as_str().parse();
        parsed.map_err(|_| GroupError::InvalidStart { stream: self.stream.clone(), id })
    }

    /// Returns the id before the first entry with a higher position, or the end of the stream.
    async fn id_before_position(&self, position: Position) -> Result<String, RedisCommandError> {
        let mut after = EntryId::ZERO.to_string();
        loop {
            let mut find = script::FIND_POSITION.prepare_invoke();
            find.key(&self.stream).arg(after).arg(position.get()).arg(POSITION_SEARCH_PAGE);
            let (goes_on, id): (bool, String) = self.run(&find).await?;
            if !goes_on {
                return Ok(id);
            }
            after = id;
        }
    }
}

/// Returns the highest id of an entry before a time.
fn id_before_time(at: OffsetDateTime) -> EntryId {
    let ms = at.unix_timestamp_nanos().div_euclid(1_000_000);
    // an entry is as old as its millisecond: one of the millisecond that has begun counts as later
    EntryId { ms: u64::try_from(ms).unwrap_or_default(), number: 0 }.previous()
}
