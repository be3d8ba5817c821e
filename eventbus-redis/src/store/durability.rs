//! How the server keeps its data, and what may be lost.

use std::{
    collections::HashMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use eventbus::{Position, port::ReadError};
use redis::{RedisResult, Value};
use serde::Serialize;

use super::RedisEventStore;
use crate::{command, connection::boxed};

/// What [`RedisEventStore::durability`] has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Durability {
    /// What may be lost, and when; nothing of it if there are none.
    pub warnings: Vec<DurabilityWarning>,
}

/// A way in which acknowledged events may be lost; its text says when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DurabilityWarning {
    /// Events that this process was told are stored are not there any more: the server was restored from an older copy,
    /// or crashed before it had written them. Their positions are given to others.
    Lost {
        /// The highest position that was told.
        told: Position,
        /// Where the store ended afterwards.
        found: Position,
    },
    /// There is no append-only file: what came after the last snapshot is lost in a crash.
    NoAppendOnlyFile,
    /// The append-only file cannot be written at the moment.
    AppendOnlyFileFails,
    /// It is synced once a second: a crash of the machine, or a kill at the wrong moment, loses the last of them.
    SyncedEverySecond,
    /// It is synced when the operating system likes.
    SyncedByTheSystem,
    /// It is not synced while it is rewritten.
    NotSyncedInRewrites,
    /// A server whose memory is full removes keys of its own choice: events, also old ones.
    Evicts {
        /// The policy.
        policy: String,
    },
    /// Nobody has a copy: with the disk everything is lost.
    NoReplica,
    /// A write is acknowledged before any replica has it: a failover loses the last ones.
    AcknowledgedAlone,
    /// The server does not say, as managed ones do not.
    NotChecked {
        /// The setting.
        setting: &'static str,
    },
}

impl DurabilityWarning {
    /// The command that mends it, if one does.
    #[must_use]
    pub const fn repair(&self) -> Option<&'static str> {
        match self {
            Self::NoAppendOnlyFile => Some("CONFIG SET appendonly yes"),
            Self::SyncedEverySecond | Self::SyncedByTheSystem => Some("CONFIG SET appendfsync always"),
            Self::NotSyncedInRewrites => Some("CONFIG SET no-appendfsync-on-rewrite no"),
            Self::Evicts { .. } => Some("CONFIG SET maxmemory-policy noeviction"),
            Self::AcknowledgedAlone => Some("CONFIG SET min-replicas-to-write 1"),
            Self::Lost { .. } | Self::AppendOnlyFileFails | Self::NoReplica | Self::NotChecked { .. } => None,
        }
    }
}

impl fmt::Display for DurabilityWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { told, found } => write!(
                f,
                "the server lost acknowledged events: the store ended at {found} after {told} was told, and positions \
                 between are given again; what was read outside of this Redis is to be compared with it"
            ),
            Self::NoAppendOnlyFile => f.write_str(
                "there is no append-only file: a crash loses every event since the last snapshot, acknowledged or not",
            ),
            Self::AppendOnlyFileFails => {
                f.write_str("the append-only file cannot be written: a crash loses every event since then")
            }
            Self::SyncedEverySecond => {
                f.write_str("`appendfsync everysec`: a crash of the machine loses about a second of acknowledged events")
            }
            Self::SyncedByTheSystem => {
                f.write_str("`appendfsync no`: a crash of the machine loses what the system has not written, mostly 30 s")
            }
            Self::NotSyncedInRewrites => f.write_str(
                "`no-appendfsync-on-rewrite yes`: a crash of the machine while the file is rewritten loses what came since",
            ),
            Self::Evicts { policy } => {
                write!(f, "`maxmemory-policy {policy}`: when memory is full the server removes events, also old ones")
            }
            Self::NoReplica => f.write_str("there is no replica: losing the disk loses all events"),
            Self::AcknowledgedAlone => f.write_str(
                "`min-replicas-to-write 0`: a failover loses acknowledged events that no replica had received",
            ),
            Self::NotChecked { setting } => {
                write!(f, "`{setting}` could not be checked: the server does not say; ask who runs it")
            }
        }
    }
}

