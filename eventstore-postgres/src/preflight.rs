//! The preconditions that a server and a database must meet before the store keeps events there.

use eventbus::support::is_this_machine;
use sqlx::{
    Row,
    postgres::{PgConnectOptions, PgRow},
};

use crate::{
    connector::Connector,
    error::{PgConnectError, PgPrecondition},
    schema::Schema,
    setup_session::SetupSession,
};

const SERVER_VERSION_MIN: i32 = 130_000;

/// Checks the server, before the store creates its tables.
pub(crate) async fn check_server(session: &mut SetupSession, connector: &Connector) -> Result<(), PgConnectError> {
    let query = sqlx::query(include_str!("sql/preflight_server.sql"));
    let server = session.fetch_one(query, ServerSettings::decode).await?;
    // on a pool of the application, each transaction of the store sets its level itself
    if server.has_stricter_isolation() && !connector.is_shared() {
        server.warn_of_isolation();
    }
    server.warn();
    if server.is_unencrypted_remote(&connector.options()) {
        warn_of_plaintext(session.server());
    }
    server.check().map_err(|fault| precondition_error(session, fault))
}

/// Checks the sequences, once the tables exist. Returns `true` if the table of events is partitioned.
pub(crate) async fn check_tables(session: &mut SetupSession, schema: &Schema) -> Result<bool, PgConnectError> {
    let query = sqlx::query(schema.statement(include_str!("sql/preflight_sequences.sql")));
    let decode = |row: &PgRow| Ok::<_, sqlx::Error>((SequenceState::decode(row)?, row.try_get("is_partitioned")?));
    let mut is_partitioned = false;
    for (sequence, of_events) in session.fetch_all(query, decode).await? {
        sequence.check().map_err(|fault| precondition_error(session, fault))?;
        is_partitioned = of_events;
    }
    Ok(is_partitioned)
}

fn precondition_error(session: &SetupSession, fault: PgPrecondition) -> PgConnectError {
    PgConnectError::Precondition { server: session.server().into(), fault }
}

struct ServerSettings {
    version_number: i32,
    standby: bool,
    read_only: bool,
    synchronous_commit: String,
    encoding: String,
    isolation: String,
    fsync: bool,
    encrypted: bool,
    prepared_transactions: i64,
}

impl ServerSettings {
    fn decode(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            version_number: row.try_get("version_number")?,
            standby: row.try_get("standby")?,
            read_only: row.try_get("read_only")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            encoding: row.try_get("encoding")?,
            isolation: row.try_get("isolation")?,
            fsync: row.try_get("fsync")?,
            encrypted: row.try_get("encrypted")?,
            prepared_transactions: row.try_get("prepared_transactions")?,
        })
    }

    fn check(self) -> Result<(), PgPrecondition> {
        if self.version_number < SERVER_VERSION_MIN {
            return Err(PgPrecondition::ServerVersion { number: self.version_number });
        }
        // before `read_only`, which a standby is too
        if self.standby {
            return Err(PgPrecondition::Standby);
        }
        if self.read_only {
            return Err(PgPrecondition::ReadOnly);
        }
        if self.synchronous_commit == "off" {
            return Err(PgPrecondition::SynchronousCommitOff);
        }
        if self.encoding != "UTF8" {
            return Err(PgPrecondition::Encoding { encoding: self.encoding });
        }
        Ok(())
    }

    /// Returns `true` if concurrent writers may make each other's statements fail, so that the store retries them.
    ///
    /// No promise depends on the level: a statement is a transaction of its own, and transactions of handlers and
    /// projections set theirs. Connections request `read committed`, but a pooler may not pass it on.
    fn has_stricter_isolation(&self) -> bool {
        self.isolation != "read committed"
    }

    /// Returns `true` if events and the password cross a network unencrypted.
    fn is_unencrypted_remote(&self, options: &PgConnectOptions) -> bool {
        let host = options.get_host();
        let is_here = options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host);
        !self.encrypted && !is_here
    }

    fn warn_of_isolation(&self) {
        tracing::warn!(
            isolation = self.isolation,
            "`default_transaction_isolation` is not `read committed`: the store retries concurrent appends to one stream \
             more often; to repair: ALTER ROLE … SET default_transaction_isolation = 'read committed'"
        );
    }

    fn warn(&self) {
        if !self.fsync {
            tracing::warn!("`fsync` is off: a crash of the machine may lose or damage events");
        }
        if self.prepared_transactions > 0 {
            tracing::warn!(
                count = self.prepared_transactions,
                "prepared transactions: no reader of the feed gets past one that appended events until it ends"
            );
        }
    }
}

