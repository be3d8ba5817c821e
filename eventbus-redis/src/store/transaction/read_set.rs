//! Reads of a transaction: committed values, with its own writes applied.

use redis::{FromRedisValue, ToSingleRedisArg, Value};

use super::{
    RedisTransaction,
    commit::is_command_refusal,
    tables::{check_key, parse_tables},
    write_set::{PredictedValue, parse_number},
};
use crate::{error::CommandError, reply, script::store::READ_KEY, store::RedisTransactionError};

/// A read whose reply must be the same when the transaction commits.
#[derive(Debug)]
pub(super) struct TrackedRead {
    pub(super) key: String,
    /// Hash of the reply.
    pub(super) fingerprint: String,
    pub(super) command: String,
    pub(super) args: Vec<Vec<u8>>,
}

/// Reads. They return committed values, with this transaction's own writes applied. If a concurrent writer changes one
/// before the commit, the commit fails with [`RedisTransactionError::Changed`], and a handler or projection runs again.
impl RedisTransaction {
    /// Returns the text of a key.
    ///
    /// # Errors
    /// [`RedisTransactionError::ReadAfterBlindWrite`] if this transaction wrote it by a command whose result only the
    /// server knows; [`EffectRefused`](RedisTransactionError::EffectRefused) if it is of a different kind, or not a
    /// `T`.
    pub async fn get<T: FromRedisValue>(&mut self, key: &str) -> Result<Option<T>, RedisTransactionError> {
        let known = self.write_set.predicted_value(key);
        self.read_through_write_set("GET", key, Vec::new(), known).await
    }

    /// Returns a field of a hash.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn hget<T: FromRedisValue>(
        &mut self,
        key: &str,
        field: &str,
    ) -> Result<Option<T>, RedisTransactionError> {
        let known = self.write_set.predicted_field(key, field.as_bytes());
        self.read_through_write_set("HGET", key, vec![field.into()], known).await
    }

    /// Returns the reply of a command that reads one key, right behind its name: `query("ZSCORE", "ranks", ["a"])`.
    ///
    /// # Errors
    /// [`RedisTransactionError::ReadAfterBlindWrite`] if this transaction has written the key;
    /// [`EffectRefused`](RedisTransactionError::EffectRefused) if the server refuses the command, as it does if it
    /// writes.
    pub async fn query<T: FromRedisValue, A: ToSingleRedisArg>(
        &mut self,
        name: &str,
        key: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<T, RedisTransactionError> {
        if self.write_set.contains(key) {
            return Err(RedisTransactionError::ReadAfterBlindWrite { key: key.into() });
        }
        let args = arguments.into_iter().flat_map(|argument| argument.to_redis_args()).collect();
        let reply = self.read_tracked(name, key, args).await?;
        reply::parse_value(reply).map_err(|error| refused_error(name, key, error))
    }

    async fn read_through_write_set<T: FromRedisValue>(
        &mut self,
        name: &str,
        key: &str,
        args: Vec<Vec<u8>>,
        predicted: Option<PredictedValue>,
    ) -> Result<Option<T>, RedisTransactionError> {
        let value = match predicted {
            Some(PredictedValue::Unknown) => {
                return Err(RedisTransactionError::ReadAfterBlindWrite { key: key.into() });
            }
            Some(PredictedValue::Exactly(value)) => value.map_or(Value::Nil, Value::BulkString),
            None => self.read_tracked(name, key, args).await?,
            Some(PredictedValue::CurrentPlus(by)) => {
                let before: Option<Vec<u8>> = reply::parse_value(self.read_tracked(name, key, args).await?)
                    .map_err(|error| refused_error(name, key, error))?;
                let sum = parse_number(before.as_deref()).and_then(|before| before.checked_add(by));
                let sum = sum.ok_or_else(|| RedisTransactionError::ReadAfterBlindWrite { key: key.into() })?;
                Value::BulkString(sum.to_string().into_bytes())
            }
        };
        reply::parse_value(value).map_err(|error| refused_error(name, key, error))
    }

    /// Reads from the server, and tracks the reply for the commit.
    async fn read_tracked(
        &mut self,
        name: &str,
        key: &str,
        args: Vec<Vec<u8>>,
    ) -> Result<Value, RedisTransactionError> {
        check_key(key)?;
        let keys = self.inner.keys();
        let stored_key = match &self.shadow {
            Some(shadow) if parse_tables(shadow)?.iter().any(|table| table.contains(key)) => {
                keys.shadow_copy(&shadow.name, key)
            }
            _ => keys.live_key(key),
        };
        let mut script = READ_KEY.prepare_invoke();
        script.key(&stored_key).arg(name).arg(&args);
        let (reply, fingerprint): (Value, String) =
            self.inner.connection().run_idempotent(&script).await.map_err(|error| match error {
                CommandError::Sent(error) if is_command_refusal(&error) => refused_error(name, key, error),
                error => RedisTransactionError::unavailable(error),
            })?;
        self.read_set.push(TrackedRead { key: stored_key, fingerprint, command: name.into(), args });
        Ok(reply)
    }
}

fn refused_error(name: &str, key: &str, error: impl Into<eventbus::BoxError>) -> RedisTransactionError {
    RedisTransactionError::EffectRefused { command: name.into(), key: key.into(), source: error.into() }
}
