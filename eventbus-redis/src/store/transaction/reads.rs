//! What a transaction reads: what is committed, with what it has itself written since.

use redis::{FromRedisValue, ToSingleRedisArg, Value};

use super::{
    RedisTransaction, RedisTransactionError,
    commit::is_about_the_command,
    tables::{check_key, tables},
    written::{Known, number},
};
use crate::{command, connection::CommandError, script::store::LOOK_UP};

/// Something that was read, and has to be the same when the transaction commits.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) key: String,
    /// What tells the reply from others.
    pub(super) seen: String,
    pub(super) name: String,
    pub(super) args: Vec<Vec<u8>>,
}

/// What is read is what is committed, and what this transaction has written since. If somebody else changes it before
/// the commit, that fails with [`RedisTransactionError::Changed`], and a handler or projection begins anew.
impl RedisTransaction {
    /// The text of a key.
    ///
    /// # Errors
    /// [`RedisTransactionError::WrittenHere`] if this transaction wrote it by a command whose outcome only the server
    /// knows; [`EffectRefused`](RedisTransactionError::EffectRefused) if it is of another kind, or not what is asked for.
    pub async fn get<T: FromRedisValue>(&mut self, key: &str) -> Result<Option<T>, RedisTransactionError> {
        let known = self.written.whole(key);
        self.read_known("GET", key, Vec::new(), known).await
    }

    /// A field of a hash.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn hget<T: FromRedisValue>(
        &mut self,
        key: &str,
        field: &str,
    ) -> Result<Option<T>, RedisTransactionError> {
        let known = self.written.field(key, field.as_bytes());
        self.read_known("HGET", key, vec![field.into()], known).await
    }

    /// What a command replies that reads one key, which stands right behind its name: `query("ZSCORE", "ranks", ["a"])`.
    ///
    /// # Errors
    /// [`RedisTransactionError::WrittenHere`] if this transaction has written the key;
    /// [`EffectRefused`](RedisTransactionError::EffectRefused) if the server refuses, as it does for what writes.
    pub async fn query<T: FromRedisValue, A: ToSingleRedisArg>(
        &mut self,
        name: &str,
        key: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<T, RedisTransactionError> {
        if self.written.is_touched(key) {
            return Err(RedisTransactionError::WrittenHere { key: key.into() });
        }
        let args = arguments.into_iter().flat_map(|argument| argument.to_redis_args()).collect();
        let reply = self.look_up(name, key, args).await?;
        command::read(reply).map_err(|error| refused(name, key, error))
    }

    async fn read_known<T: FromRedisValue>(
        &mut self,
        name: &str,
        key: &str,
        args: Vec<Vec<u8>>,
        known: Option<Known>,
    ) -> Result<Option<T>, RedisTransactionError> {
        let value = match known {
            Some(Known::Unclear) => return Err(RedisTransactionError::WrittenHere { key: key.into() }),
            Some(Known::Is(value)) => value.map_or(Value::Nil, Value::BulkString),
            None => self.look_up(name, key, args).await?,
            Some(Known::Plus(by)) => {
                let before: Option<Vec<u8>> =
                    command::read(self.look_up(name, key, args).await?).map_err(|error| refused(name, key, error))?;
                let sum = number(before.as_deref()).and_then(|before| before.checked_add(by));
                let sum = sum.ok_or_else(|| RedisTransactionError::WrittenHere { key: key.into() })?;
                Value::BulkString(sum.to_string().into_bytes())
            }
        };
        command::read(value).map_err(|error| refused(name, key, error))
    }

    /// Asks the server, and remembers what it said.
    async fn look_up(&mut self, name: &str, key: &str, args: Vec<Vec<u8>>) -> Result<Value, RedisTransactionError> {
        check_key(key)?;
        let keys = self.store.keys();
        let place = match &self.shadow {
            Some(shadow) if tables(shadow)?.iter().any(|table| table.contains(key)) => keys.copy(&shadow.name, key),
            _ => keys.live(key),
        };
        let mut script = LOOK_UP.prepare_invoke();
        script.key(&place).arg(name).arg(&args);
        let (reply, seen): (Value, String) = self.store.link().rerun(&script).await.map_err(|error| match error {
            CommandError::Sent(error) if is_about_the_command(&error) => refused(name, key, error),
            error => RedisTransactionError::unavailable(error),
        })?;
        self.reads.push(Read { key: place, seen, name: name.into(), args });
        Ok(reply)
    }
}

fn refused(name: &str, key: &str, error: impl Into<eventbus::BoxError>) -> RedisTransactionError {
    RedisTransactionError::EffectRefused { command: name.into(), key: key.into(), source: error.into() }
}