impl RedisEventStore {
    /// Asks the server how it keeps its data, and says what may be lost, and when. Connecting does it too, and writes
    /// each warning to the log, unless [`check_durability`](crate::RedisEventStoreConfig::check_durability) is off.
    ///
    /// No warnings are no proof: replication is asynchronous, and a failover may still lose what was acknowledged last.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the server cannot be asked.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(store: eventbus_redis::RedisEventStore) -> eventbus::Result<()> {
    /// for warning in store.durability().await?.warnings {
    ///     println!("{warning}; {}", warning.repair().unwrap_or("no command mends it"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn durability(&self) -> Result<Durability, ReadError> {
        let mut ask = redis::pipe();
        ask.cmd("INFO");
        for setting in ["appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write"] {
            ask.cmd("CONFIG").arg("GET").arg(setting);
        }
        ask.ignore_errors();
        let replies: Vec<RedisResult<Value>> =
            self.connection().query_all(&ask).await.map_err(|error| ReadError::Unavailable(boxed(error)))?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let info: Option<String> = next().and_then(command::parse_value).ok();
        let mut setting = || -> Option<String> {
            let found: HashMap<String, String> = next().and_then(command::parse_value).ok()?;
            found.into_values().next()
        };
        let (fsync, lazy, replicas) = (setting(), setting(), setting());
        let mut warnings: Vec<_> = self.acknowledged().loss().into_iter().collect();
        warnings.extend(find_warnings(info.as_deref(), fsync.as_deref(), lazy.as_deref(), replicas.as_deref()));
        Ok(Durability { warnings })
    }

    /// Writes the warnings to the log.
    pub(super) async fn log_durability_warnings(&self) {
        let address = self.config().server().address();
        match self.durability().await {
            Ok(Durability { warnings }) => {
                for warning in warnings {
                    let repair = warning.repair().unwrap_or("none");
                    tracing::warn!(%address, repair, "event store: {warning}");
                }
            }
            Err(error) => tracing::debug!(%address, %error, "durability of the event store could not be checked"),
        }
    }
}

