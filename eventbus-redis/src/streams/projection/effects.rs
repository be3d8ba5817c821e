//! The writes of a projection's handlers.

use redis::ToSingleRedisArg;

use crate::program::{Effect, Undo, to_bytes};

/// The commands that handlers of an [`EventProjection`](super::EventProjection) write, each to one key.
///
/// The projection sends the commands after the handler has returned, and writes all of them together with the
/// checkpoint, or none. In a rebuild of the projection, a key means its copy.
///
/// There are no other commands: each writes to one key, so that a rebuild can write a copy, and the step can undo it if
/// the server refuses a later one. For that a step copies texts and lists, once each: keep lists short, with
/// [`ltrim`](Self::ltrim).
///
/// A command that the server refuses, as `hincrby` on a text, stops the projection, which then writes no command of the
/// event. Keys that begin with `projection:` are the projections' own, and refused too.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    /// Adds to a number in a field of a hash, which counts from 0.
    pub fn hincrby(&mut self, key: &str, field: &str, by: i64) {
        self.push(key, Undo::Field, "HINCRBY", vec![field.into(), to_bytes(by)]);
    }

    /// Adds to a number with a fraction in a field of a hash, which counts from 0. The server calculates: sums of many
    /// such numbers are not exact, so count money in its smallest unit.
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

    /// Sets a text, and replaces a value of any kind.
    pub fn set(&mut self, key: &str, value: impl ToSingleRedisArg) {
        self.push(key, Undo::Key, "SET", vec![to_bytes(value)]);
    }

    /// Adds to a number in a text, which counts from 0.
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

    /// Adds to the score of a member of a sorted set, which counts from 0.
    pub fn zincrby(&mut self, key: &str, member: impl ToSingleRedisArg, by: f64) {
        self.push(key, Undo::Score, "ZINCRBY", vec![to_bytes(by), to_bytes(member)]);
    }

    /// Removes a member from a sorted set.
    pub fn zrem(&mut self, key: &str, member: impl ToSingleRedisArg) {
        self.push(key, Undo::Score, "ZREM", vec![to_bytes(member)]);
    }

    /// Puts a value before the first one of a list.
    pub fn lpush(&mut self, key: &str, value: impl ToSingleRedisArg) {
        self.push(key, Undo::Key, "LPUSH", vec![to_bytes(value)]);
    }

    /// Puts a value behind the last one of a list.
    pub fn rpush(&mut self, key: &str, value: impl ToSingleRedisArg) {
        self.push(key, Undo::Key, "RPUSH", vec![to_bytes(value)]);
    }

    /// Keeps the values of a list from one place up to another, both among them: the first is 0, the last −1.
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
