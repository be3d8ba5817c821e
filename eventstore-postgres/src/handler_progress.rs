//! The progress of handlers, by the clock of the server.
//!
//! Invariant: a statement that locks several rows locks handlers first, then shards in the order of handler and number,
//! then the rows of events or the member.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position,
    delivery::DeliveryAttempts,
    port::{
        HandlerProgress,
        handler_progress::{
            AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, HandlerProgressError, Heartbeat, ListedHandler,
            ListedShard, Member, MemberGuard, NotedHandler, Saved, ShardId, ShardSave,
        },
    },
};
use sqlx::{Row as _, ValueRef as _, postgres::PgRow};

use crate::{
    config::microseconds,
    pool::Query,
    record::{decode_position, decode_time},
    shard_saves::{epoch_parameter, save_statement, shard_columns},
    store::PgEventStore,
};

/// The most times that a declaration starts over because other processes change the notes of its handlers.
const DECLARATIONS_MAX: u32 = 100;

/// A handler that a process declares: its note as it was read, and as it is to be.
struct Declaration {
    former: Option<String>,
    noted: NotedHandler,
    new_types: BTreeMap<Name, Position>,
    is_changed: bool,
}

async fn fetch_handlers<T>(
    store: &PgEventStore,
    query: Query<'_>,
    decode: impl Fn(&PgRow) -> Result<T, BoxError>,
) -> Result<Vec<T>, HandlerProgressError> {
    store.inner().fetch(query, decode).await.map_err(HandlerProgressError::new)
}

