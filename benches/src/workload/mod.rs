//! The workloads, and those that no peer has. Each is written once, for any implementation.

mod decide;
mod delivering;
mod list;
mod react;

use std::time::Duration;

use async_trait::async_trait;
pub use bench_common::workload::*;
use eventbus::Result;
use eventstore_postgres::PgEventStore;
use tempfile::TempDir;

pub use self::{
    decide::Courses,
    delivering::Delivering,
    list::{ALL, Server, Workload, find},
    react::Reactions,
};
use crate::{
    bench::{Bench, Round},
    by_hand, driver,
    implementation::Implementation,
    meter::Meter,
    ours,
    own_worker::OwnWorkerArgs,
    postgres_server,
    worker::WorkerArgs,
};

impl Workload {
    /// Opens the workload with data of its own: a new database, or streams with a new prefix.
    pub async fn open(&self, args: &OwnWorkerArgs) -> Result<Box<dyn Bench>> {
        if let Some(name) = self.name.strip_prefix("sqlite-") {
            return open_on_disk(name, args).await;
        }
        if !self.servers.contains(&Server::Postgres) {
            return self.open_on(args, "").await;
        }
        if let Some(database) = &args.scale.database {
            return self.open_on(args, database).await;
        }
        let database = postgres_server::new_database(&args.common.postgres).await?;
        let bench = self.open_on(args, &database).await?;
        if args.implementation != Implementation::NotAnalyzed {
            postgres_server::analyze(&database).await?;
        }
        Ok(bench)
    }

    async fn open_on(&self, args: &OwnWorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
        match args.implementation {
            Implementation::Ours | Implementation::NotAnalyzed => open_ours(self.name, args, database).await,
            Implementation::ByHand => open_by_hand(self.name, args, database).await,
            Implementation::GroupedByHand => {
                open_own_orders(self.name, by_hand::GroupedOrders::open(database).await?, args).await
            }
            Implementation::CompactByHand => {
                open_own_bus::<by_hand::Bus<true>, by_hand::Bus<true>>(self.name, args).await
            }
        }
    }

    /// Returns the meter of the servers that the workload uses.
    pub async fn meter(&self, args: &WorkerArgs) -> Result<Meter> {
        let mut meter = Meter::default();
        for server in self.servers {
            meter = match server {
                Server::Postgres => meter.with_postgres(&args.postgres).await?,
                Server::Redis => meter.with_redis(&args.redis).await?,
            };
        }
        Ok(meter)
    }
}

async fn open_ours(name: &str, args: &OwnWorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
    let (common, store) = (&args.common, || PgEventStore::connect(database));
    Ok(match name {
        "publish-1" | "publish-100" | "consume" => open_own_bus::<ours::Bus, by_hand::Bus>(name, args).await?,
        "deliver" => react(name, Delivering::<ours::Bus>::start(&common.redis).await?),
        "decide-cold" | "decide-hot" => {
            let courses = ours::TaggedCourses::start(store().await?).await?;
            Box::new(decide::Decide::open(courses, name == "decide-hot", common).await?)
        }
        "react" | "react-steady" | "react-gathered" => {
            let gather = if name == "react-gathered" { Duration::from_millis(10) } else { Duration::ZERO };
            react(name, ours::Reacting::start(store().await?, &common.redis, gather).await?)
        }
        "project-memory" | "project-rows" => {
            let kind = if name == "project-rows" { ours::Kind::Rows } else { ours::Kind::Memory };
            Box::new(react::React::open(ours::Projecting::start(store().await?, kind, args.scale.projections).await?))
        }
        "rebuild-memory" => rebuild(ours::MemoryRebuilds::new(store().await?), args).await?,
        "rebuild-rows" => rebuild(ours::RowRebuilds::<ours::TotalRows>::new(database).await?, args).await?,
        "rebuild-batches" => rebuild(ours::RowRebuilds::<ours::TotalBatches>::new(database).await?, args).await?,
        "load-10000-snapshot" => {
            let orders = ours::StoredOrders::with_snapshots(store().await?);
            Box::new(Load::from_snapshot(orders, common).await?)
        }
        _ => open_own_orders(name, ours::StoredOrders::new(store().await?), args).await?,
    })
}

