//! Handlers that never return, beside handlers that do, with default settings: one awaits, and one blocks its thread.
//!
//! Events of other aggregates are handled, health names handler and event, and a process that receives SIGTERM exits
//! with status 70.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    health::HealthThresholds,
    port::{DeadLetterFilter, DeadLetters, EventBus},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use redis::aio::MultiplexedConnection;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

use super::{
    HarnessError,
    kills::{Program, send_signal},
    role::Role,
    run_summary::RunSummary,
};

/// The aggregates whose events are never handled.
const AWAITS: &str = "awaits";
const BLOCKS: &str = "blocks";
/// The Redis set of handled aggregates.
const HANDLED_KEY: &str = "handled";
const GROUP: Name = Name::from_static("work");
/// Interval between two events of the remaining aggregates.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// The longest time without a handled event: less than the time limit of a handler.
const STANDSTILL_MAX: Duration = Duration::from_secs(45);
/// Time limit of each wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(180);
/// The exit status of a process that cannot stop its handlers.
const EXIT_STATUS: i32 = 70;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Lamp")]
struct Lit {}

#[derive(Clone)]
struct WorkState {
    is_fixed: bool,
    connection: MultiplexedConnection,
}

#[handler(manual, group = "work")]
async fn work(_event: &Lit, meta: &Metadata, State(mut works): State<WorkState>) -> Result<(), redis::RedisError> {
    let id = meta.aggregate_id().as_str();
    match id {
        AWAITS if !works.is_fixed => std::future::pending().await,
        BLOCKS if !works.is_fixed => loop {
            std::thread::park();
        },
        _ => {}
    }
    redis::cmd("SADD").arg(HANDLED_KEY).arg(id).query_async(&mut works.connection).await
}

fn config(redis: &str, name: &str) -> RedisEventBusConfig {
    let consumer_name = Some(name.into());
    RedisEventBusConfig { redis_url: redis.into(), consumer_name, ..RedisEventBusConfig::default() }
}

/// A process that handles events until a signal arrives, and prints the alerts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Consumer {
    redis: String,
    /// Set if its stuck handlers return.
    is_fixed: bool,
}

impl Role for Consumer {
    const VARIABLE: &'static str = "FIRE_STUCK_HANDLERS";

    async fn play(self) -> Result<(), HarnessError> {
        use std::io::Write as _;
        let connection = eventbus_test::internal::redis_connection(&self.redis).await;
        let works = WorkState { is_fixed: self.is_fixed, connection };
        let bus = RedisEventBus::connect(config(&self.redis, "consumer")).await?;
        let app = App::builder().bus(bus).state(works).handler::<work>().start().await?;
        let watched = app.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PUBLISH_INTERVAL).await;
                let alerts = watched.health().await.alerts(&HealthThresholds::default());
                let errors = watched.bus().stats().handler_errors;
                let mut output = std::io::stdout();
                // the process that reads the output may have ended
                drop(writeln!(output, "\nerrors {errors} alerts {alerts:?}"));
            }
        });
        Ok(app.run_until_signal().await.map_err(|error| error.to_string())?)
    }
}

struct ConsumerProcess {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl ConsumerProcess {
    fn start(program: &Program, redis: &str, is_fixed: bool) -> Result<Self, HarnessError> {
        let mut command = program.in_role(&Consumer { redis: redis.into(), is_fixed })?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("it is piped")?;
        Ok(Self { child, output: BufReader::new(output).lines() })
    }

    /// Waits until the process prints a line with all of `texts`.
    async fn wait_for_line(&mut self, texts: &[&str]) -> Result<(), HarnessError> {
        let reading = async {
            let mut last = String::new();
            while let Some(line) = self.output.next_line().await? {
                if texts.iter().all(|text| line.contains(text)) {
                    return Ok(());
                }
                last = if line.is_empty() { last } else { line };
            }
            Err::<(), HarnessError>(format!("it ended without {texts:?}: {last}").into())
        };
        let read = tokio::time::timeout(WAIT_TIMEOUT, reading).await;
        read.map_err(|_| format!("it never said {texts:?}"))?
    }