fn handler_statement(store: &PgEventStore, sql: &'static str) -> Query<'static> {
    store.inner().statements().query(sql)
}

/// Reads the notes of handlers, and adds what is declared.
async fn read_declarations(
    store: &PgEventStore,
    declared: &[DeclaredHandler],
    head: Position,
) -> Result<BTreeMap<Name, Declaration>, HandlerProgressError> {
    let names: Vec<_> = declared.iter().map(|declared| declared.name.to_string()).collect();
    let query = handler_statement(store, include_str!("sql/load_handlers.sql")).bind(names);
    let read = |row: &PgRow| {
        let (name, note): (&str, String) = (row.try_get(0)?, row.try_get(1)?);
        let noted = serde_json::from_str(&note)?;
        let new_types = BTreeMap::new();
        let declaration = Declaration { former: Some(note), noted, new_types, is_changed: false };
        Ok((Name::new("handler", name)?, declaration))
    };
    let mut known: BTreeMap<_, _> = fetch_handlers(store, query, read).await?.into_iter().collect();
    for declared in declared {
        let Some(Declaration { noted, new_types, is_changed, .. }) = known.get_mut(&declared.name) else {
            let (noted, new_types) = (NotedHandler::new(declared, head), BTreeMap::new());
            let added = Declaration { former: None, noted, new_types, is_changed: true };
            known.insert(declared.name.clone(), added);
            continue;
        };
        let former = noted.clone();
        new_types.extend(noted.declare(declared, head));
        *is_changed |= *noted != former;
    }
    Ok(known)
}

/// Saves notes, and returns the names of those that it saved: no other process had changed them since this one read them.
async fn save_declarations(store: &PgEventStore, changed: &[&Declaration]) -> Result<Vec<Name>, HandlerProgressError> {
    if changed.is_empty() {
        return Ok(Vec::new());
    }
    let notes: Result<Vec<_>, _> = changed.iter().map(|one| serde_json::to_string(&one.noted)).collect();
    let types: Result<Vec<_>, _> = changed.iter().map(|one| serde_json::to_string(&one.new_types)).collect();
    let query = handler_statement(store, include_str!("sql/declare_handlers.sql"))
        .bind(changed.iter().map(|one| one.noted.name.as_str()).collect::<Vec<_>>())
        .bind(changed.iter().map(|one| one.former.as_deref()).collect::<Vec<_>>())
        .bind(notes.map_err(HandlerProgressError::new)?)
        .bind(changed.iter().map(|one| i32::from(one.noted.shards)).collect::<Vec<_>>())
        .bind(changed.iter().map(|one| one.noted.first_checkpoint().as_i64()).collect::<Vec<_>>())
        .bind(types.map_err(HandlerProgressError::new)?);
    fetch_handlers(store, query, |row| decode_name(row, 0)).await
}

#[async_trait]
impl HandlerProgress for PgEventStore {
    fn lease_ends_with_process(&self) -> bool {
        false
    }

    async fn declare_handlers(
        &self,
        declared: &[DeclaredHandler],
        head: Position,
    ) -> Result<Vec<NotedHandler>, HandlerProgressError> {
        for _ in 0..DECLARATIONS_MAX {
            let declarations = read_declarations(self, declared, head).await?;
            let changed: Vec<_> = declarations.values().filter(|one| one.is_changed).collect();
            if save_declarations(self, &changed).await?.len() == changed.len() {
                return Ok(declared.iter().map(|declared| declarations[&declared.name].noted.clone()).collect());
            }
        }
        Err(HandlerProgressError::new("other processes change the notes of the same handlers all the time"))
    }

    async fn join(&self, member: &Member) -> Result<MemberGuard, HandlerProgressError> {
        let handlers = serde_json::to_string(&member.handlers).map_err(HandlerProgressError::new)?;
        let query = handler_statement(self, include_str!("sql/join_member.sql"));
        fetch_handlers(self, query.bind(member.name.as_str()).bind(handlers), |_| Ok(())).await?;
        // its life is a time in the store
        Ok(Box::new(()))
    }

    async fn leave(&self, member: &Name) -> Result<(), HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/forget_member.sql")).bind(member.as_str());
        fetch_handlers(self, query, |_| Ok(())).await.map(drop)
    }

    async fn members(&self, names: &[Name]) -> Result<Vec<Member>, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/load_members.sql"));
        let query = query.bind(names.iter().map(Name::as_str).collect::<Vec<_>>());
        let member =
            |row: &PgRow| Ok(Member { name: decode_name(row, 0)?, handlers: serde_json::from_str(row.try_get(1)?)? });
        fetch_handlers(self, query, member).await
    }

    async fn heartbeat(
        &self,
        member: &Name,
        handlers: &[Name],
        owned: &[(ShardId, u64)],
        renew_for: Option<Duration>,
        live_for: Duration,
    ) -> Result<Heartbeat, HandlerProgressError> {
        let (shard_handlers, numbers) = shard_columns(owned.iter().map(|(shard, _)| shard));
        let mut query = self
            .inner()
            .statements()
            .heartbeat(renew_for.is_some())
            .bind(member.as_str())
            .bind(handlers.iter().map(Name::as_str).collect::<Vec<_>>())
            .bind(microseconds(live_for))
            .bind(shard_handlers)
            .bind(numbers)
            .bind(owned.iter().map(|(_, epoch)| epoch_parameter(*epoch)).collect::<Vec<_>>());
        if let Some(renew_for) = renew_for {
            query = query.bind(microseconds(renew_for));
        }
        let mut beat = Heartbeat::default();
        let rows = self.inner().connections().fetch_all(query).await.map_err(HandlerProgressError::new)?;
        for row in &rows {
            add_to_heartbeat(&mut beat, row).map_err(HandlerProgressError::new)?;
        }
        Ok(beat)
    }

    async fn acquire_shards(
        &self,
        member: &Name,
        wanted: &[ShardId],
        ttl: Duration,
    ) -> Result<Vec<AcquiredShard>, HandlerProgressError> {
        let (handlers, numbers) = shard_columns(wanted.iter());
        let query = handler_statement(self, include_str!("sql/acquire_shards.sql"));
        let query = query.bind(member.as_str()).bind(handlers).bind(numbers).bind(microseconds(ttl));
        fetch_handlers(self, query, decode_acquired).await
    }

    async fn live_rows(&self, shards: &[ShardId]) -> Result<BTreeMap<ShardId, Vec<DeliveryRow>>, HandlerProgressError> {
        let (handlers, numbers) = shard_columns(shards.iter());
        let query = handler_statement(self, include_str!("sql/live_handler_rows.sql"));
        let rows = fetch_handlers(self, query.bind(handlers).bind(numbers), decode_live_row).await?;
        let mut live: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (shard, row) in rows {
            live.entry(shard).or_default().push(row);
        }
        Ok(live)
    }

    async fn save_shards(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved, HandlerProgressError> {
        let statements = self.inner().statements();
        let query = save_statement(statements, member, last_read, saves).map_err(HandlerProgressError::new)?;
        let saved = |row: &PgRow| match row.try_get::<Option<&str>, _>(0)? {
            Some(_) => decode_shard(row).map(Some),
            None => Ok(None),
        };
        let saved = fetch_handlers(self, query, saved).await?;
        Ok(saved.into_iter().collect::<Option<_>>().map_or(Saved::WentBack, Saved::Held))
    }

    async fn list_handlers(&self) -> Result<Vec<ListedHandler>, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/list_handlers.sql"));
        let mut listed: Vec<ListedHandler> = Vec::new();
        for (handler, shard) in fetch_handlers(self, query, decode_listed).await? {
            match listed.last_mut() {
                Some(last) if last.noted.name == handler.noted.name => last.shards.push(shard),
                _ => listed.push(ListedHandler { shards: vec![shard], ..handler }),
            }
        }
        Ok(listed)
    }

    async fn dead_rows(&self, after: Option<&DeadRow>, limit: usize) -> Result<Vec<DeadRow>, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/dead_rows.sql"));
        let query = query
            .bind(after.map(|after| after.dead_since))
            .bind(after.map(|after| after.position.as_i64()))
            .bind(after.map(|after| after.handler.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        fetch_handlers(self, query, decode_dead_row).await
    }

    async fn dead_row(&self, handler: &Name, position: Position) -> Result<Option<DeadRow>, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/dead_row.sql"));
        let query = query.bind(handler.as_str()).bind(position.as_i64());
        Ok(fetch_handlers(self, query, decode_dead_row).await?.pop())
    }

    async fn count_dead_rows(&self, at_most: u64) -> Result<u64, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/count_dead_rows.sql"));
        let query = query.bind(i64::try_from(at_most).unwrap_or(i64::MAX));
        let counts = fetch_handlers(self, query, |row| Ok(u64::try_from(row.try_get::<i64, _>(0)?)?)).await?;
        Ok(counts.first().copied().unwrap_or_default())
    }

    async fn replay_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/replay_dead_row.sql"));
        let query = query.bind(handler.as_str()).bind(position.as_i64()).bind(DeliveryAttempts::default().to_json());
        Ok(!fetch_handlers(self, query, |_| Ok(())).await?.is_empty())
    }

    async fn discard_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/discard_dead_row.sql"));
        let query = query.bind(handler.as_str()).bind(position.as_i64());
        Ok(!fetch_handlers(self, query, |_| Ok(())).await?.is_empty())
    }

    async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<(), HandlerProgressError> {
        let query = match is_paused {
            true => handler_statement(self, include_str!("sql/pause_group.sql")),
            false => handler_statement(self, include_str!("sql/resume_group.sql")),
        };
        fetch_handlers(self, query.bind(group.as_str()), |_| Ok(())).await.map(drop)
    }

    async fn create_handler(&self, name: &Name, after: Position) -> Result<bool, HandlerProgressError> {
        let noted = NotedHandler::created(name.clone(), name.clone(), after);
        let created = Declaration { former: None, noted, new_types: BTreeMap::new(), is_changed: true };
        Ok(!save_declarations(self, &[&created]).await?.is_empty())
    }

    async fn retire_handler(&self, name: &Name) -> Result<Option<u64>, HandlerProgressError> {
        let query = handler_statement(self, include_str!("sql/retire_handler.sql")).bind(name.as_str());
        Ok(fetch_handlers(self, query, |row| Ok(u64::try_from(row.try_get::<i64, _>(0)?)?)).await?.pop())
    }
}

