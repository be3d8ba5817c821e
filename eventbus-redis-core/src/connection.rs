//! Connections to the server.
//!
//! Invariant: the shared connection carries no command that blocks. A reader opens a connection of its own for that,
//! and awaits each blocking read until the server has answered or the reply is overdue: the server assigns the entries
//! of the reply to that reader.
//!
//! Connect and reply timeouts use real time, not the configured clock.

use std::time::{Duration, Instant};

use parking_lot::RwLock;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, Pipeline, RedisError,
    ScriptInvocation, aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    error::{CommandError, InvalidConfig, PasswordMissing, RedisConnectError},
    hash_tag::has_hash_tag,
    reply,
    server::{Server, ServerConfig},
    tls,
    url::asks_for_tls,
    validate::FieldMistake,
};

/// The time after which a further connect attempt starts beside those that run.
const PARALLEL_CONNECT_DELAY: Duration = Duration::from_secs(1);
/// The number of connect attempts that run at once.
const PARALLEL_CONNECTS_MAX: usize = 8;
/// The reply timeout after which the client repeats an idempotent command over a second connection, because the first
/// one may be dead.
pub const IDEMPOTENT_REPLY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The connection that all non-blocking commands share: opened on first use, reopened after a loss.
#[derive(derive_more::Debug)]
#[debug("SharedConnection({address})")]
pub struct SharedConnection {
    client: Client,
    address: String,
    /// The prefix of the keys, with the configuration field that holds it, if it has no hash tag: the keys may then be
    /// on several nodes of a cluster.
    untagged_prefix: Option<(&'static str, String)>,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// Locked for moments only, never across an await.
    state: RwLock<ConnectionState>,
    /// The last failed attempt. Its lock lets one command at a time open the shared connection again;
    /// [`connect`](SharedConnection::connect) and [`open`](SharedConnection::open) do not take it.
    last_failure: Mutex<Option<ConnectFailure>>,
    on_reconnect: Box<dyn Fn() + Send + Sync>,
}

/// The last known state of the connection.
///
/// | From | Event | To |
/// |---|---|---|
/// | none | a command | open; or none, with a failure that all callers share which waited meanwhile |
/// | none, open | `connect` | open, with a new connection |
/// | open | an error shows its loss | none |
/// | open | a late error of an earlier connection | open |
/// | none, open | `block_commands` | blocked, without a connection |
/// | blocked | a command | blocked; the command fails with the reason |
/// | blocked | `connect` | blocked, with a connection |
/// | blocked | `allow_commands` | open if there is a connection, else none |
/// | any | `close` | closed: each later command fails |
#[derive(Default)]
struct ConnectionState {
    connection: Option<MultiplexedConnection>,
    /// Counts the connections: a late error of an earlier one does not drop its successor.
    number: u64,
    is_closed: bool,
    /// The reason for refusing commands while the bus has not joined its stream.
    blocked_reason: Option<String>,
}

/// The last connect failure, which callers that waited for the lock share.
struct ConnectFailure {
    at: Instant,
    text: String,
}

impl SharedConnection {
    /// Prepares the connection; sends no command. Calls `on_reconnect` when a command opens the connection again after
    /// a loss, with the state locked: it must not use the connection.
    ///
    /// # Errors
    /// The configuration field from which no client can be built.
    pub fn new(
        config: ServerConfig<'_>,
        on_reconnect: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, InvalidConfig> {
        let ServerConfig { server, prefix: (field, prefix), .. } = config;
        Ok(Self {
            client: client(&server).map_err(|mistake| InvalidConfig::new(config.of, mistake))?,
            address: server.address(),
            untagged_prefix: (!has_hash_tag(prefix)).then(|| (field, prefix.into())),
            connect_timeout: config.connect_timeout,
            response_timeout: config.timeout,
            state: RwLock::default(),
            last_failure: Mutex::default(),
            on_reconnect: Box::new(on_reconnect),
        })
    }

    /// Drops the connection, and refuses all commands until [`allow_commands`](Self::allow_commands);
    /// [`connect`](Self::connect) still sends.
    pub fn block_commands(&self, why: &str) {
        let mut slot = self.state.write();
        (slot.connection, slot.blocked_reason) = (None, Some(why.to_owned()));
    }

    /// Allows all commands.
    pub fn allow_commands(&self) {
        self.state.write().blocked_reason = None;
    }

    /// Returns `true` if a connection is open and no error has shown it to be lost.
    pub fn is_up(&self) -> bool {
        self.state.read().connection.is_some()
    }

    /// Opens a new connection within the connect timeout. An attempt may be stuck although the server is back: each
    /// second a further attempt starts, and the first one to end decides, also with an error.
    pub async fn open(&self, response_timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        match tokio::time::timeout(self.connect_timeout, self.open_without_timeout(response_timeout)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// As [`open`](Self::open), for a caller that limits the connect time.
    async fn open_without_timeout(&self, response_timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(Some(response_timeout));
        let mut attempts = JoinSet::new();
        loop {
            if attempts.len() < PARALLEL_CONNECTS_MAX {
                let (client, config) = (self.client.clone(), config.clone());
                attempts.spawn(async move { client.get_multiplexed_async_connection_with_config(&config).await });
            }
            if let Ok(Some(ended)) = tokio::time::timeout(PARALLEL_CONNECT_DELAY, attempts.join_next()).await {
                return ended.map_err(std::io::Error::other)?;
            }
        }
    }

    /// Connects and runs a script, both within the connect timeout.
    pub async fn connect<T: FromRedisValue>(&self, first: &ScriptInvocation<'_>) -> Result<T, RedisConnectError> {
        let timeout = self.connect_timeout;
        let connecting = async {
            let failed = |error| self.connect_error(error);
            let mut connection = self.open_without_timeout(self.response_timeout).await.map_err(failed)?;
            // before the script, which may write keys
            self.check_hash_tag(&mut connection).await?;
            let reply = first.invoke_async(&mut connection).await.map_err(failed)?;
            self.state.write().replace(connection);
            Ok(reply)
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisConnectError::TimedOut { address: self.address.clone(), timeout }),
        }
    }

    fn connect_error(&self, error: RedisError) -> RedisConnectError {
        // the caller limits the connect time, so this is the timeout of a reply
        let (address, timeout) = (self.address.clone(), self.response_timeout);
        match error {
            error if error.is_timeout() => RedisConnectError::TimedOut { address, timeout },
            error if tls::is_no_tls(&error) => RedisConnectError::NoTls { address, source: error.into() },
            error if error.kind() == ErrorKind::Parse => RedisConnectError::NotRedis { address, source: error.into() },
            error if tls::is_untrusted(&error) => RedisConnectError::Untrusted { address, source: error.into() },
            error if !self.has_password() && reply::asks_for_password(&error) => {
                RedisConnectError::Refused { address, source: PasswordMissing { source: error }.into() }
            }
            error if reply::is_refusal(&error) || reply::is_wrong_server(&error) => {
                RedisConnectError::Refused { address, source: error.into() }
            }
            error => RedisConnectError::Unavailable { address, source: error.into() },
        }
    }

    fn has_password(&self) -> bool {
        self.client.get_connection_info().redis_settings().password().is_some()
    }

    /// Refuses an untagged prefix if the server is a node of a cluster, which would spread its keys over nodes.
    async fn check_hash_tag(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisConnectError> {
        let Some((field, prefix)) = self.untagged_prefix.clone() else {
            return Ok(());
        };
        match reply::cluster_info().query_async::<String>(connection).await {
            Ok(info) if reply::is_cluster_node(&info) => {
                Err(RedisConnectError::NeedsHashTag { address: self.address.clone(), field, prefix })
            }
            Err(error) if reply::is_connection_lost(&error) => Err(self.connect_error(error)),
            // the user may lack the right to `INFO`
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Sends an idempotent command; if the connection turns out to be lost, sends it once more over a new one.
    pub async fn query_idempotent<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_with_short_timeout().await?;
        match command.query_async(&mut connection).await {
            Err(error) if self.drop_if_lost(number, &error) => self.query(command).await,
            reply => Ok(reply?),
        }
    }

    /// Sends a command once.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_or_connect().await?;
        let reply = command.query_async(&mut connection).await;
        self.check_reply(number, reply)
    }

    /// Sends commands once, in one round trip.
    pub async fn query_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_or_connect().await?;
        let reply = commands.query_async(&mut connection).await;
        self.check_reply(number, reply)
    }

    /// Sends commands that only read, in one round trip; if the connection turns out to be lost, sends all of them once
    /// more over a new one.
    pub async fn query_all_idempotent<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_with_short_timeout().await?;
        match commands.query_async(&mut connection).await {
            Err(error) if self.drop_if_lost(number, &error) => self.query_all(commands).await,
            reply => Ok(reply?),
        }
    }

    /// Runs a script once; sends its text if the server does not know it.
    pub async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_or_connect().await?;
        let reply = script.invoke_async(&mut connection).await;
        self.check_reply(number, reply)
    }

