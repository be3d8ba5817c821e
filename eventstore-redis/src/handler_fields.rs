//! The texts in which the scripts keep the progress of handlers.

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
};

use eventbus::{
    BoxError, Name, Position,
    delivery::DeliveryAttempts,
    port::handler_progress::{AcquiredShard, DeliveryRow, ListedShard, ShardId},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::entry::{micros_of, parse_micros};

/// The fields of a handler.
pub(crate) struct HandlerFields(pub(crate) HashMap<String, String>);

impl HandlerFields {
    pub(crate) fn note(&self) -> Option<&str> {
        self.0.get("note").map(String::as_str)
    }

    /// Returns a shard; `now` is the time of the server in ms.
    pub(crate) fn shard(&self, number: u16, now: u64) -> Result<ListedShard, BoxError> {
        let field = |name: &str| self.0.get(&format!("{number}:{name}")).map_or("", String::as_str);
        let owner = match field("owner") {
            "" => None,
            _ if parse::<u64>(field("expires_at"))? <= now || parse::<u64>(field("renewed_at"))? > now => None,
            owner => Some(Name::new("owner", owner)?),
        };
        Ok(ListedShard {
            number,
            owner,
            epoch: parse(field("epoch"))?,
            checkpoint: Position::new(parse(field("checkpoint"))?),
            waiting: from_json::<Vec<Position>>(field("waiting"))?.len() as u64,
            started: from_json::<Vec<Position>>(field("started"))?.len() as u64,
            left: parse_left(field("left"))?,
        })
    }
}

/// Reads the reply for a shard that was acquired.
pub(crate) fn read_acquired(shard: &ShardId, reply: &[String]) -> Result<AcquiredShard, BoxError> {
    let [has_crashed, epoch, unclean, changes, checkpoint, waiting, started, left] = reply else {
        return Err("the reply has a wrong number of fields".into());
    };
    Ok(AcquiredShard {
        shard: shard.clone(),
        epoch: parse(epoch)?,
        has_crashed: has_crashed == "1",
        unclean: parse(unclean)?,
        changes: parse(changes)?,
        checkpoint: Position::new(parse(checkpoint)?),
        waiting: from_json(waiting)?,
        started: from_json(started)?,
        left: parse_left(left)?,
    })
}

/// Parses the types that a shard has left. Lua has no integers of 64 bits, so the positions are texts.
fn parse_left(json: &str) -> Result<BTreeMap<Name, Position>, BoxError> {
    let left: BTreeMap<Name, String> = from_json(json)?;
    left.into_iter().map(|(name, position)| Ok((name, Position::new(parse(&position)?)))).collect()
}

/// Returns a row as a text: the number of its shard, `1` if it is held, the time since when it is dead or `-`, attempts.
pub(crate) fn write_row(shard: u16, row: &DeliveryRow) -> String {
    let dead_since = row.dead_since.map_or("-".to_owned(), |since| micros_of(since).to_string());
    format!("{shard} {} {dead_since} {}", u8::from(row.is_held), row.attempts.to_json())
}

/// Reads the row of a position; returns it with the number of its shard.
pub(crate) fn read_row(position: &str, text: &str) -> Result<(u16, DeliveryRow), BoxError> {
    let mut parts = text.splitn(4, ' ');
    let mut part = || parts.next().ok_or("a row lacks a part");
    let (shard, is_held, dead_since, attempts) = (part()?, part()?, part()?, part()?);
    let dead_since = match dead_since {
        "-" => None,
        micros => Some(parse_micros(micros).ok_or("a row has no time")?),
    };
    let (position, attempts) = (Position::new(parse(position)?), DeliveryAttempts::from_json(attempts)?);
    Ok((parse(shard)?, DeliveryRow { position, attempts, dead_since, is_held: is_held == "1" }))
}

/// Texts, numbers, and lists and maps of them cannot fail.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, BoxError> {
    Ok(serde_json::from_str(text)?)
}

fn parse<T: FromStr>(text: &str) -> Result<T, BoxError> {
    text.parse().map_err(|_| format!("`{text}` is not a number").into())
}
