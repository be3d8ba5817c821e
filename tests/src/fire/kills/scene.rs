//! Where processes play: a database, a stream, a file of notes; and what is found there in the end.

use std::time::{Duration, Instant};

use eventbus::{
    NewEvent, Uuid,
    port::{DeadLetterFilter, DeadLetters as _, EventBus as _},
};
use eventbus_redis::RedisEventBus;
use eventstore_postgres::PgEventStore;
use redis::streams::StreamRangeReply;
use sqlx::{Connection as _, PgConnection};

use super::role::{Script, bus_config, groups};
use crate::fire::{
    Trouble,
    database::{run, stored},
    evidence::{Evidence, Folded, Model, Order, Promise, Reader, Seen},
    history::{History, Note, Notebook, Told},
};

/// What the workers' transactions write to.
const TABLES: &str = "
    CREATE SCHEMA fire;
    CREATE TABLE fire.effects (
        id bigserial PRIMARY KEY, reader text NOT NULL, event uuid NOT NULL,
        xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint);
    CREATE INDEX ON fire.effects (reader, event);
    CREATE TABLE fire.advances (
        role text NOT NULL, epoch bigint NOT NULL, xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint);
    CREATE TABLE fire.ledger (
        stream text PRIMARY KEY, events bigint NOT NULL, total bigint NOT NULL, digest bigint NOT NULL);";

/// Events that a reader has not handled.
const LEFT: &str = "
    SELECT count(*) FROM eventbus.events e
    WHERE NOT EXISTS (SELECT FROM fire.effects f WHERE f.reader = $1 AND f.event = e.event_id)";

const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(90);

/// Where processes play.
#[derive(Debug)]
pub struct Scene {
    script: Script,
}

impl Scene {
    /// Prepares a database without tables and a stream without entries.
    ///
    /// # Errors
    /// Whatever the servers say.
    pub async fn prepare(store: &str, redis: &str, poison: bool) -> Result<Self, Trouble> {
        PgEventStore::connect(store).await?.close().await;
        run(&mut PgConnection::connect(store).await?, TABLES).await?;
        let prefix = test_servers::unique_name("fire");
        let notes = std::env::temp_dir().join(format!("{prefix}.jsonl"));
        let script = Script {
            writes: false,
            store: store.into(),
            redis: redis.into(),
            prefix,
            name: "watcher".into(),
            notes,
            seed: 0,
            death: None,
            poison,
        };
        Ok(Self { script })
    }

    /// What a process plays here by this name; it is not to die by itself.
    #[must_use]
    pub fn script(&self, name: &str, seed: u64, writes: bool) -> Script {
        Script { name: name.into(), seed, writes, ..self.script.clone() }
    }

    /// A connection to the database.
    ///
    /// # Errors
    /// Whatever the server says.
    pub async fn connection(&self) -> Result<PgConnection, Trouble> {
        let mut connection = PgConnection::connect(&self.script.store).await?;
        run(&mut connection, "SET search_path TO eventbus").await?;
        Ok(connection)
    }

    /// A connection to Redis.
    ///
    /// # Errors
    /// Whatever the server says.
    pub async fn redis(&self) -> Result<redis::aio::MultiplexedConnection, Trouble> {
        connect(&self.script.redis).await
    }

