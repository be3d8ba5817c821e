//! The progress of handlers, with leases by the clock of the server.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position,
    delivery::DeliveryAttempts,
    port::{
        HandlerProgress,
        handler_progress::{
            AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, HandlerProgressError, Heartbeat, ListedHandler,
            Member, MemberGuard, NotedHandler, Saved, ShardId, ShardSave,
        },
    },
};
use eventbus_redis_core::{error::boxed, reply::request};
use redis::{Cmd, FromRedisValue, ScriptInvocation};

use crate::{
    RedisEventStore,
    commands::{self, millis},
    entry::micros_of,
    error::corrupt_key,
    feed,
    handler_fields::{HandlerFields, from_json, read_acquired, read_row, to_json, write_row},
    keys::{StoreKeys, event_keys},
    script::{ACQUIRE_SHARDS, DECLARE_HANDLER, END_DEAD_ROW, HEARTBEAT, RETIRE_HANDLER, SAVE_MEMBER, SAVE_SHARDS},
};

/// The number of dead letters that one request lists.
const PAGE_ROWS: usize = 100;

type Result<T, E = HandlerProgressError> = std::result::Result<T, E>;

async fn fetch<T: FromRedisValue>(store: &RedisEventStore, command: Cmd) -> Result<T> {
    let reply = store.inner().connection().query_idempotent(&command).await;
    reply.map_err(|error| HandlerProgressError::new(boxed(error)))
}

/// Runs a script that may run twice.
async fn run_idempotent<T: FromRedisValue>(store: &RedisEventStore, script: &ScriptInvocation<'_>) -> Result<T> {
    let reply = store.inner().connection().run_idempotent(script).await;
    reply.map_err(|error| HandlerProgressError::new(boxed(error)))
}

/// Runs a script once: a second run would find what the first one has done.
async fn run_once<T: FromRedisValue>(store: &RedisEventStore, script: &ScriptInvocation<'_>) -> Result<T> {
    let reply = store.inner().connection().run(script).await;
    reply.map_err(|error| HandlerProgressError::new(boxed(error)))
}

/// Saves a note if the former one is still there; `left` are the types that the existing shards leave.
async fn save_handler(
    store: &RedisEventStore,
    former: Option<&NotedHandler>,
    noted: &NotedHandler,
    left: &BTreeMap<Name, Position>,
) -> Result<bool> {
    let keys = store.inner().keys();
    let mut script = DECLARE_HANDLER.prepare_invoke();
    script.key(keys.handlers()).key(keys.handler(&noted.name));
    script.arg((noted.name.as_str(), former.map(to_json).unwrap_or_default(), to_json(noted), noted.shards));
    script.arg(noted.first_checkpoint().get());
    for (name, position) in left {
        script.arg(name.as_str()).arg(position.get());
    }
    run_once::<u64>(store, &script).await.map(|saved| saved > 0)
}

async fn load_note(store: &RedisEventStore, handler: &Name) -> Result<Option<NotedHandler>> {
    let key = store.inner().keys().handler(handler);
    let note: Option<String> = fetch(store, request("HGET", (&key, "note"))).await?;
    note.map(|note| from_json(&note).map_err(|error| corrupt(&key, error))).transpose()
}

async fn declare(store: &RedisEventStore, declared: &DeclaredHandler, head: Position) -> Result<NotedHandler> {
    loop {
        let former = load_note(store, &declared.name).await?;
        let mut noted = former.clone().unwrap_or_else(|| NotedHandler::new(declared, head));
        let left = noted.declare(declared, head);
        let is_saved = former.as_ref() == Some(&noted) || save_handler(store, former.as_ref(), &noted, &left).await?;
        if is_saved {
            return Ok(noted);
        }
    }
}

async fn save_member(store: &RedisEventStore, member: &Name, handlers: &str) -> Result<()> {
    let keys = store.inner().keys();
    let mut script = SAVE_MEMBER.prepare_invoke();
    script.key(keys.members()).key(keys.member_times()).arg(member.as_str()).arg(handlers);
    run_idempotent::<u64>(store, &script).await.map(drop)
}

async fn names(store: &RedisEventStore, key: &str) -> Result<Vec<Name>> {
    let names: Vec<String> = fetch(store, request("ZRANGEBYLEX", (key, "-", "+"))).await?;
    parse_names(names)
}

