//! Connections to the server.
//!
//! Keep: a connection on which somebody waits for entries serves nobody else, and a read that waits is never dropped:
//! the server would hand the next entry to nobody.
//!
//! Real time, not the given clock: connecting, and the replies of Redis.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use eventbus::{BoxError, port::BusCounters};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ScriptInvocation,
    aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, task::JoinSet};

use crate::{ConfigMistake, RedisConnectError, command, keys, server::Server, tls};

/// When another connection is tried beside one that is being made.
const PARALLEL_CONNECT_DELAY: Duration = Duration::from_secs(1);
/// How many are tried at once.
const PARALLEL_CONNECTS_MAX: usize = 8;
/// When what may be sent twice is sent again over another connection, as the first may be dead.
pub(crate) const IDEMPOTENT_REPLY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The shared connection for everything that does not wait, made when it is needed and made anew when it was lost.
pub(crate) struct SharedConnection {
    client: Client,
    address: String,
    /// The prefix of the keys, if it has no hash tag: then they may be on several nodes of a cluster.
    untagged_prefix: Option<UntaggedPrefix>,
    connect_timeout: Duration,
    response_timeout: Duration,
    state: RwLock<ConnectionState>,
    /// Held by the one who connects.
    last_failure: Mutex<Option<ConnectFailure>>,
    counters: Arc<BusCounters>,
}

/// A prefix without a hash tag, and the field that says it.
#[derive(Debug, Clone)]
struct UntaggedPrefix {
    field: &'static str,
    prefix: String,
}

/// The connection, as it is known now.
#[derive(Default)]
struct ConnectionState {
    connection: Option<MultiplexedConnection>,
    /// Counts the connections, so that a loss is noticed once.
    number: u64,
    is_closed: bool,
    /// Why nothing is to be sent yet, of a bus that has not joined its stream.
    blocked_reason: Option<String>,
}

/// Why connecting failed, for those who waited meanwhile.
struct ConnectFailure {
    at: Instant,
    text: String,
}

/// Why a command has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CommandError {
    /// There is no connection; nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// It was, or may have been, sent.
    #[error(transparent)]
    Sent(#[from] RedisError),
}

impl SharedConnection {
    /// Prepares the connection; nothing is sent yet.
    ///
    /// # Errors
    /// The field of the configuration that makes no client.
    pub(crate) fn new(server: Server<'_>, counters: Arc<BusCounters>) -> Result<Self, ConfigMistake> {
        server.warn_plaintext();
        let (field, prefix) = server.prefix;
        let untagged = (!keys::has_hash_tag(prefix)).then(|| UntaggedPrefix { field, prefix: prefix.into() });
        Ok(Self {
            client: server.client()?,
            address: server.address(),
            untagged_prefix: untagged,
            connect_timeout: server.connect_timeout,
            response_timeout: server.timeout,
            state: RwLock::default(),
            last_failure: Mutex::default(),
            counters,
        })
    }

    /// Lets nothing but [`connect`](Self::connect) be sent.
    pub(crate) fn block_commands(&self, why: &str) {
        let mut slot = self.state_mut();
        (slot.connection, slot.blocked_reason) = (None, Some(why.to_owned()));
    }

    /// Lets everything be sent.
    pub(crate) fn allow_commands(&self) {
        self.state_mut().blocked_reason = None;
    }

    /// Whether the last that was heard of the connection is good.
    pub(crate) fn is_up(&self) -> bool {
        self.state().connection.is_some()
    }