    /// Notes that an event is about to be appended by who plays no part.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn note_probe(&self, event: &NewEvent) -> Result<(), Trouble> {
        Notebook::open(&self.script.notes)?.note(&Note::Told(Told::Sent(vec![event.event_id().as_uuid()])))
    }

    async fn bus(&self) -> Result<RedisEventBus, Trouble> {
        Ok(RedisEventBus::connect(bus_config(&self.script)).await?)
    }

    /// Waits until everything is handled, and returns how long that took.
    ///
    /// # Errors
    /// What is left when it takes too long; what a server says that cannot be asked.
    pub async fn settle(&self) -> Result<Duration, Trouble> {
        let begin = Instant::now();
        let (mut connection, bus) = (self.connection().await?, self.bus().await?);
        loop {
            let mut left = Vec::new();
            for reader in ["ledger", "inbox"] {
                let count: i64 = sqlx::query_scalar(LEFT).bind(reader).fetch_one(&mut connection).await?;
                left.push((reader.to_owned(), count.try_into()?));
            }
            for group in groups() {
                let progress = bus.progress(&group).await?;
                left.push((format!("group {group}"), progress.unread + progress.pending));
            }
            if left.iter().all(|(_, count)| *count == 0_u64) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("after {PATIENCE:?} there is left: {left:?}").into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is found in the end. Whether the stream kept all that it acknowledged, so that nothing is in it twice.
    ///
    /// # Errors
    /// Whatever the servers say.
    pub async fn evidence(&self, is_kept: bool) -> Result<Evidence, Trouble> {
        let mut connection = self.connection().await?;
        let mut evidence = Evidence { stored: stored(&mut connection).await?, ..Evidence::default() };
        let mail = Reader { name: "mail".into(), dead: self.dead("mail").await?, ..Reader::default() };
        let inbox = Reader {
            name: "inbox".into(),
            promise: Promise { once: true, order: Order::None },
            seen: effects(&mut connection, "inbox").await?,
            dead: self.dead("inbox").await?,
            ..Reader::default()
        };
        evidence.readers = vec![mail, inbox, ledger(&mut connection).await?];
        if is_kept {
            evidence.readers.push(self.stream().await?);
        }
        evidence.add(History::read(&self.script.notes)?);
        Ok(evidence)
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
        let (mut redis, mut seen, mut from) = (self.redis().await?, Vec::new(), "-".to_owned());
        loop {
            let mut range = redis::cmd("XRANGE");
            range.arg(bus_config(&self.script).stream_name()).arg(&from).arg("+").arg("COUNT").arg(1_000);
            let page: StreamRangeReply = range.query_async(&mut redis).await?;
            for entry in &page.ids {
                let event: String = entry.get("event_id").ok_or("an entry without event id")?;
                seen.push(Seen { event: event.parse()?, epoch: 0 });
            }
            match page.ids.last() {
                Some(last) => from = format!("({}", last.id),
                None => break,
            }
        }
        let promise = Promise { once: true, order: Order::Total };
        Ok(Reader { name: "stream".into(), promise, seen, ..Reader::default() })
    }

    /// Removes the notes and the stream.
    ///
    /// # Errors
    /// Whatever the servers say.
    pub async fn clear(&self) -> Result<(), Trouble> {
        std::fs::remove_file(&self.script.notes)?;
        let mut redis = self.redis().await?;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("*{}*", self.script.prefix)).query_async(&mut redis).await?;
        Ok(redis::cmd("DEL").arg(keys).query_async(&mut redis).await?)
    }
}

/// Connects to a Redis server, which on a busy machine takes its time to answer.
pub(super) async fn connect(url: &str) -> Result<redis::aio::MultiplexedConnection, Trouble> {
    let config =
        redis::AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?)
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
    let sql = "SELECT stream, events, total, digest FROM fire.ledger";
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut *connection).await?;
    let folded = |(stream, events, total, digest): (String, _, _, _)| (stream.into(), Folded { events, total, digest });
    let model: Model = rows.into_iter().map(folded).collect();
    let sql = "SELECT position FROM checkpoints WHERE name = (SELECT max(role) FROM fire.advances)";
    let checkpoint: Option<i64> = sqlx::query_scalar(sql).fetch_optional(connection).await?;
    let checkpoint = checkpoint.map(u64::try_from).transpose()?;
    let promise = Promise { once: true, order: Order::Total };
    Ok(Reader { name: "ledger".into(), promise, seen, model: Some(model), checkpoint, ..Reader::default() })
}
