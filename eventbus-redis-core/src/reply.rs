//! The replies of Redis: entries of streams, the kinds of its errors, and the commands that the bus, the store and the
//! streams have in common.

use redis::{
    Cmd, ErrorKind, FromRedisValue, ParsingError, RedisError, RedisResult, ServerErrorKind, ToRedisArgs,
    ToSingleRedisArg, Value, cmd, from_redis_value,
};

/// An entry of a stream as the server sent it; the fields are `None` if it was deleted while it was pending.
#[derive(Debug)]
pub struct Entry {
    pub id: String,
    pub fields: Option<Vec<(String, Vec<u8>)>>,
}

impl Entry {
    /// Returns the fields of the entry; `None` if it was deleted.
    pub fn field_refs(&self) -> Option<FieldRefs<'_>> {
        self.fields.as_deref().map(field_refs)
    }

    /// Returns the number of bytes of its id, names and values.
    pub fn bytes(&self) -> usize {
        let of_fields = |fields: &Vec<(String, Vec<u8>)>| {
            fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        };
        self.id.len() + self.fields.as_ref().map_or(0, of_fields)
    }
}

/// The name and the value of each field of an entry.
pub type FieldRefs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Returns the name and the value of each field.
pub fn field_refs(fields: &[(String, Vec<u8>)]) -> FieldRefs<'_> {
    fields.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect()
}

/// Returns a command with its arguments.
pub fn request(name: &str, arguments: impl ToRedisArgs) -> Cmd {
    let mut command = cmd(name);
    command.arg(arguments);
    command
}

pub fn get(key: &str) -> Cmd {
    request("GET", key)
}

pub fn set(key: &str, value: impl ToSingleRedisArg) -> Cmd {
    request("SET", (key, value))
}

pub fn cluster_info() -> Cmd {
    request("INFO", "cluster")
}

/// Returns `true` if the reply of [`cluster_info`] comes from a node of a cluster.
pub fn is_cluster_node(info: &str) -> bool {
    info.lines().any(|line| line.trim() == "cluster_enabled:1")
}

/// Returns `true` if the server refuses, and will refuse a retry too.
pub fn is_refusal(error: &RedisError) -> bool {
    let error = &first_error(error);
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGTYPE" | "NOAUTH" | "NOPERM" | "WRONGPASS"))
        || is_unauthenticated(error)
        || is_missing_right_of_script(error)
        || is_stream_closed(error)
}

/// Returns `true` if the server asks for a password that the client did not send.
pub(crate) fn asks_for_password(error: &RedisError) -> bool {
    let error = &first_error(error);
    // the client drops the code from the reply to its `SELECT`
    let is_select = error.detail().is_some_and(|detail| detail.starts_with("Authentication required"));
    error.code() == Some("NOAUTH") || is_select || is_unauthenticated(error)
}

/// Returns `true` if the command was too long for a client that sent no password: the server refuses more than ten
/// words from such a client, or long ones, before it asks for a password.
fn is_unauthenticated(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("unauthenticated multibulk length"))
        || error.detail().is_some_and(|detail| detail.contains("unauthenticated bulk length"))
}

/// Returns `true` if a script called a command that its user may not run: Redis 7.0 replies with `ERR`, later versions
/// with `NOPERM`.
fn is_missing_right_of_script(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("The user executing the script can't"))
}

/// Returns `true` if the stream accepts no more entries, because its ids have run out.
fn is_stream_closed(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("exhausted the last possible ID"))
}

/// Returns `true` if an argument is longer than the server accepts, its `proto-max-bulk-len`; the server then closes
/// the connection.
pub fn is_argument_too_long(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("Protocol error: invalid bulk length"))
}

/// Returns `true` if this server cannot serve the configuration: it lacks the database, or a different one has the key.
pub(crate) fn is_wrong_server(error: &RedisError) -> bool {
    let error = first_error(error);
    // a server that is busy with a script cannot switch the database now; the client drops the code from its reply
    let is_busy = error.detail().is_some_and(|detail| detail.starts_with("Redis is busy"));
    error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
        || (error.to_string().contains("refused to switch database") && !is_busy)
}

/// Returns `true` if the error is a reply: then the server did not execute the command.
pub fn is_not_executed(error: &RedisError) -> bool {
    error.code().is_some()
}

/// Returns `true` if an error shows that the connection is lost, or leads to a server that has become a replica. A
/// replica of a cluster answers `MOVED`; a replica that has no copy of its master yet, and serves no stale data,
/// answers `MASTERDOWN`. A server closes the connection over which an argument came that is too long.
pub fn is_connection_lost(error: &RedisError) -> bool {
    let error = first_error(error);
    let is_of_replica = matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "MOVED"));
    error.is_connection_dropped() || error.is_io_error() || is_of_replica || is_argument_too_long(&error)
}

/// Returns the error of the first refused command, if the error comes from a transaction, whose own code is
/// `EXECABORT`, or from a pipeline; otherwise the error itself.
fn first_error(error: &RedisError) -> RedisError {
    let refused = error.clone().into_server_errors();
    let first = refused.and_then(|refused| refused.first().map(|(_, first)| first.clone().into()));
    first.unwrap_or_else(|| error.clone())
}

/// Converts a value of a reply.
pub fn parse_value<T: FromRedisValue>(value: Value) -> RedisResult<T> {
    Ok(from_redis_value(value)?)
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut parts = match value {
            Value::Array(parts) => parts.into_iter(),
            _ => Vec::new().into_iter(),
        };
        let Some(id) = parts.next() else {
            return Err("an entry without an id".into());
        };
        let fields = match parts.next() {
            Some(Value::Array(flat)) => Some(parse_fields(flat)),
            Some(Value::Nil) | None => None,
            Some(_) => return Err("an entry whose fields are no list".into()),
        };
        Ok(Self { id: from_redis_value(id)?, fields })
    }
}

fn parse_fields(flat: Vec<Value>) -> Vec<(String, Vec<u8>)> {
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((parse_text(name), bytes(value)));
    }
    pairs
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    }
}

/// Parses a field's name; one that is not UTF-8 is not a field of ours.
fn parse_text(value: Value) -> String {
    String::from_utf8(bytes(value)).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