    /// Makes a connection of the caller's own, whose replies may take `response_timeout`. One that takes long to make
    /// may lead nowhere although the server is back: then others are tried beside it.
    pub(crate) async fn open_dedicated(&self, response_timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        match tokio::time::timeout(self.connect_timeout, self.open_without_timeout(response_timeout)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// The same, for a caller that limits the time for connecting.
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

    /// Connects, and runs a script, within the time for connecting.
    pub(crate) async fn connect<T: FromRedisValue>(
        &self,
        first: &ScriptInvocation<'_>,
    ) -> Result<T, RedisConnectError> {
        let address = self.address.clone();
        let timeout = self.connect_timeout;
        let connecting = async {
            let mut connection = self.open_without_timeout(self.response_timeout).await?;
            let spread = self.untagged_prefix_on_cluster(&mut connection).await?;
            if let Some(spread) = spread {
                return Ok((connection, Err(spread)));
            }
            let reply = first.invoke_async(&mut connection).await?;
            Ok::<_, RedisError>((connection, Ok(reply)))
        };
        let connected = match tokio::time::timeout(timeout, connecting).await {
            Ok(connected) => connected,
            Err(_) => return Err(RedisConnectError::TimedOut { address, timeout }),
        };
        match connected {
            Ok((_, Err(UntaggedPrefix { field, prefix }))) => {
                Err(RedisConnectError::NeedsHashTag { address, field, prefix })
            }
            Ok((connection, Ok(reply))) => {
                self.state_mut().replace(connection);
                Ok(reply)
            }
            Err(error) => Err(self.connect_error(error)),
        }
    }

    /// Why nothing was made, though there was a connection.
    pub(crate) fn setup_error(&self, error: CommandError) -> RedisConnectError {
        match error {
            CommandError::Sent(error) => self.connect_error(error),
            CommandError::NotSent(text) => {
                RedisConnectError::Unavailable { address: self.address.clone(), source: text.into() }
            }
        }
    }

    fn connect_error(&self, error: RedisError) -> RedisConnectError {
        // the time for connecting is limited by the caller, so it was an answer that did not come
        let (address, timeout) = (self.address.clone(), self.response_timeout);
        match error {
            error if error.is_timeout() => RedisConnectError::TimedOut { address, timeout },
            error if tls::is_no_tls(&error) => RedisConnectError::NoTls { address, source: error.into() },
            error if error.kind() == ErrorKind::Parse => RedisConnectError::NotRedis { address, source: error.into() },
            error if tls::is_untrusted(&error) => RedisConnectError::Untrusted { address, source: error.into() },
            error if command::is_refusal(&error) || command::is_wrong_server(&error) => {
                RedisConnectError::Refused { address, source: error.into() }
            }
            error => RedisConnectError::Unavailable { address, source: error.into() },
        }
    }

    /// The prefix of the keys, if the server is a node of a cluster and would have them on several nodes.
    async fn untagged_prefix_on_cluster(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<UntaggedPrefix>, RedisError> {
        let Some(prefix) = &self.untagged_prefix else {
            return Ok(None);
        };
        match command::cluster_info().query_async::<String>(connection).await {
            Ok(info) => Ok(Some(prefix.clone()).filter(|_| command::is_cluster_node(&info))),
            Err(error) if is_connection_lost(&error) => Err(error),
            // not everybody may ask
            Err(_) => Ok(None),
        }
    }

    /// Sends a command that may be sent twice; on a connection that turns out to be lost it is.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_with_short_timeout().await?;
        match command.query_async(&mut connection).await {
            Err(error) if self.drop_if_lost(number, &error) => self.query_once(command).await,
            reply => Ok(reply?),
        }
    }

    /// Sends a command once.
    pub(crate) async fn query_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_or_connect().await?;
        let reply = command.query_async(&mut connection).await;
        self.check_reply(number, reply)
    }

    /// Sends commands once, in one round trip.
    pub(crate) async fn query_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, CommandError> {
        let (mut connection, number) = self.get_or_connect().await?;
        let reply = commands.query_async(&mut connection).await;
        self.check_reply(number, reply)
    }

    pub(crate) fn check_reply<T>(&self, number: u64, reply: Result<T, RedisError>) -> Result<T, CommandError> {
        if let Err(error) = &reply {
            self.drop_if_lost(number, error);
        }
        Ok(reply?)
    }

    /// Forgets a connection that an error has shown to be lost, and says whether it did.
    pub(crate) fn drop_if_lost(&self, number: u64, error: &RedisError) -> bool {
        let is_lost = is_connection_lost(error);
        if is_lost {
            let mut slot = self.state_mut();
            if slot.number == number {
                slot.connection = None;
            }
        }
        is_lost
    }

    /// The connection, made now if there is none. Those who waited while it failed share the failure.
    pub(crate) async fn get_or_connect(&self) -> Result<(MultiplexedConnection, u64), CommandError> {
        if let Some(open) = self.state().open_connection()? {
            return Ok(open);
        }
        let asked = Instant::now();
        let mut last_failure = self.last_failure.lock().await;
        if let Some(open) = self.state().open_connection()? {
            return Ok(open);
        }
        if let Some(failure) = last_failure.as_ref().filter(|failure| failure.at >= asked) {
            return Err(CommandError::NotSent(failure.text.clone()));
        }
        match self.open_dedicated(self.response_timeout).await {
            Ok(connection) => {
                let mut slot = self.state_mut();
                slot.check_open()?;
                self.counters.reconnections(u64::from(slot.number > 0));
                Ok((connection.clone(), slot.replace(connection)))
            }
            Err(error) => {
                let what = if command::is_refusal(&error) { "is refused by" } else { "cannot connect to" };
                let text = format!("{what} Redis at {}: {error}", self.address);
                *last_failure = Some(ConnectFailure { at: Instant::now(), text: text.clone() });
                Err(CommandError::NotSent(text))
            }
        }
    }

    /// The connection, which is taken for lost soon when there is no reply.
    pub(crate) async fn get_with_short_timeout(&self) -> Result<(MultiplexedConnection, u64), CommandError> {
        let (mut connection, number) = self.get_or_connect().await?;
        connection.set_response_timeout(self.response_timeout.min(IDEMPOTENT_REPLY_TIMEOUT));
        Ok((connection, number))
    }

    /// The host, or the path of the socket, of the server.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn host(&self) -> Option<&str> {
        match self.client.get_connection_info().addr() {
            redis::ConnectionAddr::Tcp(host, _) | redis::ConnectionAddr::TcpTls { host, .. } => Some(host),
            redis::ConnectionAddr::Unix(path) => path.to_str(),
            _ => None,
        }
    }

