//! A database with orders, which workers use one after the other.

use eventbus::Result;
use eventstore_postgres::PgEventStore;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    bench::expect,
    order::ItemAdded,
    ours,
    postgres_server::new_database,
    workload::{HeldOrder as _, LOADED_EVENTS, Orders},
};

/// The orders that are loaded.
const LOADED: usize = 50;
const WRITERS: usize = 64;
const EVENTS_PER_SAVE: u64 = 100;
/// So many times the writers come to each order, with a part of its events: those of one order are stored apart.
const PASSES: u64 = 10;

/// The lengths of all orders: a few have those of a loaded order, the others share the rest of the events.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    streams: usize,
    events: u64,
}

impl Lengths {
    fn new(streams: usize, events: u64) -> Result<Self> {
        let lengths = Self { streams, events };
        let is_enough = streams > LOADED && lengths.shared().is_some_and(|shared| shared >= lengths.others());
        if is_enough { Ok(lengths) } else { Err(format!("{events} events are too few for {streams} streams").into()) }
    }

    fn is_loaded(self, order: usize) -> bool {
        let every = self.streams / LOADED;
        order.is_multiple_of(every) && order / every < LOADED
    }

    fn others(self) -> u64 {
        (self.streams - LOADED) as u64
    }

    /// Returns the events of the orders that are not loaded.
    fn shared(self) -> Option<u64> {
        self.events.checked_sub(LOADED as u64 * LOADED_EVENTS)
    }

    /// Returns the number of events of an order.
    fn of(self, order: usize) -> u64 {
        if self.is_loaded(order) {
            return LOADED_EVENTS;
        }
        let every = self.streams / LOADED;
        let loaded_before = order.div_ceil(every).min(LOADED);
        let shared = self.shared().unwrap_or_default();
        let is_longer = ((order - loaded_before) as u64) < shared % self.others();
        shared / self.others() + u64::from(is_longer)
    }
}

/// A new database with orders of ours.
pub struct FilledStore {
    server: String,
    pub database: String,
    /// The ids of the orders to load.
    pub loaded: Vec<Uuid>,
    events: u64,
}

impl FilledStore {
    pub async fn empty(server: &str) -> Result<Self> {
        Ok(Self { server: server.into(), database: new_database(server).await?, loaded: Vec::new(), events: 0 })
    }

    async fn orders(&self) -> Result<ours::StoredOrders<PgEventStore>> {
        Ok(ours::StoredOrders::new(PgEventStore::connect(&self.database).await?))
    }

    /// Creates a database and saves orders: `streams` of them, with `events` in all.
    pub async fn create(server: &str, streams: usize, events: u64) -> Result<Self> {
        let lengths = Lengths::new(streams, events)?;
        let empty = Self::empty(server).await?;
        let (orders, mut writers) = (empty.orders().await?, JoinSet::new());
        for writer in 0..WRITERS {
            let orders = orders.clone();
            writers.spawn(async move { fill(&orders, lengths, writer).await });
        }
        let loaded: Result<Vec<_>> = writers.join_all().await.into_iter().collect();
        // a connection that ends in a round takes its processor time out of the server's
        orders.store.close().await;
        let mut connection = PgConnection::connect(&empty.database).await?;
        // as autovacuum does some time after the tables were filled
        connection.execute("VACUUM ANALYZE").await?;
        connection.execute("CHECKPOINT").await?;
        Ok(Self { loaded: loaded?.concat(), events, ..empty })
    }

    /// Adds events that workers have saved.
    pub fn add_saved(&mut self, events: u64) {
        self.events += events;
    }

    /// Fails unless all events are there; drops the database.
    pub async fn check(self) -> Result<()> {
        let orders = self.orders().await?;
        expect("events in the store", &orders.count_events().await?, &self.events)?;
        orders.store.close().await;
        let name = self.database.rsplit_once('/').map_or("", |(_, name)| name);
        let drop = AssertSqlSafe(format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
        sqlx::query(drop).execute(&mut PgConnection::connect(&self.server).await?).await?;
        Ok(())
    }
}

/// Saves the orders of one writer, and returns the ids of those to load.
async fn fill<O: Orders>(orders: &O, lengths: Lengths, writer: usize) -> Result<Vec<Uuid>> {
    let mut loaded = Vec::new();
    let own = || (writer..lengths.streams).step_by(WRITERS);
    let mut unfinished: Vec<_> = own().map(|_| None).collect();
    for pass in 1..=PASSES {
        for (order, held) in own().zip(&mut unfinished) {
            let length = lengths.of(order);
            // begins with short orders in different passes
            let due = (length * pass + order as u64 % PASSES) / PASSES;
            let mut stored = (length * (pass - 1) + order as u64 % PASSES) / PASSES;
            if stored == due {
                continue;
            }
            let current = held.get_or_insert_with(|| orders.create());
            while stored < due {
                let end = due.min(stored + EVENTS_PER_SAVE);
                orders.save(current, (stored..end).map(ItemAdded::new).collect()).await?;
                stored = end;
            }
            if due == length {
                loaded.extend(lengths.is_loaded(order).then(|| current.id()));
                *held = None;
            }
        }
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_of_all_orders_add_up() -> Result<()> {
        for (streams, events) in [(1_000, 10_000), (1_000, 1_000_000), (100_000, 200_000), (1_234, 56_789)] {
            let lengths = Lengths::new(streams, events)?;
            assert_eq!((0..streams).map(|order| lengths.of(order)).sum::<u64>(), events);
            assert_eq!((0..streams).filter(|&order| lengths.is_loaded(order)).count(), LOADED);
            assert!((0..streams).all(|order| lengths.of(order) > 0));
        }
        assert!(Lengths::new(10_000, 10_000).is_err());
        assert!(Lengths::new(10, 10_000).is_err());
        Ok(())
    }
}
