//! The configuration of a queue; opening the queue checks it.
//!
//! Real time, not the given clock: a generated worker id is unique among processes.

use std::{path::PathBuf, time::Duration};

use eventbus::{Name, clock::SharedClock, delivery::RetryPolicy};
use uuid::Uuid;

use crate::error::{FileQueueError, Result};

/// Configuration of a queue: a plain struct with defaults.
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
    /// Folder of the queue; the queue makes it if it is missing. A relative path is resolved against the working
    /// directory when the queue is opened. Default `queue`.
    pub root_dir: PathBuf,
    /// Name of the queue, also in its Redis keys; all its workers must use the same name. Default: the last part of
    /// `root_dir`.
    pub queue_name: Option<String>,
    /// Name of this worker, unique among the live workers of the queue. Default: generated.
    pub worker_id: Option<String>,
    /// TTL of a claim that its owner does not renew: the job of a worker that died passes on after so long. Default
    /// 300 s.
    #[doc(alias = "claim_expiration_seconds")]
    pub claim_expiration: Duration,
    /// Time that readers wait for the event of an id that is missing below an existing one. A publisher that takes
    /// longer publishes its event under a later id. Default 2 s.
    pub gap_timeout: Duration,
    /// Longest interval at which a waiting worker polls the folder. Default 250 ms.
    pub poll_interval: Duration,
    /// Size in bytes from which the queue compresses a payload, into a file of its own; `zcat` shows it. Default: none.
    pub compress_from: Option<usize>,
    /// Set if the queue syncs files to disk, so that they outlast a power failure. Default true.
    pub sync: bool,
    /// Schedule of the retries of a job whose handlers failed. Default: for four hours, after delays from 100 ms to 5 min.
    pub retry: RetryPolicy,
    /// Number of jobs that this process runs at once, if no handler sets more. Default 1.
    pub concurrency: usize,
    /// Clock of retries, timeouts and the times of dead letters. Times that workers compare through files, such as the
    /// ends of claims, come from the machine's clock. Default: the machine's clock.
    pub clock: SharedClock,
}

impl Default for FileQueueConfig {
    fn default() -> Self {
        Self {
            root_dir: "queue".into(),
            queue_name: None,
            worker_id: None,
            claim_expiration: Duration::from_secs(300),
            gap_timeout: Duration::from_secs(2),
            poll_interval: Duration::from_millis(250),
            compress_from: None,
            sync: true,
            retry: RetryPolicy::default(),
            concurrency: 1,
            clock: SharedClock::SYSTEM,
        }
    }
}

impl FileQueueConfig {
    /// Returns the defaults for the queue in a folder.
    pub fn at(root_dir: impl Into<PathBuf>) -> Self {
        Self { root_dir: root_dir.into(), ..Self::default() }
    }

    pub(crate) fn name(&self) -> Result<Name> {
        let name = match &self.queue_name {
            Some(name) => name.clone(),
            None => self.name_of_folder(),
        };
        let invalid = |error: eventbus::event::InvalidName| invalid_config("queue_name", error.to_string());
        Name::new("queue name", name).map_err(invalid)
    }

    /// Returns the last part of the folder's path; if that has no name, such as `.`, of the absolute path.
    fn name_of_folder(&self) -> String {
        let absolute = self.root_dir.canonicalize().unwrap_or_else(|_| self.root_dir.clone());
        let named = if self.root_dir.file_name().is_some() { &self.root_dir } else { &absolute };
        named.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn worker(&self) -> Result<String> {
        let invalid = |error: eventbus::event::InvalidName| invalid_config("worker_id", error.to_string());
        match &self.worker_id {
            Some(id) => Name::new("worker id", id).map(|name| name.to_string()).map_err(invalid),
            None => Ok(format!("worker-{}-{}", std::process::id(), unique_suffix())),
        }
    }

    /// Returns an error that names the first invalid setting.
    pub(crate) fn check(&self) -> Result<()> {
        let times = [("claim_expiration", self.claim_expiration), ("poll_interval", self.poll_interval)];
        check_times(&times)
    }
}

/// Returns an error that names the first duration that is too short, or too long for a clock.
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

/// Returns letters and digits that no other worker has.
fn unique_suffix() -> String {
    let id = Uuid::now_v7().simple().to_string();
    id[id.len() - 12..].to_owned()
}

pub(crate) fn invalid_config(setting: &'static str, reason: String) -> FileQueueError {
    FileQueueError::InvalidConfig { setting, reason }
}
