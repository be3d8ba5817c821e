//! Commands that are sent by many callers at once, to processes that die between the commit and the answer, while sessions
//! are killed too: each command takes effect once, and all its answers are equal. Servers that do without keys are caught
//! by the same auditor.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::Arc,
    time::Instant,
};

use eventbus::{
    AggregateRepository, Never, Position, Saved,
    port::{EventStore, FeedFilter},
    prelude::*,
};
use fastrand::Rng;
use futures_util::TryStreamExt as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{
    HarnessError,
    kills::Program,
    place::{Place, StoreKind, retry, with_killed_sessions},
    role::Role,
    run_summary::RunSummary,
};

/// The name of the sessions of servers.
const SESSIONS: &str = "commands";
/// Number of servers at any time, unless the store is a file; and of callers of all of them, which send the same command at
/// once.
const SERVERS: u64 = 4;
const CALLERS: u64 = 32;
/// Number of aggregates that the commands are for.
const ORDERS: u64 = 20;
/// One command in this many stores no event.
const WITHOUT_EVENTS: u64 = 4;
/// Number of commands, on average, that a server takes which is to die.
const COMMANDS_PER_CRASH: u64 = 40;

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The store of the run.
    pub store: StoreKind,
    /// Number of commands; 32 callers send each one.
    pub commands: u64,
    /// Number of servers that die between a commit and its answer.
    pub crashes: u64,
    /// Set for servers that do without keys: they must be caught.
    pub without_keys: bool,
    /// The seed of all random choices.
    pub seed: u64,
}

/// A process that takes commands and prints its answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Server {
    place: Place,
    callers: u64,
    /// The commands that it takes, in order.
    from: u64,
    to: u64,
    dies: bool,
    without_keys: bool,
    seed: u64,
}

/// The command of a number took effect.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct LineAdded {
    command: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(type = "CommandsOrder", events(LineAdded))]
struct Order;

impl Apply for Order {
    fn apply(&mut self, _event: &OrderEvent) {}
}

/// Returns `true` if a command stores an event.
const fn has_event(command: u64) -> bool {
    !command.is_multiple_of(WITHOUT_EVENTS)
}

impl Role for Server {
    const VARIABLE: &'static str = "FIRE_COMMANDS";

    async fn play(self) -> Result<(), HarnessError> {
        let store = retry(async || self.place.open().await).await?;
        let mut random = Rng::with_seed(self.seed);
        for command in self.from..self.to {
            let calls = (0..self.callers).map(|_| self.call(&store, command, random.fork()));
            futures_util::future::try_join_all(calls).await?;
        }
        Ok(())
    }
}

impl Server {
    #[allow(clippy::print_stdout, reason = "the answers, for the harness")]
    async fn call(&self, store: &Arc<dyn EventStore>, command: u64, mut random: Rng) -> Result<(), HarnessError> {
        let orders = AggregateRepository::<Order>::new(Arc::clone(store));
        let id = format!("order-{}", command % ORDERS).parse()?;
        let decide = |_: &Order| Ok::<_, Never>(has_event(command).then_some(LineAdded { command }));
        let Saved { version, position, events, .. } = retry(async || match self.without_keys {
            true => Ok(orders.upsert(&id, decide).await?),
            false => Ok(orders.once(format!("command-{command}").parse()?, &command).upsert(&id, decide).await?),
        })
        .await?;
        if self.dies && random.u64(..COMMANDS_PER_CRASH * self.callers) == 0 {
            std::process::abort();
        }
        let ids: Vec<_> = events.iter().map(|event| event.metadata().event_id().to_string()).collect();
        println!("answer {command} {version} {position:?} {}", ids.join(","));
        Ok(())
    }

    /// Runs it in a process of its own, and returns its answers by command, and whether it died.
    async fn spawn(&self, program: &Program) -> Result<(Answers, bool), HarnessError> {
        let mut process = program.in_role(self)?.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("no output")?).lines();
        let mut answers = Answers::new();
        while let Some(line) = lines.next_line().await? {
            // the last line of a process that dies may be a part of one
            let Some((command, answer)) = line.strip_prefix("answer ").and_then(|line| line.split_once(' ')) else {
                continue;
            };
            answers.entry(command.parse()?).or_default().insert(answer.to_owned());
        }
        let ended = process.wait().await?;
        if !ended.success() && !self.dies {
            return Err(format!("a server ended by itself, {ended}").into());
        }
        Ok((answers, !ended.success()))
    }
}

