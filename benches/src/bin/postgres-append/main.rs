//! Appends to the PostgreSQL store compared with a handwritten INSERT: see `benches/README.md`.
//!
//! Invariant: both sides write the same columns of the same tables, and both refuse an append to a stream at a
//! different version.

mod by_hand;
mod meter;
mod ours;

use std::{env, sync::Arc};

use eventbus::{AggregateId, Name, NewEvent, Result, StreamId, Version};
use test_servers::private_postgres_with;
use tokio::task::JoinSet;

use crate::{
    by_hand::ByHand,
    meter::{Cost, Server},
    ours::Ours,
};

/// Odd, so that the median is a measured value.
const ROUNDS: usize = 9;
/// Numbers of concurrent callers, the appends of all of them together, and the goal for the ratio.
const LOADS: [(usize, usize, f64); 4] = [(1, 1_000, 0.90), (8, 4_000, 1.0), (32, 12_000, 3.0), (256, 24_000, 5.5)];
/// Number of events in a stream.
const STREAM: u64 = 10;

/// One way to append an event to a stream at `version`.
pub trait Side: Send + Sync + 'static {
    fn append(&self, stream: &StreamId, version: Version, event: NewEvent) -> impl Future<Output = Result<()>> + Send;
}

#[tokio::main]
async fn main() -> Result<()> {
    let only: Option<usize> = env::args().nth(1).map(|callers| callers.parse()).transpose()?;
    let server = private_postgres_with(&["-c", "shared_buffers=256MB"]);
    let ours = Arc::new(Ours::open(server.url()).await?);
    let by_hand = Arc::new(ByHand::open(server.url()).await?);
    let meter = Server::of(by_hand.backend().await?)?;
    run(&ours, 32, 2_000).await?; // warms up
    run(&by_hand, 32, 2_000).await?;
    println!("| callers | ours, appends/s | by hand, appends/s | ours ÷ by hand | goal | ours ÷ by hand, CPU |");
    println!("|---|---|---|---|---|---|");
    for (callers, appends, goal) in LOADS.into_iter().filter(|load| only.is_none_or(|only| only == load.0)) {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            // the first side changes from round to round
            rounds.push(if round.is_multiple_of(2) {
                let ours = meter.measure(run(&ours, callers, appends)).await?;
                (ours, meter.measure(run(&by_hand, callers, appends)).await?)
            } else {
                let by_hand = meter.measure(run(&by_hand, callers, appends)).await?;
                (meter.measure(run(&ours, callers, appends)).await?, by_hand)
            });
        }
        let spread = |of: fn(&(Cost, Cost)) -> f64| Spread::of(rounds.iter().map(of).collect());
        let (ours, by_hand) = (spread(|(ours, _)| ours.rate), spread(|(_, by_hand)| by_hand.rate));
        let ratio = spread(|(ours, by_hand)| ours.rate / by_hand.rate);
        let cpu = spread(|(ours, by_hand)| ours.cpu / by_hand.cpu);
        println!("| {callers} | {ours:.0} | {by_hand:.0} | {ratio:.2} | {goal:.2} | {cpu:.2} |");
    }
    Ok(())
}

/// Appends `appends` events in all, one after the other in each caller; returns their number.
async fn run<S: Side>(side: &Arc<S>, callers: usize, appends: usize) -> Result<usize> {
    let each = appends / callers;
    let mut tasks: JoinSet<Result<()>> = (0..callers).map(|_| call(Arc::clone(side), each)).collect();
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(each * callers)
}

async fn call<S: Side>(side: Arc<S>, appends: usize) -> Result<()> {
    let mut stream = new_stream();
    for number in 0..appends as u64 {
        let version = number % STREAM;
        if version == 0 {
            stream = new_stream();
        }
        side.append(&stream, version.into(), event(number)).await?;
    }
    Ok(())
}

fn new_stream() -> StreamId {
    StreamId::new(Name::from_static("Order"), AggregateId::new())
}

fn event(number: u64) -> NewEvent {
    let payload = format!(r#"{{"item":"sku-{number}","quantity":{number},"note":"{:120}"}}"#, "as agreed");
    NewEvent::new(Name::from_static("ItemAdded"), 1, payload)
}

/// A value over the rounds: the median, and in brackets the least and the most.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or_default();
        write!(f, "**{:.digits$}** ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}
