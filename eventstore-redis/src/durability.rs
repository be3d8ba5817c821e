//! Durability of the server: its settings, and the loss of acknowledged events.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use eventbus::{Position, port::ReadError};
use eventbus_redis_core::{connection::SharedConnection, error::boxed, reply};
use redis::{RedisResult, Value};
use serde::Serialize;

/// Findings of [`RedisEventStore::durability`](crate::RedisEventStore::durability).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Durability {
    /// Ways in which acknowledged events may be lost; empty if the check found none.
    pub warnings: Vec<DurabilityWarning>,
}

/// A way in which acknowledged events may be lost; the displayed text says when.
#[derive(Debug, derive_more::Display, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DurabilityWarning {
    /// Events that the server acknowledged to this process are gone: the server was restored from an older copy, or
    /// crashed before it had written them. The store gives their positions to new events.
    #[display(
        "the server lost acknowledged events: it had acknowledged {told}, then the store ended at {found}, and new events \
         get the positions between; compare the store with what other systems have read from it"
    )]
    Lost {
        /// The highest position that the server had acknowledged.
        told: Position,
        /// The position at which the store ended afterwards.
        found: Position,
    },
    /// There is no append-only file: a crash loses all events since the last snapshot.
    #[display("there is no append-only file: a crash loses every event since the last snapshot, acknowledged or not")]
    NoAppendOnlyFile,
    /// The server cannot write the append-only file at the moment.
    #[display("the append-only file cannot be written: a crash loses every event since then")]
    AppendOnlyFileFails,
    /// The server syncs the append-only file once a second: a crash of the machine, or a kill at the wrong moment,
    /// loses the last events.
    #[display("`appendfsync everysec`: a crash of the machine loses about a second of acknowledged events")]
    SyncedEverySecond,
    /// The operating system decides when to sync the append-only file.
    #[display("`appendfsync no`: a crash of the machine loses what the system has not written, mostly 30 s")]
    SyncedByTheSystem,
    /// The server does not sync the append-only file while it rewrites it.
    #[display(
        "`no-appendfsync-on-rewrite yes`: a crash of the machine during a rewrite of the file loses events since"
    )]
    NotSyncedInRewrites,
    /// When its memory is full, the server removes keys of its own choice: events, also old ones.
    #[display("`maxmemory-policy {policy}`: when memory is full the server removes events, also old ones")]
    Evicts {
        /// The policy.
        policy: String,
    },
    /// There is no replica: losing the disk loses all events.
    #[display("there is no replica: losing the disk loses all events")]
    NoReplica,
    /// The server acknowledges writes before any replica has them: a failover loses the last ones.
    #[display("`min-replicas-to-write 0`: a failover loses acknowledged events that no replica had received")]
    AcknowledgedAlone,
    /// The server does not show the setting; managed servers often hide it.
    #[display("`{setting}` could not be checked: the server does not show it; ask its operator")]
    NotChecked {
        /// The setting.
        setting: &'static str,
    },
}

impl DurabilityWarning {
    /// Returns the command that repairs the setting; `None` if no command does.
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

/// Asks the server how it persists its data, and returns how it may lose events.
pub(crate) async fn load(
    connection: &SharedConnection,
    acknowledged: &AcknowledgedPosition,
) -> Result<Durability, ReadError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("INFO");
    for setting in ["appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write"] {
        pipeline.cmd("CONFIG").arg("GET").arg(setting);
    }
    pipeline.ignore_errors();
    let replies: Vec<RedisResult<Value>> =
        connection.query_all_idempotent(&pipeline).await.map_err(|error| ReadError::Unavailable(boxed(error)))?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
    let info: Option<String> = next().and_then(reply::parse_value).ok();
    let mut setting = || -> Option<String> {
        let found: HashMap<String, String> = next().and_then(reply::parse_value).ok()?;
        found.into_values().next()
    };
    let (fsync, lazy, replicas) = (setting(), setting(), setting());
    let mut warnings: Vec<_> = acknowledged.loss().into_iter().collect();
    warnings.extend(find_warnings(info.as_deref(), fsync.as_deref(), lazy.as_deref(), replicas.as_deref()));
    Ok(Durability { warnings })
}