async fn open_by_hand(name: &str, args: &OwnWorkerArgs, database: &str) -> Result<Box<dyn Bench>> {
    let (common, orders) = (&args.common, || by_hand::PgOrders::open(database));
    Ok(match name {
        "publish-1" | "publish-100" | "consume" => open_own_bus::<by_hand::Bus, by_hand::Bus>(name, args).await?,
        "deliver" => react(name, Delivering::<by_hand::Bus>::start(&common.redis).await?),
        "decide-cold" | "decide-hot" => {
            let courses = by_hand::PgCourses::open(database).await?;
            Box::new(decide::Decide::open(courses, name == "decide-hot", common).await?)
        }
        "react" | "react-steady" | "react-gathered" => {
            react(name, by_hand::Reacting::start(orders().await?, &common.redis).await?)
        }
        "rebuild-memory" => rebuild(by_hand::MemoryRebuilds::new(orders().await?), args).await?,
        "rebuild-rows" => rebuild(by_hand::RowRebuilds::new(orders().await?), args).await?,
        "rebuild-batches" => rebuild(by_hand::RowRebuilds::in_batches(orders().await?), args).await?,
        "load-10000-snapshot" => {
            let orders = by_hand::PgSnapshotOrders::open(database).await?;
            Box::new(Load::from_snapshot(orders, common).await?)
        }
        _ => open_own_orders(name, orders().await?, args).await?,
    })
}

/// Opens a workload on SQLite.
async fn open_on_disk(name: &str, args: &OwnWorkerArgs) -> Result<Box<dyn Bench>> {
    let folder = tempfile::tempdir_in(driver::target_folder())?;
    let file = folder.path().join("events.db");
    let bench: Box<dyn Bench> = match args.implementation {
        Implementation::Ours => {
            let store = eventstore_sqlite::SqliteEventStore::open(&file).await?;
            match name {
                "rebuild-memory" => rebuild(ours::MemoryRebuilds::new(store), args).await?,
                _ => open_own_orders(name, ours::StoredOrders::new(store), args).await?,
            }
        }
        Implementation::ByHand => {
            let orders = by_hand::SqliteOrders::open(&file)?;
            match name {
                "rebuild-memory" => rebuild(by_hand::SqliteRebuilds::new(orders), args).await?,
                _ => open_own_orders(name, orders, args).await?,
            }
        }
        Implementation::GroupedByHand => {
            open_own_orders(name, by_hand::GroupedSqliteOrders::open(&file)?, args).await?
        }
        Implementation::CompactByHand | Implementation::NotAnalyzed => {
            return Err(format!("the implementation has no `sqlite-{name}`").into());
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

/// Opens a workload of orders, with the sizes of the arguments where they vary.
async fn open_own_orders(name: &str, orders: impl Orders, args: &OwnWorkerArgs) -> Result<Box<dyn Bench>> {
    let OwnWorkerArgs { common, scale, .. } = args;
    Ok(match name {
        "save-1" => {
            let save = Save::new(orders, 1, scale.items()?, common);
            Box::new(if scale.database.is_some() { save.shared() } else { save })
        }
        "load-100" => Box::new(Load::some(orders, scale.orders.clone(), common)),
        _ => open_orders(name, orders, common).await?,
    })
}

/// Opens a workload of a bus, with the sizes of the arguments; `P` publishes the entries to consume.
async fn open_own_bus<B: Publisher + Consumer, P: Publisher>(
    name: &str,
    args: &OwnWorkerArgs,
) -> Result<Box<dyn Bench>> {
    let OwnWorkerArgs { common, scale, .. } = args;
    Ok(match name {
        "publish-1" => Box::new(Singles::<B>::open(&scale.items()?, common).await?),
        "publish-100" => Box::new(Batches::<B>::open(&scale.items()?, common).await?),
        _ => Box::new(Consume::<B>::open::<P>(scale.groups, scale.handlers, common).await?),
    })
}

async fn rebuild(projection: impl Rebuilds, args: &OwnWorkerArgs) -> Result<Box<dyn Bench>> {
    Ok(Box::new(match args.scale.database {
        Some(_) => Rebuild::of_stored(projection).await?,
        None => Rebuild::open(projection, &args.common).await?,
    }))
}

fn react(workload: &str, reactions: impl Reactions) -> Box<dyn Bench> {
    match workload {
        "react" | "deliver" => Box::new(react::React::open(reactions)),
        _ => Box::new(react::Steady::open(reactions)),
    }
}
