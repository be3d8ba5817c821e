//! Handlers that never return, among others that do, with default settings: one awaits, and one blocks its thread.
//!
//! Others go on, health names handler and event, and a process that is told to end does so with status 70.

use std::{
    env,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    port::{DeadLetterFilter, DeadLetters, EventBus, HealthThresholds},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use redis::aio::MultiplexedConnection;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{Trouble, figures::Figures};

/// The variables that tell a process to consume, and that its handler returns.
const SERVER: &str = "FIRE_STUCK_REDIS";
const MENDED: &str = "FIRE_STUCK_MENDED";

/// The aggregates whose events are never handled.
const AWAITS: &str = "awaits";
const BLOCKS: &str = "blocks";
/// The set of the aggregates that were handled.
const HANDLED: &str = "handled";
const GROUP: Name = Name::from_static("work");
/// Between two events of others.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest that others may stand still: less than the time limit of a handler.
const STANDSTILL: Duration = Duration::from_secs(45);
/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(180);
/// With what a process ends that cannot stop.
const STATUS: i32 = 70;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Lamp")]
struct Lit {}

#[derive(Clone)]
struct Works {
    is_mended: bool,
    connection: MultiplexedConnection,
}

#[handler(manual, group = "work")]
async fn work(_event: &Lit, meta: &Metadata, State(mut works): State<Works>) -> Result<(), redis::RedisError> {
    let id = meta.aggregate_id().as_str();
    match id {
        AWAITS if !works.is_mended => std::future::pending().await,
        BLOCKS if !works.is_mended => loop {
            std::thread::park();
        },
        _ => {}
    }
    redis::cmd("SADD").arg(HANDLED).arg(id).query_async(&mut works.connection).await
}

fn config(redis: &str, name: &str) -> RedisEventBusConfig {
    let consumer_name = Some(name.into());
    RedisEventBusConfig { redis_url: redis.into(), consumer_name, ..RedisEventBusConfig::default() }
}

/// Handles events until a signal comes if the environment says so, and prints its alerts; returns `false` if it does not.
///
/// # Errors
/// What the app says.
pub async fn play() -> Result<bool, Trouble> {
    use std::io::Write as _;
    let Ok(url) = env::var(SERVER) else {
        return Ok(false);
    };
    let connection = test_servers::redis_connection(&url).await;
    let works = Works { is_mended: env::var_os(MENDED).is_some(), connection };
    let bus = RedisEventBus::connect(config(&url, "consumer")).await?;
    let app = App::builder().bus(bus).state(works).handler::<work>().start().await?;
    let watched = app.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(PAUSE).await;
            let alerts = watched.health().await.alerts(&HealthThresholds::default());
            let errors = watched.bus().stats().handler_errors;
            let mut output = std::io::stdout();
            // the process that listens may be gone
            drop(writeln!(output, "\nerrors {errors} alerts {alerts:?}"));
        }
    });
    app.run_until_signal().await.map_err(|error| error.to_string())?;
    Ok(true)
}

