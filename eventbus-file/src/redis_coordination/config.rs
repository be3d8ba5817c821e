//! The configuration of the coordination through Redis, and the names of its keys.

use std::{path::PathBuf, time::Duration};

use eventbus_redis_core::{connection, server::Server, url::address};
use redis::Client;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    config::{check_times, invalid_config},
    error::Result,
};

/// Configuration of the coordination through Redis: a plain struct with defaults. `Debug` and errors show no password.
///
/// # Examples
/// ```
/// use eventbus_file::RedisCoordination;
/// let redis = RedisCoordination {
///     redis_url: "redis://localhost:6379".into(),
///     redis_db: Some(1),
///     redis_prefix: "myapp".into(),
///     ..Default::default()
/// };
/// assert_eq!(RedisCoordination::default().redis_prefix, "eventy");
/// # drop(redis);
/// ```
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
pub struct RedisCoordination {
    /// The server. Default `redis://localhost:6379`; `rediss://` needs the cargo feature `tls`.
    #[debug("{:?}", address(redis_url))]
    pub redis_url: String,
    /// Several servers instead of `redis_url`: the name of a queue determines which one it uses. All workers must list
    /// the same servers. Default: none.
    #[debug("{:?}", redis_urls.iter().map(|url| address(url)).collect::<Vec<_>>())]
    pub redis_urls: Vec<String>,
    /// The database. Default: that of the URL, or 0 if the URL names none.
    pub redis_db: Option<i64>,
    /// A PEM file with the certificates of the authorities that may sign the server's certificate, instead of those
    /// that the platform trusts. Default: none.
    pub tls_ca_file: Option<PathBuf>,
    /// A PEM file with this worker's certificate, for a server that asks for one; needs
    /// [`tls_key_file`](Self::tls_key_file). Default: none.
    pub tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of [`tls_cert_file`](Self::tls_cert_file). Default: none.
    pub tls_key_file: Option<PathBuf>,
    /// Prefix of all keys. Default `eventy`.
    pub redis_prefix: String,
    /// Time that one worker has to broadcast the whole state before a second worker may do so. Default 30 s.
    #[doc(alias = "resync_lock_timeout_seconds")]
    pub resync_lock_timeout: Duration,
    /// Set if this worker asks the other workers for the whole state when it opens the queue. Default false.
    pub resync: bool,
    /// Time that a worker waits for an answer before the files decide alone. Default 500 ms.
    pub response_timeout: Duration,
    /// Longest delay between two attempts to connect. Default 2 s.
    pub reconnect_interval: Duration,
}

impl Default for RedisCoordination {
    fn default() -> Self {
        Self {
            redis_url: "redis://localhost:6379".into(),
            redis_urls: Vec::new(),
            redis_db: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            redis_prefix: "eventy".into(),
            resync_lock_timeout: Duration::from_secs(30),
            resync: false,
            response_timeout: Duration::from_millis(500),
            reconnect_interval: Duration::from_secs(2),
        }
    }
}

impl RedisCoordination {
    /// Returns the server of a queue. An additional server takes over its share of the queues; the rest stay where they
    /// are.
    #[must_use]
    pub fn url_for(&self, queue_name: &str) -> &str {
        let score = |url: &&String| xxh3_64(format!("{url}\n{queue_name}").as_bytes());
        self.redis_urls.iter().max_by_key(score).unwrap_or(&self.redis_url)
    }

    /// Prepares a client of a queue's server; sends no command.
    pub(super) fn client(&self, queue_name: &str) -> Result<Client> {
        let url = self.url_with_database(queue_name);
        let server = Server {
            url: &url,
            tls_ca_file: self.tls_ca_file.as_deref(),
            tls_cert_file: self.tls_cert_file.as_deref(),
            tls_key_file: self.tls_key_file.as_deref(),
            package: env!("CARGO_PKG_NAME"),
        };
        let mistake = server.problems().into_iter().find_map(|(setting, problem)| Some((setting, problem?)));
        let client = mistake.map_or_else(|| connection::client(&server), Err);
        client.map_err(|(setting, problem)| invalid_config(setting, problem))
    }

