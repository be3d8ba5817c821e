//! The workloads that peers have, too. Each is written once, for any implementation.

mod consume;
mod load;
mod publish;
mod rebuild;
mod save;

pub use self::{
    consume::{Consume, Consumer, Handler},
    load::{EVENTS as LOADED_EVENTS, Load, LoadAndSave},
    publish::{Batches, Publisher, Singles},
    rebuild::{Rebuild, Rebuilds},
    save::{HeldOrder, Orders, QUICK_DIVISOR, Save, SnapshotOrders},
};
use crate::{Result, bench::Bench, items::Items, worker::WorkerArgs};

/// Opens a workload of orders.
pub async fn open_orders(name: &str, orders: impl Orders, args: &WorkerArgs) -> Result<Box<dyn Bench>> {
    Ok(match name {
        "save-1" => Box::new(Save::new(orders, 1, Items::default(), args)),
        "save-10" => Box::new(Save::new(orders, 10, Items::default(), args)),
        "load-100-save" => Box::new(LoadAndSave::open(orders, args).await?),
        "load-10" => Box::new(Load::short(orders, args).await?),
        "load-10000" => Box::new(Load::long(orders, args).await?),
        _ => return Err(format!("workload `{name}` is not implemented").into()),
    })
}

/// Opens a workload of a bus that fills the stream to consume, too.
pub async fn open_bus<B: Publisher + Consumer>(args: &WorkerArgs) -> Result<Box<dyn Bench>> {
    Ok(match args.workload.as_str() {
        "publish-1" => Box::new(Singles::<B>::open(&Items::default(), args).await?),
        "publish-100" => Box::new(Batches::<B>::open(&Items::default(), args).await?),
        "consume" => Box::new(Consume::<B>::open::<B>(1, 1, args).await?),
        name => return Err(format!("workload `{name}` is not implemented").into()),
    })
}
