//! The configuration of a store.

use std::{env, ffi::OsString, str::FromStr, time::Duration};

use eventbus::{clock::SharedClock, support::redacted};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::{error::PgConnectError, schema::Schema, url::check_parameters};

/// The configuration of a [`PgEventStore`](crate::PgEventStore): the database, the schema, limits and timeouts.
///
/// # Examples
/// ```
/// use eventstore_postgres::PgEventStoreConfig;
/// let config = PgEventStoreConfig {
///     database_url: "postgres://app:secret@db.example/orders".into(),
///     max_connections: 4,
///     ..Default::default()
/// };
/// assert_eq!(config.schema, "eventbus");
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq, derive_more::Debug)]
pub struct PgEventStoreConfig {
    /// The database: `postgres://user:password@host:port/database`; default `postgres://localhost/postgres`.
    ///
    /// `?sslmode=verify-full` connects with TLS only, to a server whose certificate is for that host and signed by an
    /// authority that the platform trusts, or by one in the PEM file `sslrootcert`; `sslcert` and `sslkey` name the
    /// client's certificate and key. This needs the cargo feature `tls`. Without a mode, TLS is used if the server and
    /// that feature have it, and connecting to a remote host without it logs a warning. Other parameters are
    /// `host`, `hostaddr`, `port`, `dbname`, `user`, `password`, `application_name`, `options` and
    /// `statement-cache-capacity`; unknown ones are refused.
    ///
    /// A pooler in between must pool sessions, or keep track of prepared statements as PgBouncer does from 1.21 on with
    /// `max_prepared_statements`. PgBouncer also needs `ignore_startup_parameters = extra_float_digits, options`; make
    /// the settings that it then ignores, such as [`statement_timeout`](Self::statement_timeout) and
    /// `enable_seqscan = off`, on the role.
    #[debug("{:?}", redacted(database_url))]
    pub database_url: String,
    /// The schema that holds the tables: lower-case letters, digits and underscores; default `eventbus`.
    pub schema: String,
    /// Set if connecting also creates and upgrades the tables; default true.
    pub migrate: bool,
    /// The most open connections; default 10. Appends use half of them (rounded up) and one more; about a quarter may
    /// wait for a stream that a transaction has locked. Of three connections appends use two, and may wait for decisions
    /// whose tag is locked. With one or two, appends may use all, and every other statement then waits for one.
    pub max_connections: u32,
    /// The most appends of this process that are queued or executed at once; further callers wait for a permit. Default
    /// 4,096.
    pub append_queue: u32,
    /// The time limit of waiting for a connection, new or free; default 5 s.
    pub connect_timeout: Duration,
    /// The time limit of a statement on the server; the store waits one second longer for its answer. Default 30 s.
    pub statement_timeout: Duration,
    /// The most transactions of handlers, projections and the application open at once, each on a connection of its own
    /// beside those of [`max_connections`](Self::max_connections); default 10. At most half of them, and at least one,
    /// are [reads](crate::PgEventStore::begin_read).
    pub max_transactions: u32,
    /// Set if the store notifies stores in other processes of its appends, and listens to theirs, so that readers need
    /// not wait for their next poll; takes one more connection, which a pooler in between must not share (`LISTEN`).
    /// Idle stores that listen poll every 5 seconds, others every 250 ms: if one store of a database does not notify,
    /// the others see its events only at their next poll. Default true.
    pub notify: bool,
    /// The time limit of waiting for a different process that migrates the tables or sets up tables of a projection, of
    /// waiting for a table that a step of the migration changes, and of the statements that set up such tables; default
    /// 5 min.
    pub migration_timeout: Duration,
    /// The time limit of a transaction of handlers, projections and the application; the server ends one whose owner is
    /// paused. For a [read](crate::PgEventStore::begin_read) on a server before PostgreSQL 17, the limit of each
    /// statement and of each pause between two. Default 10 s.
    pub transaction_timeout: Duration,
    /// The clock of this process's own delays; the server's clock decides about leases. Default: the machine's.
    pub clock: SharedClock,
}

/// The most connections that a server can have; a pool allocates room for all of its connections at once.
pub(crate) const CONNECTIONS_MAX: u32 = 262_143;

impl Default for PgEventStoreConfig {
    fn default() -> Self {
        Self {
            database_url: "postgres://localhost/postgres".into(),
            schema: "eventbus".into(),
            migrate: true,
            max_connections: 10,
            append_queue: 4_096,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            max_transactions: 10,
            notify: true,
            migration_timeout: Duration::from_secs(300),
            transaction_timeout: Duration::from_secs(10),
            clock: SharedClock::SYSTEM,
        }
    }
}

/// The environment variable with the URL of the database.
const URL_VARIABLE: &str = "DATABASE_URL";

impl PgEventStoreConfig {
    /// Reads the URL of the database from the environment variable `DATABASE_URL`; the other fields have their
    /// defaults.
    ///
    /// # Errors
    /// [`PgConnectError::InvalidVariable`] if the variable is not set, is empty, or is not UTF-8. Connecting, or
    /// [`validate`](Self::validate), checks the URL.
    ///
    /// # Examples
    /// ```no_run
    /// use eventstore_postgres::PgEventStoreConfig;
    /// let config = PgEventStoreConfig { max_connections: 4, ..PgEventStoreConfig::from_env()? };
    /// # Ok::<(), eventstore_postgres::PgConnectError>(())
    /// ```
    pub fn from_env() -> Result<Self, PgConnectError> {
        Self::from_url_variable(env::var_os(URL_VARIABLE))
    }