/// Asks for the warnings, and logs them.
pub(crate) async fn log_warnings(address: &str, connection: &SharedConnection, acknowledged: &AcknowledgedPosition) {
    match load(connection, acknowledged).await {
        Ok(Durability { warnings }) => {
            for warning in warnings {
                let repair = warning.repair().unwrap_or("none");
                tracing::warn!(%address, repair, "event store: {warning}");
            }
        }
        Err(error) => tracing::debug!(%address, %error, "durability of the event store could not be checked"),
    }
}

/// Returns the warnings for the replies of the server; `None` is a setting that it does not show.
fn find_warnings(
    info: Option<&str>,
    fsync: Option<&str>,
    lazy: Option<&str>,
    replicas: Option<&str>,
) -> Vec<DurabilityWarning> {
    use DurabilityWarning as Warning;
    let info_field = |name: &str| {
        info?.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    let mut found = Vec::new();
    let not_checked = |setting| Warning::NotChecked { setting };
    match info_field("aof_enabled").as_deref() {
        None => found.push(not_checked("appendonly")),
        Some("0") => found.push(Warning::NoAppendOnlyFile),
        Some(_) => {
            if info_field("aof_last_write_status").is_some_and(|status| status != "ok") {
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
    match info_field("maxmemory_policy") {
        None => found.push(not_checked("maxmemory-policy")),
        Some(policy) if policy.starts_with("allkeys") => found.push(Warning::Evicts { policy }),
        Some(_) => {}
    }
    match (info_field("connected_slaves").as_deref(), replicas) {
        (None, _) => found.push(not_checked("replicas")),
        (Some("0"), _) => found.push(Warning::NoReplica),
        (Some(_), Some("0")) => found.push(Warning::AcknowledgedAlone),
        (Some(_), None) => found.push(not_checked("min-replicas-to-write")),
        _ => {}
    }
    found
}

/// The highest position that the server has acknowledged to this process. A store that ends before it has lost events.
///
/// Invariant: a caller reads the position before it sends the request whose reply it compares: replies may overtake
/// each other.
#[derive(Debug, Default)]
pub(crate) struct AcknowledgedPosition {
    position: AtomicU64,
    lost_from: AtomicU64,
    lost_to: AtomicU64,
}

impl AcknowledgedPosition {
    pub(crate) fn position(&self) -> Position {
        Position::new(self.position.load(Ordering::Acquire))
    }

    /// Notes that the store holds events up to `position`.
    pub(crate) fn raise_to(&self, position: Position) {
        self.position.fetch_max(position.get(), Ordering::AcqRel);
    }

    /// Compares the end of the store, `found`, with a position that was acknowledged before. Returns `true` if events
    /// are lost.
    pub(crate) fn check_head(&self, acknowledged: Position, found: Position) -> bool {
        if found >= acknowledged {
            self.raise_to(found);
            return false;
        }
        let (acknowledged, found) = (acknowledged.get(), found.get());
        // if several tasks find the loss at once, one of them logs it
        if self.position.compare_exchange(acknowledged, found, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.lost_from.store(acknowledged, Ordering::Release);
            self.lost_to.store(found, Ordering::Release);
            if let Some(lost) = self.loss() {
                tracing::error!("event store: {lost}");
            }
        }
        true
    }

    fn loss(&self) -> Option<DurabilityWarning> {
        let acknowledged = self.lost_from.load(Ordering::Acquire);
        let found = Position::new(self.lost_to.load(Ordering::Acquire));
        (acknowledged > 0).then(|| DurabilityWarning::Lost { told: Position::new(acknowledged), found })
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
        let acknowledged = AcknowledgedPosition::default();
        acknowledged.check_head(Position::START, Position::new(7));
        let before = acknowledged.position();
        acknowledged.check_head(before, Position::new(9));
        acknowledged.check_head(before, Position::new(8)); // a reply that was overtaken
        assert_eq!((acknowledged.position().get(), acknowledged.loss()), (9, None));
        acknowledged.check_head(acknowledged.position(), Position::new(4));
        let lost = DurabilityWarning::Lost { told: Position::new(9), found: Position::new(4) };
        assert_eq!(acknowledged.loss(), Some(lost));
        acknowledged.check_head(acknowledged.position(), Position::new(4));
        assert_eq!(acknowledged.position(), Position::new(4));
    }
}