struct Consumer {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Consumer {
    fn start(arguments: &[&str], redis: &str, is_mended: bool) -> Result<Self, Trouble> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments).env(SERVER, redis).env_remove(MENDED);
        if is_mended {
            command.env(MENDED, "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        let output = child.stdout.take().ok_or("it is piped")?;
        Ok(Self { child, output: BufReader::new(output).lines() })
    }

    /// Waits until it prints a line with all of these.
    async fn says(&mut self, texts: &[&str]) -> Result<(), Trouble> {
        let reading = async {
            let mut last = String::new();
            while let Some(line) = self.output.next_line().await? {
                if texts.iter().all(|text| line.contains(text)) {
                    return Ok(());
                }
                last = if line.is_empty() { last } else { line };
            }
            Err::<(), Trouble>(format!("it ended without {texts:?}: {last}").into())
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.map_err(|_| format!("it never said {texts:?}"))?
    }

    /// Tells it to end; returns its status, and what it wrote to standard error.
    async fn terminate(mut self) -> Result<(Option<i32>, String), Trouble> {
        let id = self.child.id().ok_or("the process is gone")?;
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).status().await?;
        if !sent.success() {
            return Err(format!("no signal for process {id}").into());
        }
        let mut said = String::new();
        let errors = self.child.stderr.take();
        let ending = async {
            // it must not wait until what it prints is read
            let draining = async { while let Ok(Some(_)) = self.output.next_line().await {} };
            let reading = async {
                match errors {
                    Some(mut errors) => errors.read_to_string(&mut said).await,
                    None => Ok(0),
                }
            };
            let ((), read) = tokio::join!(draining, reading);
            read?;
            self.child.wait().await
        };
        let ended = tokio::time::timeout(PATIENCE, ending).await.map_err(|_| "the process does not end")??;
        Ok((ended.code(), said))
    }
}

fn event(id: &str) -> Result<RecordedEvent, Trouble> {
    Ok(NewEvent::of(&Lit {})?.recorded_as(StreamId::parse("Lamp", id)?, Version::FIRST, None))
}

/// Publishes events that anybody can handle until that is over, and sees how long none of them is handled.
async fn publish(
    bus: &RedisEventBus,
    mut connection: MultiplexedConnection,
    is_over: &AtomicBool,
) -> Result<Load, Trouble> {
    let (mut load, mut before, mut since) = (Load::default(), 0, Instant::now());
    while !is_over.load(SeqCst) {
        bus.publish(&[event(&load.published.to_string())?]).await?;
        load.published += 1;
        let handled: u64 = redis::cmd("SCARD").arg(HANDLED).query_async(&mut connection).await?;
        if handled > before {
            (before, since) = (handled, Instant::now());
        }
        load.standstill = load.standstill.max(since.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(load)
}

#[derive(Default)]
struct Load {
    published: u64,
    standstill: Duration,
}

/// Lets a handler await for ever; with `is_long` it also waits for the time limit, lets another one block its thread, tells
/// the process to end, and starts one whose handler is mended.
///
/// # Errors
/// What the servers and the system say, and whatever a process does not say or do.
pub async fn run(arguments: &[&str], is_long: bool) -> Result<Figures, Trouble> {
    let begin = Instant::now();
    let server = test_servers::private_redis();
    let bus = RedisEventBus::connect(config(server.url(), "watcher")).await?;
    let mut connection = test_servers::redis_connection(server.url()).await;
    let mut figures = Figures { faults: 1, what: "a handler awaits for ever".into(), ..Figures::of("stuck") };
    let is_over = AtomicBool::new(false);
    let mut consumer = Consumer::start(arguments, server.url(), false)?;
    let hanging = async {
        let awaits = event(AWAITS)?;
        bus.publish(std::slice::from_ref(&awaits)).await?;
        // others go on beside it before it is ended
        let mut connection = connection.clone();
        let handled = async |connection: &mut MultiplexedConnection| {
            redis::cmd("SCARD").arg(HANDLED).query_async::<u64>(connection).await
        };
        let before = handled(&mut connection).await?;
        while handled(&mut connection).await? <= before + 20 {
            consumer.says(&["errors 0"]).await?;
        }
        if is_long {
            let id = awaits.metadata().event_id().to_string();
            consumer.says(&["`work` of `work` is busy with `Lit`", &id]).await?;
            let blocks = event(BLOCKS)?;
            bus.publish(std::slice::from_ref(&blocks)).await?;
            let id = blocks.metadata().event_id().to_string();
            consumer.says(&["`work` of `work` blocks its thread with `Lit`", &id]).await?;
            consumer.says(&["errors 1"]).await?;
        }
        Ok::<_, Trouble>(())
    };
    let hanging = async {
        let hung = hanging.await;
        is_over.store(true, SeqCst);
        hung
    };
    let (hung, load) = tokio::join!(hanging, publish(&bus, connection.clone(), &is_over));
    hung?;
    let load = load?;
    let mut hanging = 1;
    if is_long {
        hanging += 1;
        figures.faults += 1;
        figures.what = "handlers await for ever and block their thread".into();
        let (status, said) = consumer.terminate().await?;
        let is_named =
            said.contains("the process exits with status 70") && said.contains("`work` with `Lit` of `Lamp/blocks`");
        if status != Some(STATUS) || !is_named {
            figures.objections.push(format!("it ended with {status:?}: {said}"));
        }
    } else {
        drop(consumer);
    }
    figures.events = load.published + hanging;
    figures.slowest_recovery = Some(load.standstill);
    if load.standstill > STANDSTILL {
        figures.objections.push(format!("others stood still for {:?}", load.standstill));
    }
    if is_long {
        let _mended = Consumer::start(arguments, server.url(), true)?;
        let mending = Instant::now();
        while !bus.progress(&GROUP).await?.is_settled() && mending.elapsed() < PATIENCE {
            tokio::time::sleep(PAUSE).await;
        }
        let handled: u64 = redis::cmd("SCARD").arg(HANDLED).query_async(&mut connection).await?;
        if handled != figures.events {
            figures.objections.push(format!("{handled} of {} events were handled", figures.events));
        }
    }
    let letters = bus.dead_letters(&DeadLetterFilter::default(), None, 1_000).await?.letters;
    if !letters.is_empty() {
        figures.objections.push(format!("{} events are dead letters", letters.len()));
    }
    Ok(Figures { took: begin.elapsed(), ..figures })
}
