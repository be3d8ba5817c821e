//! The workloads. Each is written once, for both implementations.

mod consume;
mod decide;
mod list;
mod load;
mod publish;
mod react;
mod rebuild;
mod save;

use std::time::Duration;

use async_trait::async_trait;
use eventbus::Result;
use eventbus_test::unique_name;
use eventstore_postgres::PgEventStore;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

pub use self::{
    consume::{Consumer, Handler},
    decide::Courses,
    list::{ALL, Server, Workload, find},
    load::EVENTS as LOADED_EVENTS,
    publish::Publisher,
    react::Reactions,
    rebuild::Rebuilds,
    save::{HeldOrder, Orders, SnapshotOrders},
};
use crate::{
    WorkerArgs,
    bench::{Bench, Implementation, Round},
    by_hand, driver,
    meter::Meter,
    ours, redis_server,
};

impl Workload {
    /// Opens the workload with data of its own: a new database, or streams with a new prefix.
    pub async fn open(&self, args: &WorkerArgs) -> Result<Box<dyn Bench>> {
        if let Some(name) = self.name.strip_prefix("sqlite-") {
            return open_on_disk(name, args).await;
        }
        if !self.servers.contains(&Server::Postgres) {
            return self.open_on(args, "").await;
        }
        if let Some(database) = &args.scale.database {
            return self.open_on(args, database).await;
        }
        let database = new_database(&args.postgres).await?;
        let bench = self.open_on(args, &database).await?;
        // as autovacuum does some time after the tables were filled
        PgConnection::connect(&database).await?.execute("ANALYZE").await?;
        Ok(bench)
    }

    async fn open_on(&self, args: &WorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
        match args.implementation {
            Implementation::Ours => open_ours(self.name, args, database).await,
            Implementation::ByHand => open_by_hand(self.name, args, database).await,
        }
    }

    /// Returns the meter of the servers that the workload uses.
    pub async fn meter(&self, args: &WorkerArgs) -> Result<Meter> {
        let mut meter = Meter::default();
        for server in self.servers {
            match server {
                Server::Postgres => {
                    let mut connection = PgConnection::connect(&args.postgres).await?;
                    meter.add_parent_of(
                        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?,
                    )?;
                }
                Server::Redis => {
                    let mut connection = redis_server::connect(&args.redis).await?;
                    meter.add_server(redis_server::process_id(&mut connection).await?);
                }
            }
        }
        Ok(meter)
    }
}

async fn open_ours(name: &str, args: &WorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
    let store = || PgEventStore::connect(database);
    Ok(match name {
        "publish-1" => Box::new(publish::Singles::<ours::Bus>::open(args).await?),
        "publish-100" => Box::new(publish::Batches::<ours::Bus>::open(args).await?),
        "consume" => Box::new(consume::Consume::<ours::Bus>::open(args).await?),
        "decide-cold" | "decide-hot" => {
            let courses = ours::TaggedCourses::start(store().await?).await?;
            Box::new(decide::Decide::open(courses, name == "decide-hot", args).await?)
        }
        "react" | "react-steady" | "react-gathered" => {
            let gather = if name == "react-gathered" { Duration::from_millis(10) } else { Duration::ZERO };
            react(name, ours::Reacting::start(store().await?, &args.redis, gather).await?)
        }
        "project-memory" | "project-rows" => {
            let kind = if name == "project-rows" { ours::Kind::Rows } else { ours::Kind::Memory };
            Box::new(react::React::open(ours::Projecting::start(store().await?, kind, args.scale.projections).await?))
        }
        "rebuild-memory" => Box::new(rebuild::Rebuild::open(ours::MemoryRebuilds::new(store().await?), args).await?),
        "rebuild-rows" => {
            let rows = ours::RowRebuilds::<ours::TotalRows>::new(database).await?;
            Box::new(rebuild::Rebuild::open(rows, args).await?)
        }
        "rebuild-batches" => {
            let rows = ours::RowRebuilds::<ours::TotalBatches>::new(database).await?;
            Box::new(rebuild::Rebuild::open(rows, args).await?)
        }
        "load-10000-snapshot" => {
            let orders = ours::StoredOrders::with_snapshots(store().await?);
            Box::new(load::Load::from_snapshot(orders, args).await?)
        }
        _ => open_orders(name, ours::StoredOrders::new(store().await?), args).await?,
    })
}