    /// Runs a script that may run twice, which happens if its connection was lost.
    pub async fn run_idempotent<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_with_short_timeout().await?;
        match script.invoke_async(&mut connection).await {
            Err(error) if self.drop_if_lost(number, &error) => self.run(script).await,
            reply => Ok(reply?),
        }
    }

    /// As [`run_idempotent`](Self::run_idempotent), for a caller that must know if the script ran: if the second run
    /// fails, the outcome of the first one stays unknown. Returns the reply, and `true` if it is the reply of the
    /// second run, while the first run may still come.
    pub async fn run_idempotent_or_unknown<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<(T, bool), CommandError> {
        let (mut connection, number) = self.get_with_short_timeout().await?;
        match script.invoke_async(&mut connection).await {
            Err(error) if self.drop_if_lost(number, &error) => {
                let may_run_late = !reply::is_not_executed(&error);
                match self.run(script).await {
                    Err(_) if may_run_late => Err(CommandError::Sent(error)),
                    reply => Ok((reply?, may_run_late)),
                }
            }
            reply => Ok((reply?, false)),
        }
    }

    fn check_reply<T>(&self, number: u64, reply: Result<T, RedisError>) -> Result<T, CommandError> {
        if let Err(error) = &reply {
            self.drop_if_lost(number, error);
        }
        Ok(reply?)
    }

