//! The reads of a transaction, whose replies must be the same when it commits.

use eventbus::{BoxError, port::Shadow};
use eventbus_redis_core::{error::CommandError, program::AtomicProgram};
use redis::Value;

use super::tables::key_to_read;
use crate::{RedisTransactionError, error::is_refused, inner::StoreInner, script::READ_KEY};

/// A read whose reply must be the same when the transaction commits.
#[derive(Debug)]
struct TrackedRead {
    key: String,
    /// Hash of the reply.
    fingerprint: String,
    command: String,
    args: Vec<Vec<u8>>,
}

/// Reads in their order.
#[derive(Debug, Default)]
pub(crate) struct ReadSet(Vec<TrackedRead>);

impl ReadSet {
    /// Reads from the server, and tracks the reply for the commit.
    pub(crate) async fn read(
        &mut self,
        inner: &StoreInner,
        shadow: Option<&Shadow>,
        name: &str,
        key: &str,
        args: Vec<Vec<u8>>,
    ) -> Result<Value, RedisTransactionError> {
        let stored_key = key_to_read(inner.keys(), shadow, key)?;
        self.read_stored(inner, name, stored_key, args).await
    }

    /// Reads a key, given as it is stored.
    pub(crate) async fn read_stored(
        &mut self,
        inner: &StoreInner,
        name: &str,
        key: String,
        args: Vec<Vec<u8>>,
    ) -> Result<Value, RedisTransactionError> {
        let mut script = READ_KEY.prepare_invoke();
        script.key(&key).arg(name).arg(&args);
        let (reply, fingerprint): (Value, String) =
            inner.connection().run_idempotent(&script).await.map_err(|error| match error {
                CommandError::Sent(error) if is_refused(&error) => refused_error(name, &key, error),
                error => RedisTransactionError::unavailable(error),
            })?;
        self.0.push(TrackedRead { key, fingerprint, command: name.into(), args });
        Ok(reply)
    }

    /// Adds the steps that compare the replies.
    pub(crate) fn add_checks(&self, program: &mut AtomicProgram) {
        for read in &self.0 {
            program.step("same").key(&read.key).arg(&read.fingerprint).arg(&read.command).arg_list(&read.args);
        }
    }
}

pub(crate) fn refused_error(name: &str, key: &str, error: impl Into<BoxError>) -> RedisTransactionError {
    RedisTransactionError::EffectRefused { command: name.into(), key: key.into(), source: error.into() }
}