/// What the answers of the server mean.
fn find_warnings(
    info: Option<&str>,
    fsync: Option<&str>,
    lazy: Option<&str>,
    replicas: Option<&str>,
) -> Vec<DurabilityWarning> {
    use DurabilityWarning as Warning;
    let told = |name: &str| {
        info?.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    let mut found = Vec::new();
    let not_checked = |setting| Warning::NotChecked { setting };
    match told("aof_enabled").as_deref() {
        None => found.push(not_checked("appendonly")),
        Some("0") => found.push(Warning::NoAppendOnlyFile),
        Some(_) => {
            if told("aof_last_write_status").is_some_and(|status| status != "ok") {
                found.push(Warning::AppendOnlyFileFails);
            }
            match fsync {
                Some("always") => {}
                Some("everysec") => found.push(Warning::SyncedEverySecond),
                Some(_) => found.push(Warning::SyncedByTheSystem),
                None => found.push(not_checked("appendfsync")),
            }
            if lazy == Some("yes") {
                found.push(Warning::NotSyncedInRewrites);
            }
        }
    }
    match told("maxmemory_policy") {
        None => found.push(not_checked("maxmemory-policy")),
        Some(policy) if policy.starts_with("allkeys") => found.push(Warning::Evicts { policy }),
        Some(_) => {}
    }
    match (told("connected_slaves").as_deref(), replicas) {
        (None, _) => found.push(not_checked("replicas")),
        (Some("0"), _) => found.push(Warning::NoReplica),
        (Some(_), Some("0")) => found.push(Warning::AcknowledgedAlone),
        (Some(_), None) => found.push(not_checked("min-replicas-to-write")),
        _ => {}
    }
    found
}

/// The highest position that this process was told is stored, by which a loss is noticed.
///
/// Keep: what is compared was told before the server was asked. Answers may overtake each other.
#[derive(Debug, Default)]
pub(super) struct AcknowledgedPosition {
    position: AtomicU64,
    lost_from: AtomicU64,
    lost_to: AtomicU64,
}

impl AcknowledgedPosition {
    pub(super) fn position(&self) -> Position {
        Position::new(self.position.load(Ordering::Acquire))
    }

    /// Notes that events are stored up to here.
    pub(super) fn raise_to(&self, position: Position) {
        self.position.fetch_max(position.get(), Ordering::AcqRel);
    }

    /// The store ends at `found`, which was asked for after `told` was known. Returns `true` if it has lost events.
    pub(super) fn check_head(&self, acknowledged: Position, found: Position) -> bool {
        if found >= acknowledged {
            self.raise_to(found);
            return false;
        }
        let (told, found) = (acknowledged.get(), found.get());
        // one of those who notice says so
        if self.position.compare_exchange(told, found, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.lost_from.store(told, Ordering::Release);
            self.lost_to.store(found, Ordering::Release);
            if let Some(lost) = self.loss() {
                tracing::error!("event store: {lost}");
            }
        }
        true
    }

    fn loss(&self) -> Option<DurabilityWarning> {
        let told = self.lost_from.load(Ordering::Acquire);
        let found = Position::new(self.lost_to.load(Ordering::Acquire));
        (told > 0).then(|| DurabilityWarning::Lost { told: Position::new(told), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_its_warning() {
        use DurabilityWarning as Warning;
        let info = |aof, policy, replicas| {
            format!(
                "aof_enabled:{aof}\r\naof_last_write_status:ok\r\nmaxmemory_policy:{policy}\r\nconnected_slaves:{replicas}\r\n"
            )
        };
        let sound = info(1, "noeviction", 1);
        assert_eq!(find_warnings(Some(&sound), Some("always"), Some("no"), Some("1")), []);
        assert_eq!(find_warnings(Some(&sound), Some("everysec"), Some("no"), Some("1")), [Warning::SyncedEverySecond]);
        assert_eq!(find_warnings(Some(&sound), Some("no"), Some("no"), Some("1")), [Warning::SyncedByTheSystem]);
        assert_eq!(find_warnings(Some(&sound), Some("always"), Some("yes"), Some("1")), [Warning::NotSyncedInRewrites]);
        assert_eq!(find_warnings(Some(&sound), Some("always"), Some("no"), Some("0")), [Warning::AcknowledgedAlone]);
        let none =
            [Warning::NotChecked { setting: "appendfsync" }, Warning::NotChecked { setting: "min-replicas-to-write" }];
        assert_eq!(find_warnings(Some(&sound), None, None, None), none);
        let careless = info(0, "allkeys-lru", 0);
        let all = [Warning::NoAppendOnlyFile, Warning::Evicts { policy: "allkeys-lru".into() }, Warning::NoReplica];
        assert_eq!(find_warnings(Some(&careless), Some("everysec"), Some("no"), Some("0")), all);
        assert_eq!(find_warnings(None, None, None, None).len(), 3);
        let failing = sound.replace(":ok", ":err");
        assert_eq!(find_warnings(Some(&failing), Some("always"), None, Some("1")), [Warning::AppendOnlyFileFails]);
    }

    #[test]
    fn a_loss_is_what_was_told_before_it_was_asked_for() {
        let told = AcknowledgedPosition::default();
        told.check_head(Position::START, Position::new(7));
        let before = told.position();
        told.check_head(before, Position::new(9));
        told.check_head(before, Position::new(8)); // an answer that was overtaken
        assert_eq!((told.position().get(), told.loss()), (9, None));
        told.check_head(told.position(), Position::new(4));
        let lost = DurabilityWarning::Lost { told: Position::new(9), found: Position::new(4) };
        assert_eq!(told.loss(), Some(lost));
        told.check_head(told.position(), Position::new(4));
        assert_eq!(told.position(), Position::new(4));
    }
}