/// Returns the position of an event and its key in the index, if the feed has an event at that position.
async fn key_of_event(store: &RedisEventStore, (position, event_id): (Position, EventId)) -> Result<Option<[u8; 16]>> {
    let Some(before) = position.get().checked_sub(1).map(Position::new) else {
        return Ok(None);
    };
    let found = feed::pointers(store.inner(), before, position, 1).await.map_err(HandlerProgressError::new)?;
    Ok(found.first().map(|pointer| event_keys(&pointer.stream)(event_id)))
}

async fn hash(store: &RedisEventStore, key: &str) -> Result<HashMap<String, String>> {
    fetch(store, commands::hash(key)).await
}

async fn end_dead(store: &RedisEventStore, handler: &Name, position: Position, attempts: &str) -> Result<bool> {
    let keys = store.inner().keys();
    let mut script = END_DEAD_ROW.prepare_invoke();
    script.key(keys.handler(handler)).key(keys.waiting_rows(handler)).key(keys.dead_rows(handler));
    script.key(keys.dead_row_times());
    script.arg((position.get(), dead_row_member(handler, position), attempts));
    run_once::<u64>(store, &script).await.map(|ended| ended > 0)
}

#[async_trait]
impl HandlerProgress for RedisEventStore {
    fn lease_ends_with_process(&self) -> bool {
        false
    }

    async fn declare_handlers(&self, declared: &[DeclaredHandler], head: Position) -> Result<Vec<NotedHandler>> {
        let mut noted = Vec::with_capacity(declared.len());
        for declared in declared {
            noted.push(declare(self, declared, head).await?);
        }
        Ok(noted)
    }

    async fn join(&self, member: &Member) -> Result<MemberGuard> {
        save_member(self, &member.name, &to_json(&member.handlers)).await?;
        Ok(Box::new(()))
    }

    async fn leave(&self, member: &Name) -> Result<()> {
        save_member(self, member, "").await
    }

