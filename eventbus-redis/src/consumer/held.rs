//! What a group's stream holds back: aggregates of which earlier events wait in the backlog of the group.
//!
//! A group reads its stream as soon as all that its backlog still has was tried and failed, or is parked behind such.
//! What the stream has of those aggregates follows when the backlog has no more of them.
//!
//! Keep: the consumer knows what is pending on it in the backlog before it takes in anything of the stream. With partitions
//! it asks for what is pending on the owner of the backlog, so that the order holds also where another process owns the
//! partition of the aggregate. Without partitions consumers do not wait for each other, here as in the stream.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use eventbus::{StreamId, port::StopSignal};
use redis::ScriptInvocation;

use super::{Consumer, OWNER, read::FIRST};
use crate::{command, connection::CommandError, entry_id::EntryId, keys, script};

/// How often is looked whether something of it is done.
const LOOK: Duration = Duration::from_millis(250);

/// The last entry in the backlog of each aggregate that is held back.
#[derive(Debug, Default)]
pub(super) struct Held {
    streams: BTreeMap<EntryId, StreamId>,
    last: HashMap<StreamId, EntryId>,
}

impl Held {
    /// Notes an entry. Returns `true` if it is the first of its aggregate.
    fn add(&mut self, id: EntryId, stream: StreamId) -> bool {
        match self.last.get(&stream) {
            Some(last) if *last >= id => return false,
            Some(last) => drop(self.streams.remove(last)),
            None => {}
        }
        self.streams.insert(id, stream.clone());
        self.last.insert(stream, id).is_none()
    }

    fn remove(&mut self, id: EntryId) -> Option<StreamId> {
        let stream = self.streams.remove(&id)?;
        self.last.remove(&stream);
        Some(stream)
    }

    /// Some of the entries, those after an id.
    fn after(&self, id: EntryId) -> Vec<EntryId> {
        self.streams.keys().copied().filter(|other| *other > id).take(command::TOGETHER).collect()
    }
}

impl Consumer {
    /// Holds the aggregates back that wait in the group's backlog.
    pub(super) async fn hold_back(&self) -> Result<(), CommandError> {
        if self.shared.is_backlog() {
            return Ok(());
        }
        let mut from = FIRST.to_owned();
        while !from.is_empty() {
            let mut list = self.asking_backlog(script::WAITING_IN_BACKLOG.prepare_invoke());
            list.arg(&from).arg(command::TOGETHER);
            let mut reply: Vec<redis::Value> = self.shared.link.rerun(&list).await?;
            let entries = reply.split_off(1.min(reply.len()));
            from = reply
                .pop()
                .map(redis::from_redis_value)
                .transpose()
                .map_err(redis::RedisError::from)?
                .unwrap_or_default();
            for entry in entries {
                let (id, aggregate_type, aggregate_id): (String, String, String) =
                    redis::from_redis_value(entry).map_err(redis::RedisError::from)?;
                // what is no event has no aggregate
                if let (Ok(id), Ok(stream)) = (id.parse(), StreamId::parse(&aggregate_type, &aggregate_id))
                    && self.held().add(id, stream.clone())
                {
                    self.hand.hold_back([&stream]);
                }
            }
        }
        Ok(())
    }

    /// Lets aggregates go on as soon as the backlog has no more of them, until it is to stop.
    pub(super) async fn release(&self, stop: &StopSignal) {
        let mut after = EntryId::ZERO;
        while !stop.is_stopped() {
            tokio::select! {
                () = self.shared.config.clock.sleep(LOOK) => {}
                () = stop.stopped() => return,
            }
            if let Err(error) = self.release_some(&mut after).await {
                tracing::debug!(group = %self.group, %error, "what waits behind the backlog is looked at later");
            }
        }
    }

    async fn release_some(&self, after: &mut EntryId) -> Result<(), CommandError> {
        let ids = self.held().after(*after);
        *after = if ids.len() < command::TOGETHER { EntryId::ZERO } else { ids.last().copied().unwrap_or_default() };
        if ids.is_empty() {
            return Ok(());
        }
        let mut ask = self.asking_backlog(script::PAST_BACKLOG.prepare_invoke());
        for id in &ids {
            ask.arg(id.to_string());
        }
        let done: Vec<String> = self.shared.link.rerun(&ask).await?;
        let mut held = self.held();
        let released: Vec<_> = done.iter().filter_map(|id| held.remove(id.parse().ok()?)).collect();
        drop(held);
        self.hand.release(&released);
        Ok(())
    }

    /// A script about what is pending in the backlog on this consumer, or on the owner of the backlog.
    fn asking_backlog(&self, mut script: ScriptInvocation<'static>) -> ScriptInvocation<'static> {
        let backlog = keys::backlog(&self.shared.home, &self.group);
        let name = if self.shared.partitions.is_empty() { &self.name } else { OWNER };
        script.key(&backlog).key(keys::retry(&backlog, &self.shared.config.retry_key_prefix, &self.group));
        script.arg(self.group.as_str()).arg(name);
        script
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: &str) -> StreamId {
        StreamId::parse("Order", id).unwrap()
    }

    fn id(number: u64) -> EntryId {
        EntryId { ms: number, number: 0 }
    }

    #[test]
    fn an_aggregate_is_held_until_its_last_entry_is_done() {
        let mut held = Held::default();
        assert!(held.add(id(1), stream("a")) && held.add(id(2), stream("b")));
        assert!(!held.add(id(3), stream("a")) && !held.add(id(1), stream("a")));
        assert_eq!(held.after(EntryId::ZERO), [id(2), id(3)]);
        assert_eq!(held.remove(id(1)), None);
        assert_eq!(held.remove(id(3)), Some(stream("a")));
        assert_eq!((held.after(id(2)), held.after(id(1))), (vec![], vec![id(2)]));
        assert!(held.add(id(4), stream("a")), "it is new again");
    }
}
