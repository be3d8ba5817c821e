//! A table of orders, written in the store's own transactions, and rebuilt while customers continue to order.
//!
//! ```sh
//! cargo run -p examples --release --bin rebuild
//! ```
//!
//! An earlier version of the projection recorded every order as unpaid: the table is wrong, the events are right. Kill
//! the example during the rebuild (Ctrl-C) and start it again with `--resume`: the wrong rows are served until the
//! right ones are complete, and the rebuild continues where it was.

use std::{io::Write, path::PathBuf, time::Duration};

use clap::Parser;
use eventbus::{Position, Result, prelude::*, projection::RebuildProgress};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction, SqliteTransactionError, rusqlite::Connection};
use futures_util::{StreamExt, TryStreamExt};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct OrderPlaced {
    customer: String,
    cents: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct OrderShipped {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(OrderPlaced, OrderShipped))]
struct Order {
    is_shipped: bool,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        self.is_shipped |= matches!(event, OrderEvent::OrderShipped(_));
    }
}

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS order_rows (
    order_id TEXT PRIMARY KEY,
    customer TEXT NOT NULL,
    cents INTEGER NOT NULL,
    is_shipped INTEGER NOT NULL
)";

/// The table. `tables` names the tables that a rebuild replaces, `key` the column that assigns rows to an order, `set_up`
/// the statement that creates the table at the start.
#[derive(Default)]
struct OrderRows;

#[projection(name = "order-rows", tables("order_rows"), key = "order_id", set_up = SCHEMA)]
impl OrderRows {
    fn placed(
        &self,
        event: &OrderPlaced,
        id: &AggregateId,
        tx: &mut SqliteTransaction,
    ) -> Result<(), SqliteTransactionError> {
        let row = (id.as_str(), &event.customer, event.cents.cast_signed());
        tx.execute("INSERT INTO order_rows (order_id, customer, cents, is_shipped) VALUES (?1, ?2, ?3, 0)", row)?;
        Ok(())
    }

    fn shipped(
        &self,
        _event: &OrderShipped,
        id: &AggregateId,
        tx: &mut SqliteTransaction,
    ) -> Result<(), SqliteTransactionError> {
        tx.execute("UPDATE order_rows SET is_shipped = 1 WHERE order_id = ?1", [id.as_str()])?;
        Ok(())
    }
}

#[derive(Parser)]
struct Args {
    /// Number of orders before the rebuild
    #[arg(long, default_value_t = 20_000)]
    orders: usize,
    /// Continues with the file of the last run
    #[arg(long)]
    resume: bool,
    /// The folder of the file; one in the target folder by default
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let folder = args.folder.map_or_else(|| examples::in_target("rebuild"), Ok)?;
    if !args.resume && folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("orders.db");
    let store = SqliteEventStore::open(&file).await?;
    let app = App::builder().store(store).discover().lease(Duration::from_secs(2)).start().await?;
    let table = Connection::open(&file)?;
    if !args.resume {
        let last = place_orders(&app, args.orders).await?;
        app.projected::<OrderRows>(last).await.map(drop)?;
        table.execute("UPDATE order_rows SET cents = 0", ())?;
    }
    println!("before: {}", figures(&table)?);

    let customers = tokio::spawn(keep_ordering(app.clone()));
    let rebuilt = app.rebuild::<OrderRows>().on_progress(show).await?;
    println!("\nrebuilt {} events in {:.1?}", rebuilt.events, rebuilt.took);
    customers.abort();
    app.settled().await?;
    println!("after:  {}", figures(&table)?);
    app.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}

/// Prints the progress bar on one line.
fn show(now: RebuildProgress) {
    print!("\r{now}        ");
    let _ = std::io::stdout().flush();
}

/// Places orders, each shipped at once, 64 concurrently; returns the position of the last one.
async fn place_orders(app: &App, orders: usize) -> Result<Option<Position>> {
    let repository = app.repository::<Order>();
    let place = |number: usize| {
        let repository = repository.clone();
        async move {
            let mut order = repository.create_new(AggregateId::new());
            order.record(OrderPlaced { customer: format!("customer {}", number % 1_000), cents: 100 });
            order.record(OrderShipped {});
            Ok::<_, eventbus::Error>(repository.save(&mut order).await?.position)
        }
    };
    let saved = futures_util::stream::iter((0..orders).map(place)).buffer_unordered(64);
    saved.try_fold(None, |last, position| async move { Ok(last.max(position)) }).await
}

async fn keep_ordering(app: App) {
    while place_orders(&app, 10).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn figures(table: &Connection) -> Result<String> {
    let sum = "SELECT count(*), coalesce(sum(is_shipped), 0), coalesce(sum(cents), 0) / 100 FROM order_rows";
    let text = table.query_row(sum, (), |row| {
        let [orders, shipped, paid]: [i64; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
        Ok(format!("{orders} orders, {shipped} shipped, {paid} paid"))
    })?;
    Ok(text)
}