    /// The port of the server; a socket has none.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn port(&self) -> Option<u16> {
        match self.client.get_connection_info().addr() {
            redis::ConnectionAddr::Tcp(_, port) | redis::ConnectionAddr::TcpTls { port, .. } => Some(*port),
            _ => None,
        }
    }

    /// Lets the connection go, and makes no other.
    pub(crate) fn close(&self) {
        let mut slot = self.state_mut();
        slot.connection = None;
        slot.is_closed = true;
    }

    fn state(&self) -> RwLockReadGuard<'_, ConnectionState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, ConnectionState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    /// The connection and its number, if there is one.
    fn open_connection(&self) -> Result<Option<(MultiplexedConnection, u64)>, CommandError> {
        self.check_open()?;
        Ok(self.connection.clone().map(|connection| (connection, self.number)))
    }

    fn check_open(&self) -> Result<(), CommandError> {
        if self.is_closed {
            return Err(CommandError::NotSent("it was disconnected".into()));
        }
        if let Some(why) = &self.blocked_reason {
            return Err(CommandError::NotSent(why.clone()));
        }
        Ok(())
    }

    /// Takes a new connection, and returns its number.
    fn replace(&mut self, connection: MultiplexedConnection) -> u64 {
        self.connection = Some(connection);
        self.number += 1;
        self.number
    }
}

/// Whether an error shows that a connection is lost, or leads to a server that is a replica now.
pub(crate) fn is_connection_lost(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.is_io_error() || error.code() == Some("READONLY")
}

/// What a command error is to users of the bus.
pub(crate) fn boxed(error: CommandError) -> BoxError {
    match error {
        CommandError::NotSent(text) => text.into(),
        CommandError::Sent(error) => error.into(),
    }
}
