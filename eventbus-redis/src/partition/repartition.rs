//! Changing the number of partitions.
//!
//! Invariant: an aggregate changes its partition only after every known group has finished all entries, and from that
//! instant on the server refuses publishers with the previous number.
//!
//! Real time, not the given clock: consumers in other processes.

use std::time::Duration;

use redis::{Value, from_redis_value};
use tokio::time::sleep;

use crate::{
    RedisCommandError, blocking_read::Deadline, config::MAX_PARTITIONS, error::PartitionCountMismatch, inner::BusInner,
    keys, script,
};

/// Interval between two checks whether the groups have finished.
const REPARTITION_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time after a check in which no bus may publish; the pause ends by itself, because the process that checks may die.
const REPARTITION_PUBLISH_PAUSE: Duration = Duration::from_secs(2);

/// Unfinished entries of a group that prevent changing the number of partitions.
#[derive(Debug, derive_more::Display, Clone, PartialEq, Eq, serde::Serialize)]
#[display(
    "group `{group}` in `{stream}`: {} unread, {pending} pending",
    unread.map_or_else(|| "some".into(), |unread| unread.to_string())
)]
#[non_exhaustive]
pub struct UnfinishedGroup {
    /// The stream of the partition.
    pub stream: String,
    /// The group with unfinished entries.
    pub group: String,
    /// Entries that it has not read; `None` if the server does not know.
    pub unread: Option<u64>,
    /// Entries that it has read and not acknowledged.
    pub pending: u64,
}

/// Reasons why the number of partitions was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepartitionError {
    /// Groups did not finish in time; the number is unchanged.
    #[error("groups have unfinished entries after {timeout:?}: {}", list(.waits))]
    Unfinished {
        /// The time for which the call waited.
        timeout: Duration,
        /// The groups that have yet to finish, with their entries.
        waits: Vec<UnfinishedGroup>,
    },
    /// A different process is changing the number.
    #[error("a different process is changing the partitions of `{stream}`")]
    Busy {
        /// The stream.
        stream: String,
    },
    /// A different process has changed the number.
    #[error(transparent)]
    PartitionCountMismatch(#[from] PartitionCountMismatch),
    /// There can be 1 to 1024 partitions.
    #[error("there can be 1 to {MAX_PARTITIONS} partitions and not {partitions}")]
    InvalidNumber {
        /// The number.
        partitions: u32,
    },
    /// The command to the server failed.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

fn list(waits: &[UnfinishedGroup]) -> String {
    waits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Reply of one attempt.
///
/// | state of the layout | event | next state |
/// |---|---|---|
/// | open | an attempt finds unfinished groups | closed to publishers for [`REPARTITION_PUBLISH_PAUSE`] |
/// | closed | a further attempt of the same bus finds unfinished groups | closed for that time again |
/// | closed | the time passes, or the bus gives up | open |
/// | open, closed | an attempt finds that every group has finished | open, in a new generation |
enum RepartitionReply {
    Changed,
    AlreadyChanged(u32),
    Busy,
    GroupsUnfinished(Vec<UnfinishedGroup>),
}

/// Changes the number of partitions as soon as every group has finished all entries, unless `timeout` passes before.
pub(crate) async fn repartition(bus: &BusInner, partitions: u32, timeout: Duration) -> Result<(), RepartitionError> {
    if partitions == 0 || u64::from(partitions) > MAX_PARTITIONS {
        return Err(RepartitionError::InvalidNumber { partitions });
    }
    if partitions == bus.config().partitions {
        return Ok(());
    }
    let deadline = Deadline::after(timeout);
    loop {
        let attempt = try_repartition(bus, partitions, REPARTITION_PUBLISH_PAUSE).await;
        let is_late = deadline.is_past();
        match attempt {
            Ok(RepartitionReply::Changed) => return Ok(()),
            // the reply to an earlier attempt may have been lost
            Ok(RepartitionReply::AlreadyChanged(recorded)) if recorded == partitions => return Ok(()),
            Ok(RepartitionReply::AlreadyChanged(recorded)) => {
                return Err(bus.partition_count_mismatch(recorded).into());
            }
            Ok(RepartitionReply::Busy) => return Err(RepartitionError::Busy { stream: bus.base_stream().to_owned() }),
            Ok(RepartitionReply::GroupsUnfinished(waits)) if is_late => {
                // ends the pause in which no bus may publish
                drop(try_repartition(bus, partitions, Duration::ZERO).await);
                return Err(RepartitionError::Unfinished { timeout, waits });
            }
            Err(error) if is_late || !error.is_retryable() => return Err(error.into()),
            Ok(RepartitionReply::GroupsUnfinished(_)) | Err(_) => sleep(REPARTITION_POLL_INTERVAL).await,
        }
    }
}

async fn try_repartition(
    bus: &BusInner,
    partitions: u32,
    publish_pause: Duration,
) -> Result<RepartitionReply, RedisCommandError> {
    let there_is = bus.partitions_or_self().into_iter().map(|part| part.stream().to_owned());
    let is_to_be = (0..partitions).map(|number| match partitions {
        1 => bus.base_stream().to_owned(),
        _ => keys::partition(bus.base_stream(), number),
    });
    let mut change = script::partition::REPARTITION.prepare_invoke();
    change.key(keys::layout(bus.base_stream())).key(bus.base_stream());
    for stream in there_is.chain(is_to_be) {
        change.key(&stream).key(keys::floors(&stream)).key(keys::relay(&stream));
    }
    let closed_ms = u64::try_from(publish_pause.as_millis()).unwrap_or(u64::MAX);
    change.arg((bus.layout().generation(), bus.config().partitions, partitions, bus.instance(), closed_ms));
    let reply: Vec<Value> = bus.run(&change).await?;
    parse_repartition_reply(bus, reply).map_err(|error| bus.command_error(error.into()))
}

fn parse_repartition_reply(bus: &BusInner, reply: Vec<Value>) -> Result<RepartitionReply, redis::RedisError> {
    let mut reply = reply.into_iter();
    let outcome: String = from_redis_value(reply.next().unwrap_or(Value::Nil))?;
    let rest = reply.next().unwrap_or(Value::Nil);
    Ok(match outcome.as_str() {
        "changed" => RepartitionReply::Changed,
        "other" => RepartitionReply::AlreadyChanged(from_redis_value(rest)?),
        "busy" => RepartitionReply::Busy,
        "waits" => {
            let waits: Vec<(usize, String, i64, u64)> = from_redis_value(rest)?;
            let parts = bus.partitions_or_self();
            let wait = |(number, group, unread, pending): (usize, String, i64, u64)| {
                let stream =
                    parts.get(number).map_or_else(|| bus.base_stream().to_owned(), |part| part.stream().to_owned());
                UnfinishedGroup { stream, group, unread: u64::try_from(unread).ok(), pending }
            };
            RepartitionReply::GroupsUnfinished(waits.into_iter().map(wait).collect())
        }
        _ => RepartitionReply::GroupsUnfinished(Vec::new()),
    })
}