    /// Sends SIGTERM; returns the exit status, and the output to standard error.
    async fn terminate(mut self) -> Result<(Option<i32>, String), HarnessError> {
        send_signal(self.child.id().ok_or("the process is gone")?, "TERM").await?;
        let mut said = String::new();
        let errors = self.child.stderr.take();
        let ending = async {
            // drains the output, so that the process does not block on a full pipe
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
        let ended = tokio::time::timeout(WAIT_TIMEOUT, ending).await.map_err(|_| "the process does not end")??;
        Ok((ended.code(), said))
    }
}

fn event(id: &str) -> Result<RecordedEvent, HarnessError> {
    Ok(NewEvent::from_event(&Lit {})?.recorded_as(StreamId::parse("Lamp", id)?, Version::FIRST, None))
}

/// Publishes events that can be handled until `is_over`, and measures the longest time without a handled one.
async fn publish(
    bus: &RedisEventBus,
    mut connection: MultiplexedConnection,
    is_over: &AtomicBool,
) -> Result<LoadResult, HarnessError> {
    let (mut load, mut before, mut since) = (LoadResult::default(), 0, Instant::now());
    while !is_over.load(SeqCst) {
        bus.publish(&[event(&load.published.to_string())?]).await?;
        load.published += 1;
        let handled: u64 = redis::cmd("SCARD").arg(HANDLED_KEY).query_async(&mut connection).await?;
        if handled > before {
            (before, since) = (handled, Instant::now());
        }
        load.standstill = load.standstill.max(since.elapsed());
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
    Ok(load)
}

#[derive(Default)]
struct LoadResult {
    published: u64,
    standstill: Duration,
}

/// Lets a handler await for ever. With `is_long` it also waits for the handler's time limit, lets a second handler
/// block its thread, sends the process SIGTERM, and starts a process whose handler returns.
///
/// # Errors
/// If a server or the system fails, or a process lacks an expected line or exit status.
pub async fn run(program: &Program, is_long: bool) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config(server.url(), "watcher")).await?;
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    let mut figures =
        RunSummary { faults: 1, description: "a handler awaits for ever".into(), ..RunSummary::new("stuck") };
    let is_over = AtomicBool::new(false);
    let mut consumer = ConsumerProcess::start(program, server.url(), false)?;
    let hanging = async {
        let awaits = event(AWAITS)?;
        bus.publish(std::slice::from_ref(&awaits)).await?;
        // other aggregates progress before this handler is cancelled
        let mut connection = connection.clone();
        let handled = async |connection: &mut MultiplexedConnection| {
            redis::cmd("SCARD").arg(HANDLED_KEY).query_async::<u64>(connection).await
        };
        let before = handled(&mut connection).await?;
        while handled(&mut connection).await? <= before + 20 {
            consumer.wait_for_line(&["errors 0"]).await?;
        }
        if is_long {
            let id = awaits.metadata().event_id().to_string();
            consumer.wait_for_line(&["`work` of `work` is busy with `Lit`", &id]).await?;
            let blocks = event(BLOCKS)?;
            bus.publish(std::slice::from_ref(&blocks)).await?;
            let id = blocks.metadata().event_id().to_string();
            consumer.wait_for_line(&["`work` of `work` blocks its thread with `Lit`", &id]).await?;
            consumer.wait_for_line(&["errors 1"]).await?;
        }
        Ok::<_, HarnessError>(())
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
        figures.description = "handlers await for ever and block their thread".into();
        let (status, said) = consumer.terminate().await?;
        let is_named =
            said.contains("the process exits with status 70") && said.contains("`work` with `Lit` of `Lamp/blocks`");
        if status != Some(EXIT_STATUS) || !is_named {
            figures.failures.push(format!("it ended with {status:?}: {said}"));
        }
    } else {
        drop(consumer);
    }
    figures.events = load.published + hanging;
    figures.slowest_recovery = Some(load.standstill);
    if load.standstill > STANDSTILL_MAX {
        figures.failures.push(format!("others stood still for {:?}", load.standstill));
    }
    if is_long {
        let _mended = ConsumerProcess::start(program, server.url(), true)?;
        let mending = Instant::now();
        while !bus.progress(&GROUP).await?.is_settled() && mending.elapsed() < WAIT_TIMEOUT {
            tokio::time::sleep(PUBLISH_INTERVAL).await;
        }
        let handled: u64 = redis::cmd("SCARD").arg(HANDLED_KEY).query_async(&mut connection).await?;
        if handled != figures.events {
            figures.failures.push(format!("{handled} of {} events were handled", figures.events));
        }
    }
    let dead_letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 1_000).await?.letters;
    if !dead_letters.is_empty() {
        figures.failures.push(format!("{} events are dead letters", dead_letters.len()));
    }
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}
