//! Dead letters: tasks that fail for good, a monitor that reports them, and a replay once the worker is fixed.
//!
//! ```sh
//! cargo run -p examples --bin dead-letters -- run --tasks 10 --marked 6
//! cargo run -p examples --bin dead-letters -- monitor
//! cargo run -p examples --bin dead-letters -- replay
//! cargo run -p examples --bin dead-letters -- run --tasks 0 --mended
//! ```

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use eventbus::{
    Result, Version,
    app::SettleError,
    bus::{EventBus, MessageId},
    dead_letter::{DeadLetterFilter, DeadLetters},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// The Redis server
    #[arg(long, global = true, value_name = "URL", default_value = "redis://localhost:6379")]
    bus: String,
    /// Prefix of the stream's name
    #[arg(long, global = true, default_value = "exercise2")]
    prefix: String,
}

#[derive(Subcommand)]
enum Command {
    /// Publishes tasks and handles all on the stream; marked ones fail
    Run {
        /// Number of tasks
        #[arg(long, default_value_t = 10)]
        tasks: u64,
        /// Number of marked tasks
        #[arg(long, default_value_t = 6)]
        marked: u64,
        /// Marked tasks no longer fail
        #[arg(long)]
        mended: bool,
    },
    /// Prints the dead letters; exits with 2 if there are too many
    Monitor {
        /// Largest number without an alert
        #[arg(long, default_value_t = 5)]
        most: u64,
    },
    /// Replays dead letters; exits with 1 if there is none with that id
    Replay {
        /// Replays only this one
        id: Option<String>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Task")]
struct TaskAssigned {
    task_name: String,
    is_marked: bool,
}

#[derive(Clone)]
struct IsMended(bool);

#[handler]
async fn work(event: &TaskAssigned, attempt: Attempt, State(mended): State<IsMended>) -> Result<(), String> {
    if event.is_marked && !mended.0 {
        println!("{} fails at attempt {attempt}", event.task_name);
        return Err(format!("{} is marked", event.task_name));
    }
    println!("{} is done", event.task_name);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    examples::log_warnings();
    let args = Args::parse();
    let config = RedisEventBusConfig {
        redis_url: args.bus,
        stream_prefix: args.prefix,
        consumer_group: "workers".into(),
        consumer_name: Some("worker-1".into()),
        enable_dlq: true,
        max_retries: Some(2), // three attempts
        ..RedisEventBusConfig::from_env()?
    };
    let bus = RedisEventBus::connect(config).await?;
    match args.command {
        Command::Run { tasks, marked, mended } => run(bus, tasks, marked, mended).await?,
        Command::Monitor { most } => return monitor(&bus, most).await,
        Command::Replay { id } => return replay(&bus, id).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(bus: RedisEventBus, tasks: u64, marked: u64, mended: bool) -> Result<()> {
    let app = App::builder().bus(bus.clone()).state(IsMended(mended)).handler::<work>().start().await?;
    let assigned = |number| {
        let task = TaskAssigned { task_name: format!("task {number}"), is_marked: number <= marked };
        RecordedEvent::from_event(&task, AggregateId::new(), Version::FIRST)
    };
    let events = (1..=tasks).map(assigned).collect::<Result<Vec<_>, _>>()?;
    bus.publish(&events).await?;
    match app.settled().await {
        Ok(()) | Err(SettleError::DeadLetters { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let stats = bus.stats();
    println!("{} tasks done, {} given up", stats.events_processed_success, stats.messages_sent_to_dlq);
    Ok(app.shutdown(std::time::Duration::from_secs(10)).await?)
}

async fn monitor(bus: &RedisEventBus, most: u64) -> Result<ExitCode> {
    for dead_letter in bus.list_dead_letters(&DeadLetterFilter::default(), None, 100).await?.letters {
        println!("Message ID: {}", dead_letter.id);
        println!("  Event type: {}", dead_letter.event_type.unwrap_or_default());
        println!("  Original ID: {}", dead_letter.original_message_id.map(|id| id.to_string()).unwrap_or_default());
        println!("  Retry count: {}", dead_letter.retry_count.unwrap_or_default());
        println!("  Given up: {}", dead_letter.dead_lettered_at.map(|at| at.to_string()).unwrap_or_default());
        println!("  Error: {}", dead_letter.error.unwrap_or_default());
    }
    let health = bus.health().await;
    println!("{} dead letters, {} pending messages", health.dlq_messages, health.pending_messages);
    if health.dlq_messages > most {
        println!("ALERT: {} dead letters, more than {most}", health.dlq_messages);
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay(bus: &RedisEventBus, id: Option<String>) -> Result<ExitCode> {
    let replayed = match id {
        Some(id) if !bus.replay(&MessageId::new(&*id)).await? => {
            eprintln!("there is no dead letter `{id}`");
            return Ok(ExitCode::FAILURE);
        }
        Some(_) => 1,
        None => bus.replay_all(&DeadLetterFilter::default()).await?,
    };
    println!("replayed: {replayed}");
    Ok(ExitCode::SUCCESS)
}
