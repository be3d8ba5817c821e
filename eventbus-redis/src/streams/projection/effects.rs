//! The writes of a projection's handlers.

use redis::ToSingleRedisArg;

use crate::program::{Effect, Undo, to_bytes};

/// The commands that handlers of an [`EventProjection`](super::EventProjection) write, each to one key.
///
/// The projection sends the commands after the handler has returned, and writes all of them together with the
/// checkpoint, or none.
///
/// Only these commands exist: each writes to one key, so that a rebuild can remove that key first, and a step can undo
/// the command if the server refuses a later one. To undo commands, a step first copies each text and list once: keep lists short,
/// with [`ltrim`](Self::ltrim).
///
/// If the server refuses a command, for example `hincrby` on a text, the projection stops, and writes no command of the
/// event. Keys that begin with `projection:` belong to the projections themselves, and are refused too.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    /// Adds to a number in a field of a hash; a missing one counts as 0.
    pub fn hincrby(&mut self, key: &str, field: &str, by: i64) {
        self.push(key, Undo::Field, "HINCRBY", vec![field.into(), to_bytes(by)]);
    }

    /// Adds to a number with a fraction in a field of a hash; a missing one counts as 0. The server calculates: sums of
    /// many such numbers are not exact, so count money in its smallest unit.
    pub fn hincrbyfloat(&mut self, key: &str, field: &str, by: f64) {
        self.push(key, Undo::Field, "HINCRBYFLOAT", vec![field.into(), to_bytes(by)]);
    }

    /// Sets a field of a hash.
    pub fn hset(&mut self, key: &str, field: &str, value: impl ToSingleRedisArg) {
        self.push(key, Undo::Field, "HSET", vec![field.into(), to_bytes(value)]);
    }

    /// Removes a field of a hash.
    pub fn hdel(&mut self, key: &str, field: &str) {
        self.push(key, Undo::Field, "HDEL", vec![field.into()]);
    }

    /// Sets a key to a text, and replaces a value of any kind.
    pub fn set(&mut self, key: &str, value: impl ToSingleRedisArg) {
        self.push(key, Undo::Key, "SET", vec![to_bytes(value)]);
    }

    /// Adds to a number in a text; a missing one counts as 0.
    pub fn incrby(&mut self, key: &str, by: i64) {
        self.push(key, Undo::Key, "INCRBY", vec![to_bytes(by)]);
    }

    /// Removes a key of any kind.
    pub fn del(&mut self, key: &str) {
        self.push(key, Undo::Drop, "DEL", Vec::new());
    }

    /// Adds a member to a set.
    pub fn sadd(&mut self, key: &str, member: impl ToSingleRedisArg) {
        self.push(key, Undo::Member, "SADD", vec![to_bytes(member)]);
    }

    /// Removes a member from a set.
    pub fn srem(&mut self, key: &str, member: impl ToSingleRedisArg) {
        self.push(key, Undo::Member, "SREM", vec![to_bytes(member)]);
    }

    /// Gives a member of a sorted set its score.
    pub fn zadd(&mut self, key: &str, member: impl ToSingleRedisArg, score: f64) {
        self.push(key, Undo::Score, "ZADD", vec![to_bytes(score), to_bytes(member)]);
    }

    /// Adds to the score of a member of a sorted set; a missing one counts as 0.
    pub fn zincrby(&mut self, key: &str, member: impl ToSingleRedisArg, by: f64) {
        self.push(key, Undo::Score, "ZINCRBY", vec![to_bytes(by), to_bytes(member)]);
    }

    /// Removes a member from a sorted set.
    pub fn zrem(&mut self, key: &str, member: impl ToSingleRedisArg) {
        self.push(key, Undo::Score, "ZREM", vec![to_bytes(member)]);
    }

    /// Adds a value at the front of a list.
    pub fn lpush(&mut self, key: &str, value: impl ToSingleRedisArg) {
        self.push(key, Undo::Key, "LPUSH", vec![to_bytes(value)]);
    }

    /// Adds a value at the end of a list.
    pub fn rpush(&mut self, key: &str, value: impl ToSingleRedisArg) {
        self.push(key, Undo::Key, "RPUSH", vec![to_bytes(value)]);
    }

    /// Keeps only the values of a list from index `from` to `through`, both included: 0 is the first, −1 the last.
    pub fn ltrim(&mut self, key: &str, from: i64, through: i64) {
        self.push(key, Undo::Key, "LTRIM", vec![to_bytes(from), to_bytes(through)]);
    }

    pub(super) fn into_list(self) -> Vec<Effect> {
        self.list
    }

    fn push(&mut self, key: &str, undo: Undo, name: &str, args: Vec<Vec<u8>>) {
        self.list.push(Effect { key: key.into(), undo, command: name.into(), args });
    }
}
