//! A queue stored in files, and workers that share it; with `--redis` also on several machines.
//!
//! Start a worker and a subscriber in terminals of their own, then publish, and look at the files:
//!
//! ```sh
//! cargo run -p examples --bin file-queue -- --dir ./shared_queue work
//! cargo run -p examples --bin file-queue -- --dir ./shared_queue subscribe
//! cargo run -p examples --bin file-queue -- --dir ./shared_queue publish '{"from": "worker_2"}'
//! cargo run -p examples --bin file-queue -- --dir ./shared_queue claim task_1 worker_data
//! cargo run -p examples --bin file-queue -- --dir ./shared_queue show
//! ```
//!
//! Ctrl-C ends the commands that wait.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use eventbus::{Result, bus::EventBus, prelude::*};
use eventbus_file::{FileQueue, FileQueueConfig, RedisCoordination, Search};
use examples::signal::Stop;
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// The folder of the queue
    #[arg(long, value_name = "FOLDER", default_value = "./shared_queue")]
    dir: PathBuf,
    /// The Redis that coordinates the workers; without it the files do
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Publishes a payload
    Publish {
        /// JSON; any other text is published as a text
        payload: String,
        /// Number of times
        #[arg(long, default_value_t = 1)]
        count: u64,
    },
    /// Processes events without a result, and waits for more
    Work {
        /// Exits when no event is left
        #[arg(long)]
        once: bool,
    },
    /// Prints each event that no other worker has taken, also those that others publish, and waits for more
    Subscribe,
    /// Claims a task; exits with 1 if it is claimed already
    Claim { task: String, data: String },
    /// Prints the contents of the folder
    Show,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args { dir, redis, role } = Args::parse();
    let config = FileQueueConfig::at(dir);
    let queue = match redis {
        Some(redis_url) => {
            let redis = RedisCoordination { redis_url, ..Default::default() };
            FileQueue::open_with_redis(config, redis).await?
        }
        None => FileQueue::open(config).await?,
    };
    match role {
        Role::Publish { payload, count } => publish(&queue, &payload, count).await?,
        Role::Work { once } => work(&queue, once).await?,
        Role::Subscribe => subscribe(&queue).await?,
        Role::Claim { task, data } => return claim(&queue, &task, &data).await,
        Role::Show => show(&queue).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn publish(queue: &FileQueue, payload: &str, count: u64) -> Result<()> {
    let payload: Value = serde_json::from_str(payload).unwrap_or_else(|_| payload.into());
    for _ in 0..count {
        println!("published event {}", queue.publish(&payload).await?.id());
    }
    Ok(())
}

async fn work(queue: &FileQueue, once: bool) -> Result<()> {
    let mut stop = Stop::on_signal()?;
    loop {
        let next = match once {
            true => queue.try_claim_next().await?,
            false => stop.unless(queue.claim_next()).await.transpose()?,
        };
        let Some(work) = next else {
            return Ok(());
        };
        let id = work.event().id();
        let result = work.succeed(&json!({"processed_by": queue.worker_id()})).await?;
        println!("event {id} is done, in epoch {} of its claim", result.epoch);
    }
}

async fn subscribe(queue: &FileQueue) -> Result<()> {
    queue.subscribe_to_all(|event: RecordedEvent| async move {
        println!("received {}", event.payload());
        Ok::<_, HandlerError>(())
    });
    let mut stop = Stop::on_signal()?;
    let consuming = queue.start_consuming_in_background();
    stop.requested().await;
    queue.shutdown(Duration::from_secs(10)).await?;
    Ok(consuming.await??)
}

async fn claim(queue: &FileQueue, task: &str, data: &str) -> Result<ExitCode> {
    let success = queue.create_claim(task, data).await?;
    let claim = queue.get_claim(task).await?.ok_or("the task has no claim")?;
    match success {
        true => println!("Claimed by worker: {}", claim.worker_id),
        false => {
            println!("Claimed already, by worker: {}", claim.worker_id);
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(queue: &FileQueue) -> Result<()> {
    let mut search = Search::default();
    loop {
        let page = queue.events(&search).await?;
        for event in &page.items {
            let result = match queue.result(event.id()).await? {
                Some(result) if result.success => format!("done: {}", result.details),
                Some(result) => format!("failed: {}", result.details),
                None => "open".into(),
            };
            println!("event {}: {} ({result})", event.id(), event.record().payload());
        }
        search.page = page.next;
        if search.page.is_none() {
            break;
        }
    }
    for claim in queue.claims(&Search::default()).await?.items.iter().filter(|claim| claim.is_live()) {
        println!("claim {}: {}, worker {}, epoch {}", claim.claim_id, claim.data, claim.worker_id, claim.epoch);
    }
    for problem in queue.check().await? {
        println!("left alone: {}", problem.path().display());
    }
    println!("coordination: {}", queue.coordination());
    Ok(())
}
