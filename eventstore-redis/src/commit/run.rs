//! The commit of a transaction: one script that makes all checks, then all writes.

use eventbus_redis_core::{
    error::CommandError,
    program::{AtomicProgram, ProgramReply},
    reply,
};

use super::read_set::refused_error;
use crate::{RedisTransactionError, error::corrupt_last_entry, inner::StoreInner, script::COMMIT};

/// Runs the program of a commit, and returns the position of its last event; empty if it appends none.
pub(crate) async fn run(inner: &StoreInner, program: &AtomicProgram) -> Result<String, RedisTransactionError> {
    // never sent twice: a second run would see the first run's writes as a conflict, or repeat effects
    let reply: Result<Vec<String>, _> = inner.connection().run(&program.invocation(&COMMIT)).await;
    let reply = reply.map_err(|error| match error {
        CommandError::NotSent(text) => RedisTransactionError::Unavailable(text.into()),
        CommandError::Sent(error) if reply::is_not_executed(&error) => RedisTransactionError::Unavailable(error.into()),
        CommandError::Sent(error) => RedisTransactionError::OutcomeUnknown(error.into()),
    })?;
    match ProgramReply::parse(reply) {
        ProgramReply::Done(words) => Ok(words.into_iter().next().unwrap_or_default()),
        ProgramReply::Moved => Err(RedisTransactionError::Superseded),
        ProgramReply::TokenTaken => Err(timed_out_error(inner)),
        // never a fault of the server, such as full memory: the script returns such an error as its own reply
        ProgramReply::Refused { key, command, reason } => {
            let key = inner.keys().shown(&key);
            Err(RedisTransactionError::EffectRefused { key, command, source: reason.into() })
        }
        ProgramReply::Other(words) => Err(match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["changed", key] => RedisTransactionError::Changed { key: key.into() },
            ["damaged", key, entry] => refused_error("XADD", key, corrupt_last_entry(key, entry)),
            _ => RedisTransactionError::Superseded,
        }),
    }
}

pub(crate) fn timed_out_error(inner: &StoreInner) -> RedisTransactionError {
    RedisTransactionError::TimedOut { limit: inner.config().transaction_timeout }
}
