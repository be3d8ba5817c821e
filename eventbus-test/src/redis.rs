//! The key prefix of one test.

use std::{fmt, thread};

use ::redis::RedisResult;

use crate::{
    error::{Error, refuse},
    server::Server,
};

/// About how many keys one reply of `SCAN` covers.
const SCANNED: usize = 1_000;

/// The key prefix of one test, on a server that tests share. Dropping this value removes its keys, also if the test
/// panics.
///
/// Its keys are all keys of the URL's database that contain the prefix, such as `{test_x:stream}:relay`. An app that
/// still runs may write new ones: shut it down before. If the test process is killed, the keys stay; those on a server
/// that this crate started go when the server stops.
///
/// Dropping the value panics if the keys cannot be removed, unless the test has panicked already.
///
/// # Examples
/// ```
/// let (one, other) = (eventbus_test::redis(), eventbus_test::redis());
/// assert_eq!(one.url(), other.url());
/// assert_ne!(one.prefix(), other.prefix());
/// ```
pub struct Redis {
    url: String,
    prefix: String,
}

impl Redis {
    pub(crate) fn new(url: &str, prefix: String) -> Self {
        Self { url: url.to_owned(), prefix }
    }

    /// Returns the URL of the server.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the prefix, for the keys of a store or the streams of a bus: lower-case letters, digits and underscores.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn remove_keys(&self) -> RedisResult<()> {
        let mut connection = ::redis::Client::open(self.url())?.get_connection()?;
        let mut cursor = 0_u64;
        loop {
            let mut scan = ::redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("*{}*", self.prefix)).arg("COUNT").arg(SCANNED);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query(&mut connection)?;
            if !keys.is_empty() {
                ::redis::cmd("UNLINK").arg(keys).exec(&mut connection)?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Err(error) = self.remove_keys()
            && !thread::panicking()
        {
            let (server, doing) = (Server::Redis, format!("remove the keys of {}", self.prefix));
            refuse(&Error::Refused { server, doing, source: error.into() });
        }
    }
}

/// The URL may hold a password.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use ::redis::Commands as _;

    use super::*;

    #[test]
    fn the_keys_of_a_prefix_are_gone_after_drop_and_no_others_although_the_test_panics() {
        let (redis, other) = (crate::redis(), crate::redis());
        let mut connection = ::redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        let keys = |prefix: &str| [format!("{prefix}:stream"), format!("{{{prefix}:stream}}:relay"), prefix.to_owned()];
        let (of_redis, of_other) = (keys(redis.prefix()), keys(other.prefix()));
        for key in of_redis.iter().chain(&of_other) {
            connection.set::<_, _, ()>(key, 1).unwrap();
        }
        let more: Vec<_> = (0..3 * SCANNED).map(|n| (format!("{}:{n}", redis.prefix()), 1)).collect();
        connection.mset::<_, _, ()>(&more).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _redis = redis;
            std::panic::resume_unwind(Box::new("the test fails"));
        }));
        assert!(panicked.is_err());
        let of_redis: Vec<_> = of_redis.iter().chain(more.iter().map(|(key, _)| key)).collect();
        assert_eq!(connection.exists::<_, usize>(&of_redis).unwrap(), 0);
        assert_eq!(connection.exists::<_, usize>(&of_other).unwrap(), of_other.len());
    }
}