    async fn members(&self, names: &[Name]) -> Result<Vec<Member>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.inner().keys().members();
        let fields: Vec<_> = names.iter().map(Name::as_str).collect();
        let found: Vec<Option<String>> = fetch(self, request("HMGET", (&key, fields))).await?;
        let found = names.iter().zip(found).filter_map(|(name, handlers)| Some((name, handlers?)));
        let members = found.map(|(name, handlers)| {
            let handlers = from_json(&handlers).map_err(|error| corrupt(&key, error))?;
            Ok(Member { name: name.clone(), handlers })
        });
        members.collect()
    }

    async fn heartbeat(
        &self,
        member: &Name,
        handlers: &[Name],
        owned: &[(ShardId, u64)],
        renew_for: Option<Duration>,
        live_for: Duration,
    ) -> Result<Heartbeat> {
        let keys = self.inner().keys();
        let mut numbers: BTreeMap<&Name, usize> = (1..).zip(handlers).map(|(number, name)| (name, number)).collect();
        let mut script = HEARTBEAT.prepare_invoke();
        script.key(keys.member_times()).key(keys.paused_groups());
        for handler in handlers {
            script.key(keys.handler(handler));
        }
        let renew_for = renew_for.map(|time| millis(time).to_string()).unwrap_or_default();
        script.arg((member.as_str(), renew_for, millis(live_for), handlers.len()));
        let mut last = handlers.len();
        for (shard, epoch) in owned {
            let number = *numbers.entry(&shard.handler).or_insert_with(|| {
                script.key(keys.handler(&shard.handler));
                last += 1;
                last
            });
            script.arg((number, shard.number, epoch));
        }
        let (held, free, members, paused): (Vec<String>, Vec<usize>, Vec<String>, Vec<String>) =
            run_idempotent(self, &script).await?;
        let held = owned.iter().zip(held).filter(|(_, changes)| !changes.is_empty()).map(|((shard, _), changes)| {
            Ok((shard.clone(), changes.parse().map_err(|error| corrupt(&keys.handler(&shard.handler), error))?))
        });
        let (free, _) = free.as_chunks::<2>();
        let free = free.iter().filter_map(|[handler, number]| {
            let handler = handlers.get(handler.checked_sub(1)?)?.clone();
            Some(ShardId { handler, number: u16::try_from(*number).ok()? })
        });
        Ok(Heartbeat {
            held: held.collect::<Result<_>>()?,
            free: free.collect(),
            members: parse_names(members)?.into_iter().collect(),
            paused: parse_names(paused)?.into_iter().collect(),
        })
    }

    async fn acquire_shards(&self, member: &Name, wanted: &[ShardId], ttl: Duration) -> Result<Vec<AcquiredShard>> {
        let keys = self.inner().keys();
        let mut script = ACQUIRE_SHARDS.prepare_invoke();
        script.arg(member.as_str()).arg(millis(ttl));
        for shard in wanted {
            script.key(keys.handler(&shard.handler)).arg(shard.number);
        }
        // a second run acquires again what the first one has acquired
        let replies: Vec<Vec<String>> = run_idempotent(self, &script).await?;
        let acquired = wanted.iter().zip(replies).filter(|(_, reply)| !reply.is_empty());
        let acquired = acquired.map(|(shard, reply)| {
            read_acquired(shard, &reply).map_err(|error| corrupt(&keys.handler(&shard.handler), error))
        });
        acquired.collect()
    }

    async fn live_rows(&self, shards: &[ShardId]) -> Result<BTreeMap<ShardId, Vec<DeliveryRow>>> {
        let keys = self.inner().keys();
        let (wanted, mut live) = (shards.iter().collect::<BTreeSet<_>>(), BTreeMap::<_, Vec<DeliveryRow>>::new());
        let handlers: BTreeSet<_> = shards.iter().map(|shard| &shard.handler).collect();
        for handler in handlers {
            for key in [keys.waiting_rows(handler), keys.dead_rows(handler)] {
                for (position, text) in hash(self, &key).await? {
                    let (number, row) = read_row(&position, &text).map_err(|error| corrupt(&key, error))?;
                    let shard = ShardId { handler: handler.clone(), number };
                    if wanted.contains(&shard) && (row.dead_since.is_none() || row.is_held) {
                        live.entry(shard).or_default().push(row);
                    }
                }
            }
        }
        live.values_mut().for_each(|rows| rows.sort_unstable_by_key(|row| row.position));
        Ok(live)
    }

    async fn save_shards(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved> {
        let keys = self.inner().keys();
        let mut script = SAVE_SHARDS.prepare_invoke();
        script.key(keys.ids()).key(keys.dead_row_times()).arg(member.as_str());
        match last_read {
            None => script.arg("").arg(""),
            Some(last_read) => match key_of_event(self, last_read).await? {
                Some(key) => script.arg(last_read.0.get()).arg(&key[..]),
                None => return Ok(Saved::WentBack),
            },
        };
        for save in saves {
            add_save(&mut script, keys, save);
        }
        let replies: Option<Vec<u64>> = run_idempotent(self, &script).await?;
        Ok(replies.map_or(Saved::WentBack, |replies| {
            let held = saves.iter().zip(replies).filter(|(_, is_held)| *is_held > 0);
            Saved::Held(held.map(|(save, _)| save.shard.clone()).collect())
        }))
    }

    async fn list_handlers(&self) -> Result<Vec<ListedHandler>> {
        let keys = self.inner().keys();
        let paused: BTreeSet<_> = names(self, &keys.paused_groups()).await?.into_iter().collect();
        let (seconds, micros): (u64, u64) = fetch(self, redis::cmd("TIME")).await?;
        let (now, mut listed) = (seconds * 1_000 + micros / 1_000, Vec::new());
        for name in names(self, &keys.handlers()).await? {
            let key = keys.handler(&name);
            let fields = HandlerFields(hash(self, &key).await?);
            let Some(noted) = fields
                .note()
                .map(|note| from_json::<NotedHandler>(note).map_err(|error| corrupt(&key, error)))
                .transpose()?
            else {
                continue; // it was retired meanwhile
            };
            let shards = (0..noted.shards).map(|number| fields.shard(number, now));
            listed.push(ListedHandler {
                is_paused: paused.contains(&noted.group),
                shards: shards.collect::<Result<_, _>>().map_err(|error| corrupt(&key, error))?,
                noted,
                waiting_rows: fetch(self, request("HLEN", keys.waiting_rows(&name))).await?,
                dead_rows: fetch(self, request("HLEN", keys.dead_rows(&name))).await?,
            });
        }
        Ok(listed)
    }

    async fn dead_rows(&self, after: Option<&DeadRow>, limit: usize) -> Result<Vec<DeadRow>> {
        let times = self.inner().keys().dead_row_times();
        let from = after.map_or("-inf".to_owned(), |after| micros_of(after.dead_since).to_string());
        let after = after.map(|after| (after.dead_since, dead_row_member(&after.handler, after.position)));
        let (mut found, mut skipped) = (Vec::new(), 0);
        while found.len() < limit {
            let page = request("ZRANGEBYSCORE", (&times, &from, "+inf", "LIMIT", skipped, PAGE_ROWS));
            let page: Vec<String> = fetch(self, page).await?;
            for member in &page {
                let (handler, position) = parse_member(member).map_err(|error| corrupt(&times, error))?;
                let Some(row) = self.dead_row(&handler, position).await? else {
                    continue; // it has ended meanwhile
                };
                let is_behind = after.as_ref().is_none_or(|after| (row.dead_since, member) > (after.0, &after.1));
                if is_behind && found.len() < limit {
                    found.push(row);
                }
            }
            if page.len() < PAGE_ROWS {
                break;
            }
            skipped += PAGE_ROWS;
        }
        Ok(found)
    }

    async fn dead_row(&self, handler: &Name, position: Position) -> Result<Option<DeadRow>> {
        let key = self.inner().keys().dead_rows(handler);
        let text: Option<String> = fetch(self, request("HGET", (&key, position.get()))).await?;
        let row = text.map(|text| read_row(&position.to_string(), &text)).transpose();
        let row = row.map_err(|error| corrupt(&key, error))?;
        Ok(row.and_then(|(_, DeliveryRow { position, attempts, dead_since, is_held })| {
            Some(DeadRow { handler: handler.clone(), position, attempts, dead_since: dead_since?, is_held })
        }))
    }

    async fn count_dead_rows(&self, at_most: u64) -> Result<u64> {
        let count: u64 = fetch(self, request("ZCARD", self.inner().keys().dead_row_times())).await?;
        Ok(count.min(at_most))
    }

    async fn replay_dead(&self, handler: &Name, position: Position) -> Result<bool> {
        end_dead(self, handler, position, &DeliveryAttempts::default().to_json()).await
    }

    async fn discard_dead(&self, handler: &Name, position: Position) -> Result<bool> {
        end_dead(self, handler, position, "").await
    }

    async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<()> {
        let key = self.inner().keys().paused_groups();
        let change = match is_paused {
            true => request("ZADD", (&key, 0, group.as_str())),
            false => request("ZREM", (&key, group.as_str())),
        };
        fetch::<u64>(self, change).await.map(drop)
    }

    async fn create_handler(&self, name: &Name, after: Position) -> Result<bool> {
        let noted = NotedHandler::created(name.clone(), name.clone(), after);
        save_handler(self, None, &noted, &BTreeMap::new()).await
    }

    async fn retire_handler(&self, name: &Name) -> Result<Option<u64>> {
        let keys = self.inner().keys();
        let mut script = RETIRE_HANDLER.prepare_invoke();
        script.key(keys.handlers()).key(keys.handler(name)).key(keys.waiting_rows(name)).key(keys.dead_rows(name));
        script.key(keys.dead_row_times()).arg(name.as_str());
        run_once(self, &script).await
    }
}

