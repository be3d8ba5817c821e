//! Changing the number of partitions.
//!
//! Keep: an aggregate changes its partition only when every known group is done with everything there is, and whoever
//! publishes by the former number is refused from the same instant on.
//!
//! Real time, not the given clock: consumers in other processes.

use std::{fmt, time::Duration};

use redis::{Value, from_redis_value};
use tokio::time::sleep;

use super::OtherLayout;
use crate::{RedisCommandError, RedisEventBus, bus::Shared, config::MAX_PARTITIONS, keys, script, waiting::Until};

/// How often it is looked whether the groups are done.
const LOOK: Duration = Duration::from_millis(50);
/// How long nobody publishes after the last look: whoever looks may die.
const CLOSED: Duration = Duration::from_secs(2);

/// What the number of partitions cannot be changed before.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Unfinished {
    /// The stream of the partition.
    pub stream: String,
    /// The group that is not done with it.
    pub group: String,
    /// Entries that it has not read, where the server knows.
    pub unread: Option<u64>,
    /// Entries that it has read and not acknowledged.
    pub pending: u64,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, group, unread, pending } = self;
        match unread {
            Some(unread) => write!(f, "group `{group}` in `{stream}`: {unread} unread, {pending} pending"),
            None => write!(f, "group `{group}` in `{stream}`: some unread, {pending} pending"),
        }
    }
}

/// Why the number of partitions was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepartitionError {
    /// Groups were not done in time with what is there; nothing was changed.
    #[error("groups were not done after {timeout:?}: {}", list(.waits))]
    Unfinished {
        /// How long it was waited for them.
        timeout: Duration,
        /// What they have yet to do.
        waits: Vec<Unfinished>,
    },
    /// Another one is changing the number.
    #[error("the partitions of `{stream}` are being changed by another one")]
    Busy {
        /// The stream.
        stream: String,
    },
    /// Another one has changed the number.
    #[error(transparent)]
    OtherLayout(#[from] OtherLayout),
    /// There can be 1 to 1024 partitions.
    #[error("there can be 1 to {MAX_PARTITIONS} partitions and not {partitions}")]
    InvalidNumber {
        /// The number.
        partitions: u32,
    },
    /// The server did not do it.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

fn list(waits: &[Unfinished]) -> String {
    waits.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What came of looking.
enum Looked {
    Changed,
    Other(u32),
    Busy,
    Waits(Vec<Unfinished>),
}

impl RedisEventBus {
    /// Changes the number of partitions, as soon as every known consumer group has read and acknowledged everything.
    /// Until then the groups' consumers go on, and publishing to partitions is refused as unavailable. From then on all
    /// buses that are connected, this one too, are of no use any more: publishing says so, consumers stop reading; set
    /// `partitions` and connect again.
    ///
    /// To a stream without partitions everybody publishes on until the change, so stop its publishers first. The entries
    /// of streams that are not used any more stay there, for nobody.
    ///
    /// # Errors
    /// [`RepartitionError`]; unless it is [`RepartitionError::Command`] with an unknown outcome nothing was changed.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(bus: eventbus_redis::RedisEventBus) -> eventbus::Result<()> {
    /// bus.repartition(32, std::time::Duration::from_secs(60)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn repartition(&self, partitions: u32, timeout: Duration) -> Result<(), RepartitionError> {
        if partitions == 0 || u64::from(partitions) > MAX_PARTITIONS {
            return Err(RepartitionError::InvalidNumber { partitions });
        }
        let shared = &self.shared;
        if partitions == shared.config.partitions {
            return Ok(());
        }
        let deadline = Until::after(timeout);
        loop {
            let looked = shared.change(partitions, CLOSED).await;
            let is_late = deadline.is_over();
            match looked {
                Ok(Looked::Changed) => return Ok(()),
                // an earlier reply may have been lost
                Ok(Looked::Other(recorded)) if recorded == partitions => return Ok(()),
                Ok(Looked::Other(recorded)) => return Err(shared.other_layout(recorded).into()),
                Ok(Looked::Busy) => return Err(RepartitionError::Busy { stream: shared.home.clone() }),
                Ok(Looked::Waits(waits)) if is_late => {
                    // else publishing is possible again a little later
                    drop(shared.change(partitions, Duration::ZERO).await);
                    return Err(RepartitionError::Unfinished { timeout, waits });
                }
                Err(error) if is_late || !error.is_retryable() => return Err(error.into()),
                Ok(Looked::Waits(_)) | Err(_) => sleep(LOOK).await,
            }
        }
    }
}

impl Shared {
    async fn change(&self, partitions: u32, closed: Duration) -> Result<Looked, RedisCommandError> {
        let there_is = self.parts().into_iter().map(|part| part.stream.clone());
        let is_to_be = (0..partitions).map(|number| match partitions {
            1 => self.home.clone(),
            _ => keys::partition(&self.home, number),
        });
        let mut change = script::REPARTITION.prepare_invoke();
        change.key(keys::layout(&self.home)).key(&self.home);
        for stream in there_is.chain(is_to_be) {
            change.key(&stream).key(keys::floors(&stream)).key(keys::relay(&stream));
        }
        let closed_ms = u64::try_from(closed.as_millis()).unwrap_or(u64::MAX);
        change.arg(self.generation()).arg(self.config.partitions).arg(partitions).arg(&self.instance).arg(closed_ms);
        let reply: Vec<Value> = self.run(&change).await?;
        self.looked(reply).map_err(|error| self.not_done(error.into()))
    }

    fn looked(&self, reply: Vec<Value>) -> Result<Looked, redis::RedisError> {
        let mut reply = reply.into_iter();
        let what: String = from_redis_value(reply.next().unwrap_or(Value::Nil))?;
        let rest = reply.next().unwrap_or(Value::Nil);
        Ok(match what.as_str() {
            "changed" => Looked::Changed,
            "other" => Looked::Other(from_redis_value(rest)?),
            "busy" => Looked::Busy,
            "waits" => {
                let waits: Vec<(usize, String, i64, u64)> = from_redis_value(rest)?;
                let parts = self.parts();
                let wait = |(number, group, unread, pending): (usize, String, i64, u64)| {
                    let stream = parts.get(number).map_or_else(|| self.home.clone(), |part| part.stream.clone());
                    Unfinished { stream, group, unread: u64::try_from(unread).ok(), pending }
                };
                Looked::Waits(waits.into_iter().map(wait).collect())
            }
            _ => Looked::Waits(Vec::new()),
        })
    }
}
