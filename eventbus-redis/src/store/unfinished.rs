//! What groups of the in-process bus have not finished.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, Tries, UnfinishedDeliveries, UnfinishedDelivery},
};
use redis::{FromRedisValue, ScriptInvocation};
use time::OffsetDateTime;

use super::{RedisEventStore, checkpoint::position, entry};
use crate::{
    command::store as commands,
    connection::boxed,
    script::store::{END_DEAD, LOAD_DEAD, SAVE_PROGRESS},
};

/// What errors about the dead letters of all groups are called after.
static DEAD_LETTERS: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for RedisEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let ProgressUpdate { checkpoint, unfinished, finished } = update;
        let keys = self.keys();
        let mut script = SAVE_PROGRESS.prepare_invoke();
        script.key(keys.waiting(group)).key(keys.dead()).key(keys.dead_tries());
        match checkpoint {
            Some((name, position)) => script.key(keys.checkpoint(name)).arg(group.as_str()).arg(position.get()),
            None => script.key(keys.checkpoint(group)).arg(group.as_str()).arg(""),
        };
        script.arg(unfinished.len());
        for row in unfinished {
            let dead_since = row.dead_since.map(|since| entry::micros_of(since).to_string());
            script.arg(row.position.get()).arg(row.tries.to_json()).arg(dead_since.unwrap_or_default());
        }
        for position in finished {
            script.arg(position.get());
        }
        self.asked_by::<u64>(group, &script).await.map(drop)
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let key = self.keys().waiting(group);
        let rows: Vec<(String, String)> = self.asked_of(group, &commands::hash(&key)).await?;
        let waiting = |(at, tries): (String, String)| {
            let (position, tries) = (position(&key, &at)?, Tries::from_json(&tries)?);
            Ok(UnfinishedDelivery { position, tries, dead_since: None })
        };
        let rows: Result<Vec<_>, BoxError> = rows.into_iter().map(waiting).collect();
        let mut rows = rows.map_err(|error| CheckpointError::new(group, error))?;
        rows.sort_unstable_by_key(|row| row.position);
        Ok(rows)
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let key = self.keys().dead();
        let (mut cursor, mut found) = (0_u64, Vec::new());
        loop {
            let mut scan = redis::cmd("ZSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(1_000);
            let (next, members): (u64, Vec<(String, String)>) = self.asked_of(group, &scan).await?;
            for (member, _) in members {
                let (of, position) = parts(&key, &member).map_err(|error| CheckpointError::new(group, error))?;
                if of == *group && position > after {
                    found.push(position);
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        found.sort_unstable();
        found.dedup(); // a scan may return a member twice
        Ok(found)
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        let key = self.keys().dead();
        let mut script = LOAD_DEAD.prepare_invoke();
        script.key(&key).key(self.keys().dead_tries());
        match after {
            Some(after) => {
                script.arg(entry::micros_of(after.dead_since).to_string()).arg(member(&after.group, after.position))
            }
            None => script.arg("").arg(""),
        };
        script.arg(limit);
        let found: Vec<String> = self.asked_by(&DEAD_LETTERS, &script).await?;
        let (found, _) = found.as_chunks::<3>();
        let dead: Result<_, BoxError> =
            found.iter().map(|[member, since, tries]| dead(&key, member, since, tries)).collect();
        dead.map_err(|error| CheckpointError::new(&DEAD_LETTERS, error))
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let (keys, member) = (self.keys(), member(group, position));
        let mut score = redis::cmd("ZSCORE");
        score.arg(keys.dead()).arg(&member);
        let mut tries = redis::cmd("HGET");
        tries.arg(keys.dead_tries()).arg(&member);
        let since: Option<String> = self.asked_of(group, &score).await?;
        let tries: Option<String> = self.asked_of(group, &tries).await?;
        let found = since.zip(tries).map(|(since, tries)| dead(&keys.dead(), &member, &since, &tries));
        found.transpose().map_err(|error| CheckpointError::new(group, error))
    }

    async fn count_dead_deliveries(&self) -> Result<u64, CheckpointError> {
        let mut count = redis::cmd("ZCARD");
        count.arg(self.keys().dead());
        self.asked_of(&DEAD_LETTERS, &count).await
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        again: Option<&Tries>,
    ) -> Result<bool, CheckpointError> {
        let keys = self.keys();
        let mut script = END_DEAD.prepare_invoke();
        script.key(keys.waiting(group)).key(keys.dead()).key(keys.dead_tries());
        script.arg(member(group, position)).arg(position.get()).arg(again.map(Tries::to_json).unwrap_or_default());
        // once: a second one would find that the first has ended it
        let ended: Result<u64, _> = self.link().run(&script).await;
        ended.map(|ended| ended > 0).map_err(|error| CheckpointError::new(group, boxed(error)))
    }
}

impl RedisEventStore {
    pub(super) async fn asked_by<T: FromRedisValue>(
        &self,
        name: &Name,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, CheckpointError> {
        self.link().rerun(script).await.map_err(|error| CheckpointError::new(name, boxed(error)))
    }
}

fn member(group: &Name, position: Position) -> String {
    format!("{position}:{group}")
}

/// The group and position of a member.
fn parts(key: &str, member: &str) -> Result<(Name, Position), BoxError> {
    let (at, group) = member.split_once(':').ok_or_else(|| format!("key `{key}` holds what is no dead letter"))?;
    Ok((Name::new("consumer group", group)?, position(key, at)?))
}

fn dead(key: &str, member: &str, since: &str, tries: &str) -> Result<DeadDelivery, BoxError> {
    let (group, position) = parts(key, member)?;
    let micros: f64 = since.parse().map_err(|_| format!("key `{key}` holds `{member}` with no time"))?;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a score: microseconds, which a double holds exactly until 2255"
    )]
    let dead_since: OffsetDateTime = entry::time_of(micros as i128)?;
    Ok(DeadDelivery { group, position, tries: Tries::from_json(tries)?, dead_since })
}
