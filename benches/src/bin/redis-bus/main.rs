//! The Redis bus compared with handwritten code on the same client: see `benches/README.md`.
//!
//! Invariant: both sides do the same work for the same caller. `workload.rs` is that caller and knows neither side;
//! `check.rs` compares the entries of both before the first measurement.

mod by_hand;
mod check;
mod meter;
mod order;
mod ours;
mod server;
mod side;
mod table;
mod workload;

use std::{env, thread::available_parallelism};

use eventbus::Result;

use crate::{by_hand::ByHand, ours::Ours, server::Server, side::Pair};

/// Odd, so that the median is a measured value.
const ROUNDS: usize = 11;
/// Publishing is measured in short parts, so that other load on the machine affects both sides.
const PARTS: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    // all workloads, or the named one: singles, batches, consuming, latencies
    let only = env::args().nth(1);
    let wanted = |name| only.as_deref().is_none_or(|only| only == name);
    let server = Server::start().await?;
    check::same_entries(&server).await?;
    let cores = available_parallelism()?;
    println!(
        "Redis {}, {cores} cores, {ROUNDS} rounds, {} bytes of fields\n",
        server.version().await?,
        order::bytes()?
    );
    workload::singles::<Ours>(&server).await?; // warms up
    workload::singles::<ByHand>(&server).await?;

    let (mut singles, mut batches, mut consuming, mut latencies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let stock = workload::stock(&server).await?;
    for round in 0..ROUNDS {
        for part in 0..PARTS {
            if wanted("singles") {
                let (ours, by_hand) = (workload::singles::<Ours>(&server), workload::singles::<ByHand>(&server));
                singles.push(Pair::of(round + part, ours, by_hand).await?);
            }
            if wanted("batches") {
                let (ours, by_hand) = (workload::batches::<Ours>(&server), workload::batches::<ByHand>(&server));
                batches.push(Pair::of(round + part, ours, by_hand).await?);
            }
        }
        if wanted("consuming") {
            let ours = workload::consuming::<Ours>(&server, &stock);
            let by_hand = workload::consuming::<ByHand>(&server, &stock);
            consuming.push(Pair::of(round, ours, by_hand).await?);
        }
        if wanted("latencies") {
            latencies.push(workload::latencies(&server).await?);
        }
    }

    table::throughputs(&[
        ("publish one at a time, 32 tasks", &singles),
        ("publish batches of 100", &batches),
        ("consume 100,000", &consuming),
    ]);
    table::latencies("publish to handler, 200 a second", &latencies);
    Ok(())
}
