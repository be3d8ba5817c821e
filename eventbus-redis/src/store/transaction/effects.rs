//! What handlers and projections write: effects, which the commit makes all at once.

use redis::ToSingleRedisArg;

use super::{
    RedisTransaction, RedisTransactionError,
    tables::{check_key, tables},
    written::Known,
};

/// The most arguments of one command: a script can pass on no more than some thousand.
const MOST_ARGUMENTS: usize = 1_000;

/// A command that the commit sends.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    /// As the server knows it.
    pub(crate) key: String,
    /// As the transaction calls it.
    pub(crate) named: String,
    pub(crate) undo: Undo,
    pub(crate) name: String,
    /// What follows the key.
    pub(crate) args: Vec<Vec<u8>>,
    /// Whether it was named by the user, so that the server is to be asked about it.
    pub(crate) is_general: bool,
}

/// What an effect may change, and so what is remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// The field of a hash that its first argument names.
    Field,
    /// The member of a set that its first argument is.
    Member,
    /// The score of the member that its last argument is.
    Score,
    /// Anything in the key.
    Key,
    /// The key, which is gone afterwards.
    Drop,
}

impl Undo {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Field => "field",
            Self::Member => "member",
            Self::Score => "score",
            Self::Key => "key",
            Self::Drop => "drop",
        }
    }

    pub(crate) const fn puts_aside(self) -> bool {
        matches!(self, Self::Key | Self::Drop)
    }
}

pub(crate) fn bytes(argument: impl ToSingleRedisArg) -> Vec<u8> {
    argument.to_redis_args().into_iter().next().unwrap_or_default()
}

/// What is written. Nothing is sent before the commit, so a command that the server refuses, as `HINCRBY` on a text, is
/// known only then; nothing is committed in that case.
///
/// Each of these fails at once only if the key cannot be one here: it is empty, the store's own, or, in a rebuild, in
/// none of the projection's `tables(..)`.
impl RedisTransaction {
    /// Adds to a number in a field of a hash, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hincrby(&mut self, key: &str, field: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.effect(key, Undo::Field, "HINCRBY", vec![field.into(), bytes(by)])?;
        self.written.add_to_field(key, field.as_bytes(), by);
        Ok(())
    }

    /// Adds to a number with a fraction in a field of a hash, which counts from 0. The server calculates: sums of many
    /// such numbers are not exact, so count money in its smallest unit.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hincrbyfloat(&mut self, key: &str, field: &str, by: f64) -> Result<(), RedisTransactionError> {
        self.effect(key, Undo::Field, "HINCRBYFLOAT", vec![field.into(), bytes(by)])?;
        self.written.set_field(key, field.as_bytes(), Known::Unclear);
        Ok(())
    }

    /// Sets a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hset(&mut self, key: &str, field: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = bytes(value);
        self.effect(key, Undo::Field, "HSET", vec![field.into(), value.clone()])?;
        self.written.set_field(key, field.as_bytes(), Known::Is(Some(value)));
        Ok(())
    }

    /// Removes a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn hdel(&mut self, key: &str, field: &str) -> Result<(), RedisTransactionError> {
        self.effect(key, Undo::Field, "HDEL", vec![field.into()])?;
        self.written.set_field(key, field.as_bytes(), Known::Is(None));
        Ok(())
    }

    /// Sets a text, whatever the key held.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn set(&mut self, key: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = bytes(value);
        self.effect(key, Undo::Key, "SET", vec![value.clone()])?;
        self.written.set(key, Known::Is(Some(value)));
        Ok(())
    }

    /// Adds to a number in a text, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn incrby(&mut self, key: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.effect(key, Undo::Key, "INCRBY", vec![bytes(by)])?;
        self.written.add(key, by);
        Ok(())
    }

    /// Removes a key of any kind.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn del(&mut self, key: &str) -> Result<(), RedisTransactionError> {
        self.effect(key, Undo::Drop, "DEL", Vec::new())?;
        self.written.set(key, Known::Is(None));
        Ok(())
    }

    /// Adds a member to a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn sadd(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.unclear(key, Undo::Member, "SADD", vec![bytes(member)])
    }

    /// Removes a member from a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn srem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.unclear(key, Undo::Member, "SREM", vec![bytes(member)])
    }

    /// Gives a member of a sorted set its score.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn zadd(&mut self, key: &str, member: impl ToSingleRedisArg, score: f64) -> Result<(), RedisTransactionError> {
        self.unclear(key, Undo::Score, "ZADD", vec![bytes(score), bytes(member)])
    }

    /// Adds to the score of a member of a sorted set, which counts from 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn zincrby(&mut self, key: &str, member: impl ToSingleRedisArg, by: f64) -> Result<(), RedisTransactionError> {
        self.unclear(key, Undo::Score, "ZINCRBY", vec![bytes(by), bytes(member)])
    }

    /// Removes a member from a sorted set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here.
    pub fn zrem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.unclear(key, Undo::Score, "ZREM", vec![bytes(member)])
    }

    /// Any other command that writes to one key, which stands right behind its name: `command("RPUSH", "log", ["a"])`.
    ///
    /// So that it can be undone, the commit copies the key first, which takes as long as the key is large: it is for
    /// small ones. The commit fails with [`RedisTransactionError::InvalidCommand`] for one that is not of that form.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key cannot be one here, or there are more than 1,000 arguments.
    pub fn command<A: ToSingleRedisArg>(
        &mut self,
        name: &str,
        key: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<(), RedisTransactionError> {
        let name = name.to_ascii_uppercase();
        let args: Vec<_> = arguments.into_iter().map(bytes).collect();
        if args.len() > MOST_ARGUMENTS {
            let reason = "it has more than 1,000 arguments";
            return Err(RedisTransactionError::InvalidCommand { command: name, reason });
        }
        self.unclear(key, Undo::Key, &name, args)?;
        if let Some(effect) = self.effects.last_mut() {
            effect.is_general = true;
        }
        Ok(())
    }

    fn unclear(&mut self, key: &str, undo: Undo, name: &str, args: Vec<Vec<u8>>) -> Result<(), RedisTransactionError> {
        self.effect(key, undo, name, args)?;
        self.written.set(key, Known::Unclear);
        Ok(())
    }

    fn effect(&mut self, key: &str, undo: Undo, name: &str, args: Vec<Vec<u8>>) -> Result<(), RedisTransactionError> {
        check_key(key)?;
        let place = match &self.shadow {
            None => self.store.keys().live(key),
            Some(shadow) if tables(shadow)?.iter().any(|table| table.contains(key)) => {
                self.store.keys().copy(&shadow.name, key)
            }
            Some(shadow) => {
                let (key, shadow) = (key.to_owned(), shadow.name.to_string());
                return Err(RedisTransactionError::NotInTables { key, shadow });
            }
        };
        self.effects.push(Effect { key: place, named: key.into(), undo, name: name.into(), args, is_general: false });
        Ok(())
    }
}
