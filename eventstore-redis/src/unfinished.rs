//! Unfinished deliveries of the in-process bus: those that wait for a retry, and the dead letters.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    delivery::DeliveryAttempts,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, UnfinishedDeliveries, UnfinishedDelivery},
};
use eventbus_redis_core::{error::boxed, reply::request};
use time::OffsetDateTime;

use crate::{
    RedisEventStore,
    checkpoint::{parse_position, query_for, run_script_for},
    commands, entry,
    script::{END_DEAD_LETTER, LOAD_DEAD_LETTERS, SAVE_PROGRESS},
};

/// Name in errors about the dead letters of all groups.
static DEAD_LETTERS_NAME: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for RedisEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let ProgressUpdate { checkpoint, unfinished, finished } = update;
        let keys = self.inner().keys();
        let mut script = SAVE_PROGRESS.prepare_invoke();
        script.key(keys.waiting(group)).key(keys.dead_letters()).key(keys.dead_letter_attempts());
        script.arg(group.as_str());
        match checkpoint {
            Some((name, position)) => {
                script.key(keys.checkpoint(name)).key(keys.reader_names()).arg(name.as_str()).arg(position.get())
            }
            None => script.arg("").arg(""),
        };
        script.arg(unfinished.len());
        for row in unfinished {
            let dead_since = row.dead_since.map(|since| entry::micros_of(since).to_string());
            script.arg(row.position.get()).arg(row.attempts.to_json()).arg(dead_since.unwrap_or_default());
        }
        for position in finished {
            script.arg(position.get());
        }
        run_script_for::<u64>(self.inner(), group, &script).await.map(drop)
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let key = self.inner().keys().waiting(group);
        let rows: Vec<(String, String)> = query_for(self.inner(), group, &commands::hash(&key)).await?;
        let waiting = |(at, attempts): (String, String)| {
            let (position, delivery_attempts) = (parse_position(&key, &at)?, DeliveryAttempts::from_json(&attempts)?);
            Ok(UnfinishedDelivery { position, attempts: delivery_attempts, dead_since: None })
        };
        let rows: Result<Vec<_>, BoxError> = rows.into_iter().map(waiting).collect();
        let mut rows = rows.map_err(|error| CheckpointError::new(group, error))?;
        rows.sort_unstable_by_key(|row| row.position);
        Ok(rows)
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let key = self.inner().keys().dead_letters();
        let (mut cursor, mut found) = (0_u64, Vec::new());
        loop {
            let scan = request("ZSCAN", (&key, cursor, "COUNT", 1_000));
            let (next, members): (u64, Vec<(String, String)>) = query_for(self.inner(), group, &scan).await?;
            for (member, _) in members {
                let (of, position) = parse_member(&key, &member).map_err(|error| CheckpointError::new(group, error))?;
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
        let key = self.inner().keys().dead_letters();
        let mut script = LOAD_DEAD_LETTERS.prepare_invoke();
        script.key(&key).key(self.inner().keys().dead_letter_attempts());
        match after {
            Some(after) => script
                .arg(entry::micros_of(after.dead_since).to_string())
                .arg(dead_letter_member(&after.group, after.position)),
            None => script.arg("").arg(""),
        };
        script.arg(limit);
        let found: Vec<String> = run_script_for(self.inner(), &DEAD_LETTERS_NAME, &script).await?;
        let (found, _) = found.as_chunks::<3>();
        let dead: Result<_, BoxError> =
            found.iter().map(|[member, since, attempts]| parse_dead_delivery(&key, member, since, attempts)).collect();
        dead.map_err(|error| CheckpointError::new(&DEAD_LETTERS_NAME, error))
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let (keys, member) = (self.inner().keys(), dead_letter_member(group, position));
        let score = request("ZSCORE", (keys.dead_letters(), &member));
        let attempts = request("HGET", (keys.dead_letter_attempts(), &member));
        let since: Option<String> = query_for(self.inner(), group, &score).await?;
        let delivery_attempts: Option<String> = query_for(self.inner(), group, &attempts).await?;
        let found = since
            .zip(delivery_attempts)
            .map(|(since, json)| parse_dead_delivery(&keys.dead_letters(), &member, &since, &json));
        found.transpose().map_err(|error| CheckpointError::new(group, error))
    }

    async fn count_dead_deliveries(&self, at_most: u64) -> Result<u64, CheckpointError> {
        let count = request("ZCARD", self.inner().keys().dead_letters());
        query_for(self.inner(), &DEAD_LETTERS_NAME, &count).await.map(|count: u64| count.min(at_most))
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        again: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        let keys = self.inner().keys();
        let mut script = END_DEAD_LETTER.prepare_invoke();
        script.key(keys.waiting(group)).key(keys.dead_letters()).key(keys.dead_letter_attempts());
        let attempts = again.map(DeliveryAttempts::to_json).unwrap_or_default();
        script.arg((dead_letter_member(group, position), position.get(), attempts));
        // never sent twice: a second run would find that the first run has ended it
        let ended: Result<u64, _> = self.inner().connection().run(&script).await;
        ended.map(|ended| ended > 0).map_err(|error| CheckpointError::new(group, boxed(error)))
    }
}

fn dead_letter_member(group: &Name, position: Position) -> String {
    format!("{position}:{group}")
}

/// Parses the group and position of a member.
fn parse_member(key: &str, member: &str) -> Result<(Name, Position), BoxError> {
    let (at, group) =
        member.split_once(':').ok_or_else(|| format!("key `{key}` holds a member that is not a dead letter"))?;
    Ok((Name::new("consumer group", group)?, parse_position(key, at)?))
}

fn parse_dead_delivery(key: &str, member: &str, since: &str, attempts: &str) -> Result<DeadDelivery, BoxError> {
    let (group, position) = parse_member(key, member)?;
    let micros: f64 = since.parse().map_err(|_| format!("key `{key}` holds `{member}` without a time"))?;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a score: microseconds, which a double holds exactly until 2255"
    )]
    let dead_since: OffsetDateTime = entry::time_of(micros as i128)?;
    Ok(DeadDelivery { group, position, attempts: DeliveryAttempts::from_json(attempts)?, dead_since })
}