    /// Returns the URL of a queue's server, with [`redis_db`](Self::redis_db).
    fn url_with_database(&self, queue_name: &str) -> String {
        let url = self.url_for(queue_name);
        let (Some(db), Some(mut parsed)) = (self.redis_db, redis::parse_redis_url(url)) else {
            return url.to_owned();
        };
        match parsed.has_host() {
            true => parsed.set_path(&db.to_string()),
            // the URL of a socket; its last `db` counts
            false => drop(parsed.query_pairs_mut().append_pair("db", &db.to_string())),
        }
        parsed.into()
    }

    pub(crate) fn check(&self) -> Result<()> {
        let times = [
            ("resync_lock_timeout", self.resync_lock_timeout),
            ("response_timeout", self.response_timeout),
            ("reconnect_interval", self.reconnect_interval),
        ];
        check_times(&times)
    }
}

/// Names of the keys of a queue.
#[derive(Debug)]
pub(super) struct RedisKeys {
    prefix: String,
    queue: String,
}

impl RedisKeys {
    pub(super) fn new(prefix: &str, queue: &str) -> Self {
        Self { prefix: prefix.into(), queue: queue.into() }
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    pub(super) fn next_event_id(&self) -> String {
        self.named("next_event_id")
    }

    pub(super) fn claim(&self, claim_id: &str) -> String {
        self.named(&format!("claim:{claim_id}"))
    }

    pub(super) fn resync_lock(&self) -> String {
        self.named("resync_lock")
    }

    /// Returns the name of the channel, which is no key.
    pub(super) fn events(&self) -> String {
        self.named("events")
    }

    fn named(&self, name: &str) -> String {
        format!("{}:{}:{name}", self.prefix, self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_document() {
        let keys = RedisKeys::new("eventy", "my_queue");
        assert_eq!(keys.next_event_id(), "eventy:my_queue:next_event_id");
        assert_eq!(keys.claim("task_1"), "eventy:my_queue:claim:task_1");
        assert_eq!(keys.resync_lock(), "eventy:my_queue:resync_lock");
        assert_eq!(keys.events(), "eventy:my_queue:events");
    }

    #[test]
    fn defaults_are_those_of_the_document() {
        let redis = RedisCoordination::default();
        assert_eq!((redis.redis_url.as_str(), redis.redis_db), ("redis://localhost:6379", None));
        assert_eq!((redis.redis_prefix.as_str(), redis.resync_lock_timeout.as_secs()), ("eventy", 30));
        let client = RedisCoordination { redis_db: Some(1), ..redis.clone() }.client("q").unwrap();
        assert_eq!(client.get_connection_info().redis_settings().db(), 1);
        assert_eq!(redis.client("q").unwrap().get_connection_info().redis_settings().db(), 0);
        let mistaken =
            |url: &str| RedisCoordination { redis_url: url.into(), ..redis.clone() }.client("q").unwrap_err();
        assert!(mistaken("nonsense").to_string().contains("`redis_url` is no Redis URL"));
        assert!(!mistaken("http://app:secret@host").to_string().contains("secret"));
        for url in ["redis://app:secret@host/1", "redis://secret@host/1", "redis://:secret@host/1"] {
            let urls = RedisCoordination { redis_url: url.into(), redis_urls: vec![url.into()], ..redis.clone() };
            let shown = format!("{urls:?} {:?}", urls.client("q"));
            assert!(shown.contains("host/1") && !shown.contains("secret"), "{shown}");
        }
        for (url, address) in [("redis://:pass@host/5", "TCP"), ("unix:///run/redis?db=5", "Unix")] {
            let client = RedisCoordination { redis_url: url.into(), redis_db: Some(1), ..redis.clone() }.client("q");
            let info = client.unwrap().get_connection_info().clone();
            assert_eq!(info.redis_settings().db(), 1, "{address}");
        }
    }

    #[test]
    fn another_server_moves_only_its_share_of_the_queues() {
        let urls: Vec<String> = (1..=4).map(|number| format!("redis://r{number}")).collect();
        let of = |count: usize| RedisCoordination { redis_urls: urls[..count].to_vec(), ..Default::default() };
        let (three, four) = (of(3), of(4));
        let queues: Vec<_> = (0..300).map(|number| format!("queue-{number}")).collect();
        let moved: Vec<_> = queues.iter().filter(|name| three.url_for(name) != four.url_for(name)).collect();
        assert!((40..110).contains(&moved.len()), "about a quarter: {}", moved.len());
        assert!(moved.iter().all(|name| four.url_for(name) == "redis://r4"));
    }
}
