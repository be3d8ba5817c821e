//! Decisions about one tag from several processes, each with several callers: `hot-tag`.
//!
//! Each round has a concert of its own, whose tickets all callers number without gaps. So each decision reads the tickets
//! before its own, and conflicts with all that are made beside it.

use std::{
    collections::HashMap,
    env,
    io::{self, BufRead as _},
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use eventbus::{
    App, Never, Position, Result,
    port::{FeedFilter, ReadFeed as _},
    prelude::*,
};
use eventstore_postgres::PgEventStore;
use futures_util::{TryStreamExt as _, future};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::{
    HotTagArgs, HotTagMemberArgs,
    bench::expect,
    driver::{Servers, Worker},
    meter::percentile,
    postgres_server,
    spread::Spread,
    worker::reply,
};

/// The numbers of processes, and of callers of each.
const MEMBERS: [(u64, u64); 4] = [(1, 1), (1, 8), (2, 8), (4, 8)];
/// Decisions of a round, of all callers together.
const DECISIONS: u64 = 320;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Ticket", tags(concert))]
struct TicketSold {
    concert: Uuid,
    number: u64,
}

#[derive(Debug, Default, Decision)]
#[decision(events(TicketSold))]
struct Tickets {
    sold: u64,
}

impl Apply for Tickets {
    fn apply(&mut self, _event: &TicketsEvent) {
        self.sold += 1;
    }
}

/// The part of a round that one caller does, in each process.
#[derive(Debug, Serialize, Deserialize)]
struct Share {
    concert: Uuid,
    decisions: u64,
}

/// What the callers of one process did in a round, or those of all.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Done {
    /// The time of each decision that was made.
    times: Vec<Duration>,
    /// How often a caller decided, with what it had read until then.
    attempts: u64,
    given_up: u64,
}

impl Done {
    fn add(&mut self, Self { times, attempts, given_up }: Self) {
        self.times.extend(times);
        self.attempts += attempts;
        self.given_up += given_up;
    }
}

/// Starts a server, measures each number of processes, and prints a table.
pub fn run(args: &HotTagArgs) -> Result<()> {
    let (servers, runtime) = (Servers::start(), Runtime::new()?);
    println!("{} rounds of {DECISIONS} decisions\n", args.rounds);
    println!("| processes | callers of each | decisions/s | p50 ms | p99 ms | attempts per decision | given up |");
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for (processes, callers) in MEMBERS {
        let database = runtime.block_on(postgres_server::new_database(servers.postgres_url()))?;
        // before the members, so that one creates the tables
        let store = runtime.block_on(PgEventStore::connect(&database))?;
        let mut members = (0..processes).map(|_| start(&database, callers)).collect::<Result<Vec<_>>>()?;
        let mut made = run_round(&mut members, callers)?.times.len();
        runtime.block_on(postgres_server::analyze(&database))?;
        let (mut rates, mut all) = (Vec::new(), Done::default());
        for _ in 0..args.rounds {
            let start = Instant::now();
            let done = run_round(&mut members, callers)?;
            rates.push(done.times.len() as f64 / start.elapsed().as_secs_f64());
            all.add(done);
        }
        made += all.times.len();
        members.into_iter().try_for_each(Worker::finish)?;
        runtime.block_on(check(&store, made))?;
        all.times.sort_unstable();
        let rate = Spread::of(rates).ok_or("no rounds")?;
        let [p50, p99] = [50, 99].map(|percent| percentile(&all.times, percent).unwrap_or_default() / 1e3);
        let attempts = all.attempts as f64 / all.times.len() as f64;
        let given_up = all.given_up;
        println!("| {processes} | {callers} | {rate:.0} | {p50:.1} | {p99:.1} | {attempts:.2} | {given_up} |");
    }
    Ok(())
}

fn start(database: &str, callers: u64) -> Result<Worker> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["hot-tag-member", "--database", database, "--callers", &callers.to_string()]);
    Worker::start(command)
}

/// Lets all members decide about a new concert.
fn run_round(members: &mut [Worker], callers: u64) -> Result<Done> {
    let decisions = DECISIONS / (members.len() as u64 * callers);
    let share = serde_json::to_string(&Share { concert: Uuid::now_v7(), decisions })?;
    members.iter_mut().try_for_each(|member| member.send(&share))?;
    let mut all = Done::default();
    for member in members {
        all.add(member.receive()?);
    }
    Ok(all)
}

/// Fails unless the tickets of each concert are numbered without gaps, and as many as were made.
async fn check(store: &PgEventStore, made: usize) -> Result<()> {
    let (head, filter) = (store.head().await?, FeedFilter::all());
    let (mut stored, mut concerts) = (0, HashMap::<Uuid, u64>::new());
    let mut feed = store.read_feed(Position::START, head, &filter);
    while let Some(record) = feed.try_next().await? {
        let ticket: TicketSold = record.decode()?;
        let last = concerts.entry(ticket.concert).or_default();
        *last += 1;
        expect("the number of a ticket", &ticket.number, last)?;
        stored += 1;
    }
    expect("stored tickets", &stored, &made)
}

/// Makes the decisions of one process: a share for each line of its input.
pub fn run_member(args: &HotTagMemberArgs) -> Result<()> {
    let runtime = Runtime::new()?;
    let store = runtime.block_on(PgEventStore::connect(&args.database))?;
    let app = runtime.block_on(App::builder().store(store).without_relay().start())?;
    reply(&())?;
    for line in io::stdin().lock().lines() {
        let Share { concert, decisions } = serde_json::from_str(&line?)?;
        let callers = (0..args.callers).map(|_| {
            let app = app.clone();
            runtime.spawn(async move { decide(&app, concert, decisions).await })
        });
        let mut all = Done::default();
        for done in runtime.block_on(future::try_join_all(callers))? {
            all.add(done?);
        }
        reply(&all)?;
    }
    Ok(())
}

async fn decide(app: &App, concert: Uuid, decisions: u64) -> Result<Done> {
    let (mut done, attempts) = (Done::default(), AtomicU64::new(0));
    for _ in 0..decisions {
        let start = Instant::now();
        let decision = app.decision::<Tickets>().about("concert", &concert);
        let decided = decision.decide(|tickets| {
            attempts.fetch_add(1, Relaxed);
            Ok::<_, Never>(TicketSold { concert, number: tickets.sold + 1 })
        });
        match decided.await {
            Ok(_) => done.times.push(start.elapsed()),
            Err(error) if error.is_conflict() => done.given_up += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Done { attempts: attempts.into_inner(), ..done })
}