    /// Drops a connection that an error shows to be lost; returns `true` if the error does.
    pub fn drop_if_lost(&self, number: u64, error: &RedisError) -> bool {
        let is_lost = reply::is_connection_lost(error);
        if is_lost {
            let mut slot = self.state.write();
            if slot.number == number {
                slot.connection = None;
            }
        }
        is_lost
    }

    /// Returns the open connection, or connects. Callers that waited while connecting failed share that failure.
    async fn get_or_connect(&self) -> Result<(MultiplexedConnection, u64), CommandError> {
        if let Some(open) = self.state.read().open_connection()? {
            return Ok(open);
        }
        let called_at = Instant::now();
        let mut last_failure = self.last_failure.lock().await;
        // the task that held the lock may have connected, or failed, meanwhile
        if let Some(open) = self.state.read().open_connection()? {
            return Ok(open);
        }
        if let Some(failure) = last_failure.as_ref().filter(|failure| failure.at >= called_at) {
            return Err(CommandError::NotSent(failure.text.clone()));
        }
        match self.open(self.response_timeout).await {
            Ok(connection) => {
                let mut slot = self.state.write();
                slot.check_open()?;
                if slot.number > 0 {
                    (self.on_reconnect)();
                }
                Ok((connection.clone(), slot.replace(connection)))
            }
            Err(error) => {
                let what = if reply::is_refusal(&error) { "is refused by" } else { "cannot connect to" };
                let text = format!("{what} Redis at {}: {error}", self.address);
                *last_failure = Some(ConnectFailure { at: Instant::now(), text: text.clone() });
                Err(CommandError::NotSent(text))
            }
        }
    }

    /// Returns the connection with a short reply timeout, for idempotent commands.
    pub async fn get_with_short_timeout(&self) -> Result<(MultiplexedConnection, u64), CommandError> {
        let (mut connection, number) = self.get_or_connect().await?;
        connection.set_response_timeout(self.response_timeout.min(IDEMPOTENT_REPLY_TIMEOUT));
        Ok((connection, number))
    }

    /// Returns the host and the port of the server, or the path of its socket.
    pub fn endpoint(&self) -> (Option<&str>, Option<u16>) {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (Some(host), Some(*port)),
            ConnectionAddr::Unix(path) => (path.to_str(), None),
            _ => (None, None),
        }
    }

    /// Closes the connection and refuses to open a new one.
    pub fn close(&self) {
        let mut slot = self.state.write();
        slot.connection = None;
        slot.is_closed = true;
    }
}

impl ConnectionState {
    /// Returns the connection and its number, if it is open.
    fn open_connection(&self) -> Result<Option<(MultiplexedConnection, u64)>, CommandError> {
        self.check_open()?;
        Ok(self.connection.clone().map(|connection| (connection, self.number)))
    }

    fn check_open(&self) -> Result<(), CommandError> {
        if self.is_closed {
            return Err(CommandError::NotSent("the client was disconnected".into()));
        }
        if let Some(why) = &self.blocked_reason {
            return Err(CommandError::NotSent(why.clone()));
        }
        Ok(())
    }

    /// Stores a new connection and returns its number.
    fn replace(&mut self, connection: MultiplexedConnection) -> u64 {
        self.connection = Some(connection);
        self.number += 1;
        self.number
    }
}

/// Prepares a client; sends no command. Warns of a connection that machines in between can read.
///
/// # Errors
/// The configuration field from which no client can be built.
pub fn client(server: &Server<'_>) -> Result<Client, FieldMistake> {
    if asks_for_tls(server.url) {
        return tls::client(server);
    }
    server.warn_plaintext();
    Client::open(server.url).map_err(|_| ("redis_url", "is no Redis URL".into()))
}