/// Adds the keys and arguments of a save.
fn add_save(script: &mut ScriptInvocation<'_>, keys: &StoreKeys, save: &ShardSave) {
    let handler = &save.shard.handler;
    script.key(keys.handler(handler)).key(keys.waiting_rows(handler)).key(keys.dead_rows(handler));
    script.arg((handler.as_str(), save.shard.number, save.epoch, save.checkpoint.get()));
    script.arg((to_json(&save.waiting), to_json(&save.started)));
    script.arg((u8::from(save.has_progressed), u8::from(save.is_release), save.left.len()));
    for (name, position) in &save.left {
        script.arg((name.as_str(), position.map(|position| position.to_string()).unwrap_or_default()));
    }
    script.arg(save.finished.len());
    for position in &save.finished {
        script.arg(position.get());
    }
    script.arg(save.rows.len());
    for row in &save.rows {
        let dead_since = row.dead_since.map(|since| micros_of(since).to_string()).unwrap_or_default();
        script.arg((row.position.get(), write_row(save.shard.number, row), dead_since));
    }
}

fn dead_row_member(handler: &Name, position: Position) -> String {
    format!("{position}:{handler}")
}

/// Parses the handler and position of a member.
fn parse_member(member: &str) -> Result<(Name, Position), BoxError> {
    let (position, handler) = member.split_once(':').ok_or("a member that is not a dead letter")?;
    Ok((Name::new("handler", handler)?, Position::new(position.parse()?)))
}

fn parse_names(names: Vec<String>) -> Result<Vec<Name>> {
    let names = names.into_iter().map(|name| Name::new("name", name));
    names.collect::<Result<_, _>>().map_err(HandlerProgressError::new)
}

fn corrupt(key: &str, source: impl Into<BoxError>) -> HandlerProgressError {
    HandlerProgressError::new(corrupt_key(key, source))
}
