//! The commit of a transaction: one script that makes all checks, then all writes.

use super::Program;
use crate::{
    error::CommandError,
    reply,
    store::{RedisTransactionError, error::corrupt_last_entry, fault, inner::StoreInner},
};

/// Runs the program of a commit, and returns the position of its last event; empty if it appends none.
pub(in crate::store) async fn run(inner: &StoreInner, program: &Program) -> Result<String, RedisTransactionError> {
    // never sent twice: a second run would take the writes of the first for a conflict, or repeat effects
    let reply: Result<Vec<String>, _> = inner.connection().run(&program.script()).await;
    let reply = reply.map_err(|error| match error {
        CommandError::NotSent(text) => RedisTransactionError::Unavailable(text.into()),
        CommandError::Sent(error) if reply::is_not_executed(&error) => RedisTransactionError::Unavailable(error.into()),
        CommandError::Sent(error) => RedisTransactionError::OutcomeUnknown(error.into()),
    })?;
    let mut reply = reply.into_iter();
    let outcome = reply.next().unwrap_or_default();
    let mut next = || reply.next().unwrap_or_default();
    match outcome.as_str() {
        "ok" => Ok(next()),
        "changed" => Err(RedisTransactionError::Changed { key: next() }),
        "late" => Err(timed_out_error(inner)),
        "damaged" => {
            let (key, entry) = (next(), next());
            let source = corrupt_last_entry(&key, &entry).into();
            Err(RedisTransactionError::EffectRefused { key, command: "XADD".into(), source })
        }
        "failed" => {
            let (key, command, source) = (next(), next(), next());
            Err(match fault::fault_of_text(&source) {
                // a fault of the server, as full memory: a later run can succeed
                Some(_) => RedisTransactionError::Unavailable(source.into()),
                None => RedisTransactionError::EffectRefused { key, command, source: source.into() },
            })
        }
        _ => Err(RedisTransactionError::Superseded),
    }
}

pub(in crate::store) fn timed_out_error(inner: &StoreInner) -> RedisTransactionError {
    RedisTransactionError::TimedOut { limit: inner.config().transaction_timeout }
}
