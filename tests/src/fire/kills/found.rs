//! What is found in a scene in the end: what the store holds, and what each reader has done.

use std::collections::HashSet;

use eventbus::{
    Uuid,
    port::{DeadLetterFilter, DeadLetters as _},
};
use redis::streams::StreamRangeReply;
use sqlx::PgConnection;

use super::{Scene, role::bus_config};
use crate::fire::{
    Trouble,
    database::{run, stored},
    evidence::{Evidence, Folded, Model, Order, Promise, Reader, Seen, Stored},
    history::History,
};

impl Scene {
    /// What is found in the end. Where Redis forgets, the same may be in the stream twice.
    ///
    /// # Errors
    /// Whatever the servers say.
    pub async fn evidence(&self) -> Result<Evidence, Trouble> {
        let mut connection = self.connection().await?;
        let mut evidence = Evidence { stored: stored(&mut connection).await?, ..Evidence::default() };
        // consumers of one stream share an aggregate's events; those of partitions do not
        let order = if self.script.partitions > 1 { Order::PerAggregate } else { Order::None };
        let mail = Reader {
            name: "mail".into(),
            promise: Promise { once: false, order },
            dead: self.dead("mail").await?,
            hopeless: self.hopeless(&evidence.stored),
            ..Reader::default()
        };
        let inbox = Reader {
            name: "inbox".into(),
            promise: Promise { once: true, order },
            seen: effects(&mut connection, "inbox").await?,
            dead: self.dead("inbox").await?,
            ..Reader::default()
        };
        evidence.readers = vec![mail, inbox, ledger(&mut connection).await?, balances(&mut connection).await?];
        if !self.script.servers_fail {
            evidence.readers.push(self.stream().await?);
        }
        evidence.add(History::read(&self.script.notes)?);
        Ok(evidence)
    }

    /// The events that `mail` can never handle.
    fn hopeless(&self, stored: &[Stored]) -> HashSet<Uuid> {
        let hopeless = stored.iter().filter(|stored| self.script.is_poison(stored.amount));
        hopeless.map(|stored| stored.place.event).collect()
    }

    async fn dead(&self, group: &str) -> Result<Vec<Uuid>, Trouble> {
        let (bus, mut dead, mut after) = (self.bus().await?, Vec::new(), None);
        loop {
            let page = bus.dead_letters(&DeadLetterFilter::default(), after.as_ref(), 1_000).await?;
            let of_group = page.letters.iter().filter(|letter| letter.group.as_deref() == Some(group));
            let ids = of_group.filter_map(|letter| letter.record.as_ref());
            dead.extend(ids.map(|record| record.metadata().event_id().as_uuid()));
            after = page.next;
            if after.is_none() {
                return Ok(dead);
            }
        }
    }

    /// The stream itself: nothing is published twice, or out of order.
    async fn stream(&self) -> Result<Reader, Trouble> {
        let (stream, mut seen) = (bus_config(&self.script).stream_name(), Vec::new());
        let order = match self.script.partitions {
            0 | 1 => {
                self.entries(&stream, &mut seen).await?;
                Order::Total
            }
            partitions => {
                for partition in 0..partitions {
                    self.entries(&format!("{stream}:{partition}"), &mut seen).await?;
                }
                Order::PerAggregate
            }
        };
        Ok(Reader { name: "stream".into(), promise: Promise { once: true, order }, seen, ..Reader::default() })
    }

    async fn entries(&self, stream: &str, seen: &mut Vec<Seen>) -> Result<(), Trouble> {
        let (mut redis, mut from) = (self.redis().await?, "-".to_owned());
        loop {
            let mut range = redis::cmd("XRANGE");
            range.arg(stream).arg(&from).arg("+").arg("COUNT").arg(1_000);
            let page: StreamRangeReply = range.query_async(&mut redis).await?;
            for entry in &page.ids {
                let event: String = entry.get("event_id").ok_or("an entry without event id")?;
                seen.push(Seen { event: event.parse()?, epoch: 0 });
            }
            match page.ids.last() {
                Some(last) => from = format!("({}", last.id),
                None => return Ok(()),
            }
        }
    }
}

async fn effects(connection: &mut PgConnection, reader: &str) -> Result<Vec<Seen>, Trouble> {
    let sql = "SELECT event, coalesce((SELECT max(a.epoch) FROM fire.advances a WHERE a.xid = e.xid), 0)
        FROM fire.effects e WHERE e.reader = $1 ORDER BY e.id";
    run(connection, "CREATE INDEX IF NOT EXISTS by_xid ON fire.advances (xid)").await?;
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(sql).bind(reader).fetch_all(connection).await?;
    rows.into_iter().map(|(event, epoch)| Ok(Seen { event, epoch: epoch.try_into()? })).collect()
}

async fn ledger(connection: &mut PgConnection) -> Result<Reader, Trouble> {
    let seen = effects(connection, "ledger").await?;
    let model = model(connection, "SELECT stream, events, total, digest FROM fire.ledger").await?;
    projection(connection, "ledger", seen, model).await
}

/// The rows that were rebuilt: each set of them is to be as if it had been written once, from the first event on.
async fn balances(connection: &mut PgConnection) -> Result<Reader, Trouble> {
    let sql = "SELECT event FROM public.balanced ORDER BY id";
    let events: Vec<Uuid> = sqlx::query_scalar(sql).fetch_all(&mut *connection).await?;
    let seen = events.into_iter().map(|event| Seen { event, epoch: 0 }).collect();
    let model = model(connection, "SELECT stream, events, total, digest FROM public.balances").await?;
    projection(connection, "balances", seen, model).await
}

async fn model(connection: &mut PgConnection, sql: &'static str) -> Result<Model, Trouble> {
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(sql).fetch_all(connection).await?;
    let folded = |(stream, events, total, digest): (String, _, _, _)| (stream.into(), Folded { events, total, digest });
    Ok(rows.into_iter().map(folded).collect())
}

async fn projection(
    connection: &mut PgConnection,
    name: &str,
    seen: Vec<Seen>,
    model: Model,
) -> Result<Reader, Trouble> {
    let sql = "SELECT position FROM checkpoints WHERE name = $1";
    let role = format!("projection:{name}");
    let checkpoint: Option<i64> = sqlx::query_scalar(sql).bind(role).fetch_optional(connection).await?;
    let checkpoint = checkpoint.map(u64::try_from).transpose()?;
    let promise = Promise { once: true, order: Order::Total };
    Ok(Reader { name: name.into(), promise, seen, model: Some(model), checkpoint, ..Reader::default() })
}
