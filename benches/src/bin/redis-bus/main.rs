//! The Redis bus against code written by hand on the same client: see `benches/README.md`.
//!
//! Keep: both sides do the same work for the same caller. `workload.rs` is that caller and knows neither side;
//! `check.rs` compares the entries that both write before anything is measured.

mod by_hand;
mod check;
mod meter;
mod order;
mod ours;
mod server;
mod side;
mod table;
mod workload;

use std::thread::available_parallelism;

use eventbus::Result;

use crate::{
    by_hand::ByHand,
    ours::Ours,
    server::Server,
    side::Pair,
    table::{Latencies, Throughputs},
};

/// Odd, so that a median is one that was measured.
const ROUNDS: usize = 7;

#[tokio::main]
async fn main() -> Result<()> {
    let server = Server::start().await?;
    check::same_entries(&server).await?;
    let cores = available_parallelism()?;
    println!(
        "Redis {}, {cores} cores, {ROUNDS} rounds, {} bytes of fields\n",
        server.version().await?,
        order::bytes()?
    );
    warm_up(&server).await?;

    let (mut singles, mut batches, mut consuming, mut latencies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let stock = workload::stock(&server).await?;
    for round in 0..ROUNDS {
        let (ours, by_hand) = (workload::singles::<Ours>(&server), workload::singles::<ByHand>(&server));
        singles.push(Pair::of(round, ours, by_hand).await?);
        let (ours, by_hand) = (workload::batches::<Ours>(&server), workload::batches::<ByHand>(&server));
        batches.push(Pair::of(round, ours, by_hand).await?);
        let (ours, by_hand) =
            (workload::consuming::<Ours>(&server, &stock), workload::consuming::<ByHand>(&server, &stock));
        consuming.push(Pair::of(round, ours, by_hand).await?);
        let (ours, by_hand) = (workload::latencies::<Ours>(&server), workload::latencies::<ByHand>(&server));
        latencies.push(Pair::of(round, ours, by_hand).await?);
    }

    println!("{}", Throughputs::HEAD);
    println!("{}", Throughputs { what: "publish one at a time, 32 tasks", rounds: &singles });
    println!("{}", Throughputs { what: "publish batches of 100", rounds: &batches });
    println!("{}\n", Throughputs { what: "consume 100,000", rounds: &consuming });
    println!("{}", Latencies::HEAD);
    println!("{}", Latencies { what: "publish to handler, p50", part: 0.50, rounds: &latencies });
    println!("{}", Latencies { what: "publish to handler, p99", part: 0.99, rounds: &latencies });
    Ok(())
}

async fn warm_up(server: &Server) -> Result<()> {
    workload::singles::<Ours>(server).await?;
    workload::singles::<ByHand>(server).await?;
    Ok(())
}
