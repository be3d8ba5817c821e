//! Collects the evidence at the end of a scenario: the stored events, and the effects of each reader.

use std::{collections::HashSet, sync::Arc};

use eventbus::{Uuid, bus::bus_of_store, port::DeadLetterFilter};
use redis::streams::StreamRangeReply;
use sqlx::PgConnection;

use super::{Scenario, process_role::bus_config};
use crate::fire::{
    HarnessError,
    database::{execute_sql, load_stored},
    evidence::{Effect, Evidence, Folded, Model, Order, Promise, Reader, Stored},
    history::History,
};

impl Scenario {
    /// Returns the evidence at the end. If Redis loses data, the stream may hold an event twice.
    ///
    /// # Errors
    /// If a server fails.
    pub async fn evidence(&self) -> Result<Evidence, HarnessError> {
        let mut connection = self.connection().await?;
        let mut evidence = Evidence { stored: load_stored(&mut connection).await?, ..Evidence::default() };
        // a process that was paused in a run may end it late
        let order = Order::None;
        let mail = Reader {
            name: "mail".into(),
            promise: Promise { once: false, order },
            dead: self.list_dead_letters("mail").await?,
            poison: self.poison_events(&evidence.stored),
            ..Reader::default()
        };
        let inbox = Reader {
            name: "inbox".into(),
            promise: Promise { once: true, order },
            effects: load_effects(&mut connection, "inbox").await?,
            dead: self.list_dead_letters("inbox").await?,
            ..Reader::default()
        };
        evidence.readers =
            vec![mail, inbox, load_ledger(&mut connection).await?, load_balances(&mut connection).await?];
        if !self.config.servers_fail {
            evidence.readers.push(self.read_bus_stream().await?);
        }
        evidence.add(History::read(&self.config.notes)?);
        Ok(evidence)
    }

    /// Returns the events that `mail` can never handle.
    fn poison_events(&self, stored: &[Stored]) -> HashSet<Uuid> {
        let hopeless = stored.iter().filter(|stored| self.config.is_poison(stored.amount));
        hopeless.map(|stored| stored.stored_at.event).collect()
    }

    async fn list_dead_letters(&self, group: &str) -> Result<Vec<Uuid>, HarnessError> {
        let (store, mut dead, mut after) = (bus_of_store(Arc::new(self.store().await?)), Vec::new(), None);
        let dead_letters = store.dead_letters().ok_or("no dead letters")?;
        loop {
            let page = dead_letters.list_dead_letters(&DeadLetterFilter::default(), after.as_ref(), 1_000).await?;
            let of_group = page.letters.iter().filter(|dead_letter| dead_letter.group.as_deref() == Some(group));
            let ids = of_group.filter_map(|found| found.record.as_ref());
            dead.extend(ids.map(|record| record.metadata().event_id().as_uuid()));
            after = page.next;
            if after.is_none() {
                return Ok(dead);
            }
        }
    }

    /// Reads the stream as a reader: no event may be published twice, or out of order.
    async fn read_bus_stream(&self) -> Result<Reader, HarnessError> {
        let (stream, mut seen) = (bus_config(&self.config).stream_name(), Vec::new());
        self.entries(&stream, &mut seen).await?;
        let order = Order::Total;
        Ok(Reader { name: "stream".into(), promise: Promise { once: true, order }, effects: seen, ..Reader::default() })
    }

    async fn entries(&self, stream: &str, seen: &mut Vec<Effect>) -> Result<(), HarnessError> {
        let (mut redis, mut from) = (self.redis().await?, "-".to_owned());
        loop {
            let mut range = redis::cmd("XRANGE");
            range.arg(stream).arg(&from).arg("+").arg("COUNT").arg(1_000);
            let page: StreamRangeReply = range.query_async(&mut redis).await?;
            for entry in &page.ids {
                let event: String = entry.get("event_id").ok_or("an entry without event id")?;
                seen.push(Effect { event: event.parse()?, epoch: 0 });
            }
            match page.ids.last() {
                Some(last) => from = format!("({}", last.id),
                None => return Ok(()),
            }
        }
    }
}

async fn load_effects(connection: &mut PgConnection, reader: &str) -> Result<Vec<Effect>, HarnessError> {
    let sql = "SELECT event, coalesce((SELECT max(a.epoch) FROM fire.advances a WHERE a.xid = e.xid), 0)
        FROM fire.effects e WHERE e.reader = $1 ORDER BY e.id";
    execute_sql(connection, "CREATE INDEX IF NOT EXISTS by_xid ON fire.advances (xid)").await?;
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(sql).bind(reader).fetch_all(connection).await?;
    rows.into_iter().map(|(event, epoch)| Ok(Effect { event, epoch: epoch.try_into()? })).collect()
}

async fn load_ledger(connection: &mut PgConnection) -> Result<Reader, HarnessError> {
    let seen = load_effects(connection, "ledger").await?;
    let model = load_model(connection, "SELECT stream, events, total, digest FROM fire.ledger").await?;
    load_projection(connection, "ledger", seen, model).await
}

/// Reads the rebuilt rows as a reader: each version of them must hold every event once, from the first one on.
async fn load_balances(connection: &mut PgConnection) -> Result<Reader, HarnessError> {
    let sql = "SELECT event FROM public.balanced ORDER BY id";
    let events: Vec<Uuid> = sqlx::query_scalar(sql).fetch_all(&mut *connection).await?;
    let seen = events.into_iter().map(|event| Effect { event, epoch: 0 }).collect();
    let model = load_model(connection, "SELECT stream, events, total, digest FROM public.balances").await?;
    load_projection(connection, "balances", seen, model).await
}

async fn load_model(connection: &mut PgConnection, sql: &'static str) -> Result<Model, HarnessError> {
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(sql).fetch_all(connection).await?;
    let folded = |(stream, events, total, digest): (String, _, _, _)| (stream.into(), Folded { events, total, digest });
    Ok(rows.into_iter().map(folded).collect())
}

async fn load_projection(
    connection: &mut PgConnection,
    name: &str,
    seen: Vec<Effect>,
    model: Model,
) -> Result<Reader, HarnessError> {
    let sql = "SELECT position FROM checkpoints WHERE name = $1";
    let role = format!("projection:{name}");
    let checkpoint: Option<i64> = sqlx::query_scalar(sql).bind(role).fetch_optional(connection).await?;
    let checkpoint = checkpoint.map(u64::try_from).transpose()?;
    let promise = Promise { once: true, order: Order::Total };
    Ok(Reader { name: name.into(), promise, effects: seen, model: Some(model), checkpoint, ..Reader::default() })
}