fn decode_name(row: &PgRow, column: usize) -> Result<Name, BoxError> {
    Ok(Name::new("name", row.try_get::<&str, _>(column)?)?)
}

/// Decodes a number that is never negative.
fn decode_number(row: &PgRow, column: usize) -> Result<u64, BoxError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?)?)
}

/// Decodes the shard in columns 0 and 1.
fn decode_shard(row: &PgRow) -> Result<ShardId, BoxError> {
    Ok(ShardId { handler: decode_name(row, 0)?, number: u16::try_from(row.try_get::<i16, _>(1)?)? })
}

fn decode_positions(row: &PgRow, column: usize) -> Result<Vec<Position>, BoxError> {
    let positions: Vec<i64> = row.try_get(column)?;
    positions.into_iter().map(|position| Ok(Position::new(u64::try_from(position)?))).collect()
}

fn add_to_heartbeat(beat: &mut Heartbeat, row: &PgRow) -> Result<(), BoxError> {
    let shard = || {
        let number = u16::try_from(row.try_get::<i16, _>(2)?)?;
        Ok::<_, BoxError>(ShardId { handler: decode_name(row, 1)?, number })
    };
    match row.try_get(0)? {
        "held" => drop(beat.held.insert(shard()?, decode_number(row, 3)?)),
        "free" => drop(beat.free.insert(shard()?)),
        "member" => drop(beat.members.insert(decode_name(row, 1)?)),
        _ => drop(beat.paused.insert(decode_name(row, 1)?)),
    }
    Ok(())
}