    fn from_url_variable(value: Option<OsString>) -> Result<Self, PgConnectError> {
        let mistake = |problem| PgConnectError::InvalidVariable { variable: URL_VARIABLE, problem };
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| mistake("is not set; it names the database"))?;
        let database_url = value.into_string().map_err(|_| mistake("is not valid UTF-8"))?;
        Ok(Self { database_url, ..Self::default() })
    }

    /// Checks the fields, without connecting. A store does so before it connects.
    ///
    /// # Errors
    /// [`PgConnectError::InvalidUrl`] or [`PgConnectError::InvalidConfig`]. They never show the password.
    ///
    /// # Examples
    /// ```
    /// use eventstore_postgres::PgEventStoreConfig;
    /// let database_url = "postgres://db/orders?ssl_mode=require".into();
    /// let error = PgEventStoreConfig { database_url, ..Default::default() }.validate().unwrap_err();
    /// assert!(error.to_string().contains("`ssl_mode`"));
    /// ```
    pub fn validate(&self) -> Result<(), PgConnectError> {
        Schema::new(&self.schema)?;
        self.connect_options().map(drop)
    }

    /// Returns the time limit of waiting for the answer of a statement.
    ///
    /// A second more than the server's limit: an error of the server proves that it kept no change, a timeout here
    /// cannot.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.statement_timeout.saturating_add(Duration::from_secs(1))
    }

    /// Returns the URL without the password, for errors and logs.
    pub(crate) fn server(&self) -> String {
        redacted(&self.database_url)
    }

    /// Returns the options of every connection.
    pub(crate) fn connect_options(&self) -> Result<PgConnectOptions, PgConnectError> {
        self.check()?;
        let scheme = self.database_url.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("postgres" | "postgresql")) {
            return Err(PgConnectError::InvalidUrl { source: "it does not begin with `postgres://`".into() });
        }
        check_parameters(&self.database_url)?;
        let options = PgConnectOptions::from_str(&self.database_url)
            .map_err(|error| PgConnectError::InvalidUrl { source: error.into() })?;
        let demands_tls =
            matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
        if demands_tls && !cfg!(feature = "tls") {
            let reason = "it asks for TLS, which needs the cargo feature `tls` of eventstore-postgres";
            return Err(PgConnectError::InvalidConfig { field: "database_url", reason });
        }
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("eventbus"),
        };
        let limit = format!("{}ms", milliseconds(self.statement_timeout));
        Ok(options.options([
            ("statement_timeout", limit.as_str()),
            // the limit of a statement is enough; statements that give up earlier at a lock set a limit of their own
            ("lock_timeout", "0"),
            ("idle_in_transaction_session_timeout", limit.as_str()),
            ("default_transaction_isolation", "read committed"),
        ]))
    }

    fn check(&self) -> Result<(), PgConnectError> {
        check_number("max_connections", self.max_connections)?;
        check_number("max_transactions", self.max_transactions)?;
        check_duration("connect_timeout", self.connect_timeout)?;
        self.check_limits()
    }

    /// Checks the fields that are the store's own, not those of its pool of connections.
    pub(crate) fn check_limits(&self) -> Result<(), PgConnectError> {
        check_number("append_queue", self.append_queue)?;
        check_duration("statement_timeout", self.statement_timeout)?;
        check_duration("migration_timeout", self.migration_timeout)?;
        check_duration("transaction_timeout", self.transaction_timeout)
    }
}

fn check_number(field: &'static str, number: u32) -> Result<(), PgConnectError> {
    let reason = match number {
        0 => "at least 1 is needed",
        1..=CONNECTIONS_MAX => return Ok(()),
        _ => "at most 262,143 are allowed, as many as a server can have connections",
    };
    Err(PgConnectError::InvalidConfig { field, reason })
}

fn check_duration(field: &'static str, duration: Duration) -> Result<(), PgConnectError> {
    let reason = if duration < Duration::from_millis(1) {
        "at least a millisecond is needed"
    } else if i32::try_from(duration.as_millis()).is_err() {
        "at most 24 days are allowed, the server's limit"
    } else {
        return Ok(());
    };
    Err(PgConnectError::InvalidConfig { field, reason })
}

/// Returns a limit in the server's unit and range; [`check_duration`] rules out 0, which means "no limit".
pub(crate) fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)
}

/// A thousand years: as good as for ever, and within the server's range.
const LEASE_MICROSECONDS_MAX: i64 = 1_000 * 365 * 24 * 3_600 * 1_000_000;

/// Returns a duration in the unit and range that the server can add to a time.
pub(crate) fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).map_or(LEASE_MICROSECONDS_MAX, |time| time.min(LEASE_MICROSECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_database_and_an_error_the_variable() {
        let read = |value: &str| PgEventStoreConfig::from_url_variable(Some(value.into()));
        let database_url = "postgres://app:secret@db/orders";
        let expected = PgEventStoreConfig { database_url: database_url.into(), ..Default::default() };
        assert_eq!(read(database_url).unwrap(), expected);
        for error in [PgEventStoreConfig::from_url_variable(None).unwrap_err(), read("").unwrap_err()] {
            assert!(!error.is_retryable());
            assert_eq!(error.to_string(), "the environment variable `DATABASE_URL` is not set; it names the database");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_url_that_is_not_utf_8_is_refused_and_not_shown() {
        use std::os::unix::ffi::OsStringExt as _;

        let value = OsString::from_vec(b"postgres://app:secret@db/\xff".to_vec());
        let error = PgEventStoreConfig::from_url_variable(Some(value)).unwrap_err();
        assert_eq!(error.to_string(), "the environment variable `DATABASE_URL` is not valid UTF-8");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