fn warn_of_plaintext(server: &str) {
    tracing::warn!(
        server,
        "the connection to PostgreSQL has no TLS: every machine on the way can read events and passwords; to repair: \
         `?sslmode=verify-full` in the URL, and the cargo feature `tls` of eventstore-postgres"
    );
}

struct SequenceState {
    name: String,
    is_of_positions: bool,
    cache: i64,
    increment: i64,
    cycle: bool,
    /// `None` if this role may not read it.
    drawn: Option<i64>,
    stored: i64,
}

impl SequenceState {
    fn decode(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("sequence")?,
            is_of_positions: row.try_get("is_of_positions")?,
            cache: row.try_get("cache")?,
            increment: row.try_get("increment")?,
            cycle: row.try_get("cycle")?,
            drawn: row.try_get("drawn")?,
            stored: row.try_get("stored")?,
        })
    }

    fn check(self) -> Result<(), PgPrecondition> {
        if self.is_of_positions && (self.cache, self.increment, self.cycle) != (1, 1, false) {
            return Err(PgPrecondition::SequenceSettings {
                sequence: self.name,
                cache: self.cache,
                increment: self.increment,
                cycle: self.cycle,
            });
        }
        match self.drawn {
            None => Err(PgPrecondition::SequenceHidden { sequence: self.name }),
            Some(drawn) if drawn < self.stored => {
                Err(PgPrecondition::SequenceBehind { sequence: self.name, drawn, stored: self.stored })
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ServerSettings {
        ServerSettings {
            version_number: 150_018,
            standby: false,
            read_only: false,
            synchronous_commit: "on".into(),
            encoding: "UTF8".into(),
            isolation: "read committed".into(),
            fsync: true,
            encrypted: false,
            prepared_transactions: 0,
        }
    }

    #[test]
    fn an_old_server_and_a_standby_are_refused() {
        assert_eq!(good().check(), Ok(()));
        let old = ServerSettings { version_number: 120_022, ..good() };
        let fault = old.check().unwrap_err();
        assert_eq!(fault.to_string(), "the server is version 12.22, at least 13 is needed");
        let standby = ServerSettings { standby: true, read_only: true, ..good() };
        assert_eq!(standby.check(), Err(PgPrecondition::Standby));
    }

    #[test]
    fn another_isolation_is_allowed_with_a_warning() {
        assert!(!good().has_stricter_isolation());
        let serializable = ServerSettings { isolation: "serializable".into(), ..good() };
        assert!(serializable.has_stricter_isolation());
        assert_eq!(serializable.check(), Ok(()));
    }

    #[test]
    fn a_connection_to_another_machine_without_tls_is_warned_of() {
        let warns = |server: ServerSettings, url: &str| server.is_unencrypted_remote(&url.parse().unwrap());
        for here in ["postgres://localhost/a", "postgres://[::1]/a", "postgres:///a?host=/run/postgresql"] {
            assert!(!warns(good(), here), "{here}");
        }
        assert!(warns(good(), "postgres://app:secret@db.example/orders"));
        let encrypted = ServerSettings { encrypted: true, ..good() };
        assert!(!warns(encrypted, "postgres://app:secret@db.example/orders"));
    }

    #[test]
    fn a_commit_that_waits_for_this_disk_is_enough() {
        for setting in ["on", "local", "remote_write", "remote_apply"] {
            let server = ServerSettings { synchronous_commit: setting.into(), ..good() };
            assert_eq!(server.check(), Ok(()), "{setting}");
        }
    }
}