fn decode_acquired(row: &PgRow) -> Result<AcquiredShard, BoxError> {
    Ok(AcquiredShard {
        shard: decode_shard(row)?,
        epoch: decode_number(row, 2)?,
        has_crashed: row.try_get(3)?,
        unclean: u32::try_from(row.try_get::<i32, _>(4)?)?,
        changes: decode_number(row, 5)?,
        checkpoint: decode_position(row, 6)?,
        waiting: decode_positions(row, 7)?,
        started: decode_positions(row, 8)?,
        left: serde_json::from_str(row.try_get(9)?)?,
    })
}

fn decode_live_row(row: &PgRow) -> Result<(ShardId, DeliveryRow), BoxError> {
    let is_dead = !row.try_get_raw(4)?.is_null();
    let found = DeliveryRow {
        position: decode_position(row, 2)?,
        attempts: DeliveryAttempts::from_json(row.try_get(3)?)?,
        dead_since: if is_dead { Some(decode_time(row.try_get_unchecked(4)?)?) } else { None },
        is_held: row.try_get(5)?,
    };
    Ok((decode_shard(row)?, found))
}

fn decode_dead_row(row: &PgRow) -> Result<DeadRow, BoxError> {
    Ok(DeadRow {
        handler: decode_name(row, 0)?,
        position: decode_position(row, 1)?,
        attempts: DeliveryAttempts::from_json(row.try_get(2)?)?,
        dead_since: decode_time(row.try_get_unchecked(3)?)?,
        is_held: row.try_get(4)?,
    })
}

/// Decodes a handler without its shards, and one of them.
fn decode_listed(row: &PgRow) -> Result<(ListedHandler, ListedShard), BoxError> {
    let handler = ListedHandler {
        noted: serde_json::from_str(row.try_get(0)?)?,
        is_paused: row.try_get(1)?,
        shards: Vec::new(),
        waiting_rows: decode_number(row, 2)?,
        dead_rows: decode_number(row, 3)?,
    };
    let owner = row.try_get::<Option<&str>, _>(5)?.map(|owner| Name::new("owner", owner)).transpose()?;
    let shard = ListedShard {
        number: u16::try_from(row.try_get::<i16, _>(4)?)?,
        owner,
        epoch: decode_number(row, 6)?,
        checkpoint: decode_position(row, 7)?,
        waiting: decode_number(row, 8)?,
        started: decode_number(row, 9)?,
        left: serde_json::from_str(row.try_get(10)?)?,
    };
    Ok((handler, shard))
}
