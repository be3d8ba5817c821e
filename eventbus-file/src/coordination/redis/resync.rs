//! Telling everybody the whole state: after Redis was away, and when a worker asks.
//!
//! Keep: one worker at a time does it, and only from the files. It takes nothing away: a counter is only raised, a claim
//! only put where there is none.

use std::sync::Arc;

use redis::{ExistenceCheck, SetExpiry, SetOptions};
use serde_json::{Map, Value, json};

use super::{Redis, millis, script, timestamp};
use crate::{
    claims::Claim,
    coordination::{Coordinate as _, about, kind},
    error::Result,
    queue::Shared,
};

/// How long is waited for the files to be looked at, at most, is the time of the lock; what is left is not told.
struct State {
    head: u64,
    claims: Vec<Claim>,
    subscribers: Vec<String>,
    events: u64,
    results: u64,
}

impl Redis {
    /// Puts Redis right and tells the others everything, unless another worker is at it.
    pub(super) async fn resync(&self, shared: &Arc<Shared>) {
        let lock = self.keys.resync_lock();
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::PX(millis(self.config.resync_lock_timeout)));
        let locked: Option<Option<String>> = self
            .ask("locking", async |redis| {
                redis::AsyncTypedCommands::set_options(redis, &lock, &self.worker, options).await
            })
            .await;
        if locked.flatten().is_none() {
            return;
        }
        let told = tokio::time::timeout(self.config.resync_lock_timeout, self.tell_state(shared)).await;
        match told {
            Ok(Ok(())) => self.metrics.resyncs.add(1),
            Ok(Err(error)) => tracing::warn!(%error, "the state was not told"),
            Err(_) => tracing::warn!("telling the state took longer than its lock lasts"),
        }
        self.ask("unlocking", async |redis| {
            script::RELEASE.key(&lock).arg(&self.worker).invoke_async::<()>(redis).await
        })
        .await;
    }

    async fn tell_state(&self, shared: &Arc<Shared>) -> Result<()> {
        let state = shared.blocking(Shared::state).await?;
        // draws none, but raises the counter to what the files tell
        self.draw(0, Some(state.head)).await;
        self.put_claims(&state.claims).await;
        let subscribers = state.subscribers.iter().map(|id| about("subscriber_id", id.as_str()));
        self.tell(kind::CREATE_SUBSCRIBER, subscribers.collect()).await;
        let claims = state.claims.iter().map(|claim| about("claim_id", claim.claim_id.as_str()));
        self.tell(kind::ADD_CLAIM, claims.collect()).await;
        self.tell(kind::STATE, vec![state.to_map()]).await;
        Ok(())
    }

    /// Puts claims where there are none.
    async fn put_claims(&self, claims: &[Claim]) {
        if claims.is_empty() {
            return;
        }
        let mut put = redis::pipe();
        for claim in claims {
            let created_at = timestamp(claim.created_at);
            let value = json!({"worker_id": claim.worker_id, "created_at": created_at, "data": claim.data});
            let key = self.keys.claim(&claim.claim_id);
            put.cmd("SET").arg(key).arg(value.to_string()).arg("NX").arg("PX").arg(millis(claim.remaining())).ignore();
        }
        self.ask("putting claims", async |redis| put.query_async::<()>(redis).await).await;
    }
}

impl State {
    fn to_map(&self) -> Map<String, Value> {
        let claims: Vec<&str> = self.claims.iter().map(|claim| claim.claim_id.as_str()).collect();
        Map::from_iter([
            ("next_event_id".to_owned(), (self.head + 1).into()),
            ("subscribers".to_owned(), self.subscribers.clone().into()),
            ("claims".to_owned(), claims.into()),
            ("events".to_owned(), self.events.into()),
            ("results".to_owned(), self.results.into()),
        ])
    }
}

impl Shared {
    fn state(&self) -> Result<State> {
        let mut claims = Vec::new();
        for id in self.claims.ids()? {
            match self.claims.newest(&id) {
                Ok(claim) => claims.extend(claim.filter(Claim::is_live)),
                Err(error) => tracing::warn!(%error, "claim passed over"),
            }
        }
        let mut subscribers: Vec<String> = self.subscriber_ids().into_iter().collect();
        for group in self.known_groups()? {
            let handlers = self.group(&group).map(|(_, progress)| progress.handlers).unwrap_or_default();
            subscribers.extend(handlers.into_iter().map(|handler| format!("{group}/{handler}")));
        }
        subscribers.sort();
        subscribers.dedup();
        Ok(State {
            head: self.log.head()?,
            claims,
            subscribers,
            events: self.log.ids_from(1)?.len() as u64,
            results: self.result_ids(0)?.len() as u64,
        })
    }
}