/// The different answers to each command.
type Answers = BTreeMap<u64, BTreeSet<String>>;

/// Runs servers in several slots: in each one after the other those that die, then one that takes all commands.
async fn run_servers(
    program: &Program,
    server: &Server,
    slots: u64,
    crashes: u64,
    seed: u64,
) -> Result<(Answers, u64), HarnessError> {
    let mut random = Rng::with_seed(seed);
    let slots = (0..slots).map(|_| random.fork()).map(async |mut random| {
        let (mut all, mut died) = (Answers::new(), 0);
        let mut take = |answers: Answers| {
            for (command, answers) in answers {
                all.entry(command).or_default().extend(answers);
            }
        };
        while died < crashes.div_ceil(slots) {
            let from = random.u64(..server.to);
            let dying = Server { from, dies: true, seed: random.u64(..), ..server.clone() };
            let (answers, has_died) = dying.spawn(program).await?;
            died += u64::from(has_died);
            take(answers);
        }
        let last = Server { seed: random.u64(..), ..server.clone() };
        take(last.spawn(program).await?.0);
        Ok::<_, HarnessError>((all, died))
    });
    let (mut all, mut died) = (Answers::new(), 0);
    for (answers, by_slot) in futures_util::future::try_join_all(slots).await? {
        died += by_slot;
        for (command, answers) in answers {
            all.entry(command).or_default().extend(answers);
        }
    }
    Ok((all, died))
}

/// Counts the events of each command.
async fn count_effects(store: &dyn EventStore) -> Result<BTreeMap<u64, u64>, HarnessError> {
    let (head, filter) = (store.head().await?, FeedFilter::all());
    let mut feed = store.read_feed(Position::START, head, &filter);
    let mut effects = BTreeMap::new();
    while let Some(event) = feed.try_next().await? {
        *effects.entry(event.decode::<LineAdded>()?.command).or_default() += 1;
    }
    Ok(effects)
}

/// Runs a plan.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn run(program: &Program, plan: Plan) -> Result<RunSummary, HarnessError> {
    let Plan { store: kind, commands, crashes, without_keys, seed } = plan;
    let began = Instant::now();
    let (place, database) = Place::create(kind, SESSIONS).await?;
    let store = place.open().await?;
    let slots = if kind == StoreKind::Sqlite { 1 } else { SERVERS };
    let callers = CALLERS / slots;
    let server = Server { place: place.clone(), callers, from: 0, to: commands, dies: false, without_keys, seed };
    let run = run_servers(program, &server, slots, crashes, seed);
    let ((answers, died), sessions_killed) = with_killed_sessions(database.as_ref(), SESSIONS, seed, run).await?;
    let effects = count_effects(&*store).await?;
    let wanted = |command: u64| u64::from(has_event(command));
    let effect_of = |command: u64| effects.get(&command).copied().unwrap_or_default();
    let wrong: Vec<_> = (0..commands).filter(|command| effect_of(*command) != wanted(*command)).collect();
    let unlike: Vec<_> = (0..commands).filter(|command| answers.get(command).map_or(0, BTreeSet::len) != 1).collect();
    let mut failures = Vec::new();
    match (without_keys, wrong.first()) {
        (true, None) => failures.push("servers without keys were not caught".into()),
        (true, Some(_)) => {}
        (false, Some(first)) => failures.push(format!(
            "{} commands took effect another number of times than once, such as {first}: {} times",
            wrong.len(),
            effect_of(*first)
        )),
        (false, None) => {}
    }
    if let Some(first) = unlike.first().filter(|_| !without_keys) {
        let answers = answers.get(first);
        failures.push(format!("{} commands have several answers or none, such as {first}: {answers:?}", unlike.len()));
    }
    drop(store);
    place.remove(database.as_ref()).await?;
    let caught = if without_keys { format!("; caught: {} took effect wrongly", wrong.len()) } else { String::new() };
    Ok(RunSummary {
        events: effects.values().sum(),
        faults: died + sessions_killed,
        description: format!(
            "{kind:?}: {commands} commands of {CALLERS} callers, {died} servers died and {sessions_killed} sessions \
             killed{caught}"
        ),
        took: began.elapsed(),
        failures,
        ..RunSummary::new("commands")
    })
}
