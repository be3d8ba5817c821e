//! How a queue works.
//!
//! Real time, not the given clock: a name that no other worker has.

use std::{path::PathBuf, time::Duration};

use eventbus::{
    Name, SharedClock,
    port::{DEFAULT_IN_FLIGHT_BYTES, DELIVER_SKIPPED_WITHIN, RetryPolicy},
};
use uuid::Uuid;

use crate::error::{FileQueueError, Result};

/// How a queue works: a plain struct with defaults.
///
/// # Examples
/// ```
/// use eventbus_file::FileQueueConfig;
/// use std::time::Duration;
/// let config = FileQueueConfig {
///     root_dir: "/srv/orders".into(),
///     claim_expiration: Duration::from_secs(600),
///     ..Default::default()
/// };
/// assert_eq!(FileQueueConfig::default().claim_expiration, Duration::from_secs(300));
/// # drop(config);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileQueueConfig {
    /// The folder of the queue; made if it is missing. Default `queue`.
    pub root_dir: PathBuf,
    /// What the queue is called, in Redis keys too; all its workers must call it the same. The last part of `root_dir` if
    /// left out.
    pub queue_name: Option<String>,
    /// What this worker is called; no other that lives may be called so. A worker that is called the same after a restart
    /// goes on at once where it was. Made up if left out.
    pub worker_id: Option<String>,
    /// How long a claim lasts that is not renewed. Default 300 s.
    #[doc(alias = "claim_expiration_seconds")]
    pub claim_expiration: Duration,
    /// How long the group of a worker that died waits for another one to take it over. Default 10 s.
    pub group_expiration: Duration,
    /// How long a missing id below an existing one is waited for. Its publisher may be slow; if it is slower, it
    /// publishes under another id. Default 2 s.
    pub gap_timeout: Duration,
    /// How often the folder is looked at, at the least, by those who wait. Default 250 ms.
    pub poll_interval: Duration,
    /// Payloads of so many bytes or more are compressed, into a file each: `zcat` shows them. Default: none.
    pub compress_from: Option<usize>,
    /// Whether files are synced to disk, so that they outlast a power failure. Default true.
    pub sync: bool,
    /// The consumer group of handlers that name none. Default `default`.
    pub default_group: Name,
    /// When failed deliveries are tried again. Default for four hours, after delays from 100 ms to 5 min.
    pub retry: RetryPolicy,
    /// How many deliveries a handler gets at once that does not say it itself, in the one process that consumes for its
    /// group. Default 1.
    pub concurrency: usize,
    /// How many deliveries a group has in hand at most, not counting those that wait for a retry or are parked behind one
    /// that does: of these it keeps the ids of up to 10,000. Default 1,000.
    pub max_in_flight: usize,
    /// How many bytes of events a group has in hand at most, one event apart. Default 16 MiB.
    pub max_in_flight_bytes: usize,
    /// How long ago a group may have begun to skip an event type for which it gets its first handler, so that it is
    /// delivered what it skipped and the folder still holds. What is older is delivered if the handler says `start =
    /// "oldest"`, and not if it says `start = "now"`. Default 24 h.
    pub deliver_skipped_within: Duration,
    /// By which clock retries, timeouts and the times of dead letters go. What workers compare through files, as the ends of
    /// claims, goes by the machine's. Default: the machine's.
    pub clock: SharedClock,
}

impl Default for FileQueueConfig {
    fn default() -> Self {
        Self {
            root_dir: "queue".into(),
            queue_name: None,
            worker_id: None,
            claim_expiration: Duration::from_secs(300),
            group_expiration: Duration::from_secs(10),
            gap_timeout: Duration::from_secs(2),
            poll_interval: Duration::from_millis(250),
            compress_from: None,
            sync: true,
            default_group: Name::from_static("default"),
            retry: RetryPolicy::default(),
            concurrency: 1,
            max_in_flight: 1_000,
            max_in_flight_bytes: DEFAULT_IN_FLIGHT_BYTES,
            deliver_skipped_within: DELIVER_SKIPPED_WITHIN,
            clock: SharedClock::SYSTEM,
        }
    }
}

impl FileQueueConfig {
    /// The defaults, for the queue in this folder.
    pub fn at(root_dir: impl Into<PathBuf>) -> Self {
        Self { root_dir: root_dir.into(), ..Self::default() }
    }

    /// What the queue is called.
    pub(crate) fn name(&self) -> Result<Name> {
        let name = match &self.queue_name {
            Some(name) => name.clone(),
            None => self.name_of_folder(),
        };
        let invalid = |error: eventbus::InvalidName| invalid_config("queue_name", error.to_string());
        Name::new("queue name", name).map_err(invalid)
    }

    /// The last part of the folder's path, also where that is `.` or a link.
    fn name_of_folder(&self) -> String {
        let absolute = self.root_dir.canonicalize().unwrap_or_else(|_| self.root_dir.clone());
        let named = if self.root_dir.file_name().is_some() { &self.root_dir } else { &absolute };
        named.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What this worker is called.
    pub(crate) fn worker(&self) -> Result<String> {
        let invalid = |error: eventbus::InvalidName| invalid_config("worker_id", error.to_string());
        match &self.worker_id {
            Some(id) => Name::new("worker id", id).map(|name| name.to_string()).map_err(invalid),
            None => Ok(format!("worker-{}-{}", std::process::id(), unique_suffix())),
        }
    }

    /// Names the first setting that makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        let times = [
            ("claim_expiration", self.claim_expiration),
            ("group_expiration", self.group_expiration),
            ("poll_interval", self.poll_interval),
        ];
        check_times(&times)?;
        if self.max_in_flight_bytes == 0 {
            return Err(invalid_config("max_in_flight_bytes", "must be 1 at least".into()));
        }
        match self.max_in_flight {
            0 => Err(invalid_config("max_in_flight", "must be 1 at least".into())),
            _ => Ok(()),
        }
    }
}

/// Names the first time that is too short, or that no clock can tell.
pub(crate) fn check_times(times: &[(&'static str, Duration)]) -> Result<()> {
    let is_wrong = |time: &Duration| *time < Duration::from_millis(1) || *time > DURATION_MAX;
    match times.iter().find(|(_, time)| is_wrong(time)) {
        Some((setting, _)) => {
            Err(invalid_config(setting, "must be a millisecond at least, and a hundred years at most".into()))
        }
        None => Ok(()),
    }
}

/// A hundred years.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Some letters and digits that nobody else has.
fn unique_suffix() -> String {
    let id = Uuid::now_v7().simple().to_string();
    id[id.len() - 12..].to_owned()
}

pub(crate) fn invalid_config(setting: &'static str, reason: String) -> FileQueueError {
    FileQueueError::InvalidConfig { setting, reason }
}