async fn open_by_hand(name: &str, args: &WorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
    let orders = || by_hand::PgOrders::open(database);
    Ok(match name {
        "publish-1" => Box::new(publish::Singles::<by_hand::Bus>::open(args).await?),
        "publish-100" => Box::new(publish::Batches::<by_hand::Bus>::open(args).await?),
        "consume" => Box::new(consume::Consume::<by_hand::Bus>::open(args).await?),
        "decide-cold" | "decide-hot" => {
            let courses = by_hand::PgCourses::open(database).await?;
            Box::new(decide::Decide::open(courses, name == "decide-hot", args).await?)
        }
        "react" | "react-steady" | "react-gathered" => {
            react(name, by_hand::Reacting::start(orders().await?, &args.redis).await?)
        }
        "rebuild-memory" => {
            Box::new(rebuild::Rebuild::open(by_hand::MemoryRebuilds::new(orders().await?), args).await?)
        }
        "rebuild-rows" => Box::new(rebuild::Rebuild::open(by_hand::RowRebuilds::new(orders().await?), args).await?),
        "rebuild-batches" => {
            Box::new(rebuild::Rebuild::open(by_hand::RowRebuilds::in_batches(orders().await?), args).await?)
        }
        "load-10000-snapshot" => {
            let orders = by_hand::PgSnapshotOrders::open(database).await?;
            Box::new(load::Load::from_snapshot(orders, args).await?)
        }
        _ => open_orders(name, orders().await?, args).await?,
    })
}

/// Opens a workload on SQLite.
async fn open_on_disk(name: &str, args: &WorkerArgs) -> Result<Box<dyn Bench>> {
    let folder = tempfile::tempdir_in(driver::target_folder())?;
    let file = folder.path().join("events.db");
    let bench: Box<dyn Bench> = match args.implementation {
        Implementation::Ours => {
            let store = eventstore_sqlite::SqliteEventStore::open(&file).await?;
            match name {
                "rebuild-memory" => Box::new(rebuild::Rebuild::open(ours::MemoryRebuilds::new(store), args).await?),
                _ => open_orders(name, ours::StoredOrders::new(store), args).await?,
            }
        }
        Implementation::ByHand => {
            let orders = by_hand::SqliteOrders::open(&file)?;
            match name {
                "rebuild-memory" => Box::new(rebuild::Rebuild::open(by_hand::SqliteRebuilds::new(orders), args).await?),
                _ => open_orders(name, orders, args).await?,
            }
        }
    };
    Ok(Box::new(OnDisk { bench, _folder: folder }))
}

/// A workload with the folder of its database.
struct OnDisk {
    bench: Box<dyn Bench>,
    _folder: TempDir,
}

#[async_trait]
impl Bench for OnDisk {
    async fn run(&mut self) -> Result<Round> {
        self.bench.run().await
    }

    async fn clean_up(&mut self) -> Result<()> {
        self.bench.clean_up().await
    }

    async fn check(&mut self) -> Result<()> {
        self.bench.check().await
    }
}

async fn open_orders(name: &str, orders: impl Orders, args: &WorkerArgs) -> Result<Box<dyn Bench>> {
    Ok(match name {
        "save-1" => Box::new(save::Save::new(orders, 1, args)?),
        "save-10" => Box::new(save::Save::new(orders, 10, args)?),
        "load-100-save" => Box::new(load::LoadAndSave::open(orders, args).await?),
        "load-10" => Box::new(load::Load::short(orders, args).await?),
        "load-100" => Box::new(load::Load::some(orders, args)),
        "load-10000" => Box::new(load::Load::long(orders, args).await?),
        _ => return Err(format!("workload `{name}` is not implemented").into()),
    })
}

/// Creates a database, and returns its URL.
pub async fn new_database(server: &str) -> Result<String> {
    let name = unique_name("bench");
    let mut connection = PgConnection::connect(server).await?;
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).execute(&mut connection).await?;
    let (server, _) = server.rsplit_once('/').ok_or("the server's URL names no database")?;
    Ok(format!("{server}/{name}"))
}

fn react(workload: &str, reactions: impl Reactions) -> Box<dyn Bench> {
    match workload {
        "react" => Box::new(react::React::open(reactions)),
        _ => Box::new(react::Steady::open(reactions)),
    }
}
