//! The pages of the dashboard on a store with a million streams, of which one has 10,000 events, and with 1,500 dead letters,
//! in an application that knows the states of the streams:
//!
//! ```text
//! cargo bench -p eventbus-cli --bench pages [-- --streams 100000]
//! ```
//!
//! Prints the rows that a first answer of each page reads of the table of which it reads most, and the median and the longest of
//! 21 answers. Fails if a median is over 200 ms, or an application and a page together read more than 1,200 rows of a table.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use axum::Router;
use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{AppendEvents as _, Checkpoints as _},
    prelude::*,
};
use eventstore_postgres::PgEventStore;
use futures_util::{StreamExt as _, stream};
use sqlx::{Connection as _, PgConnection};
use tokio::net::TcpListener;

use filling::add_first_dead_letters;
use http::Site;
use reads::{OPERATING_PATHS, rows_read};

#[path = "../tests/common/filling.rs"]
mod filling;
#[path = "../tests/dashboard/http.rs"]
#[allow(dead_code, reason = "the bench sends no changes")]
mod http;
#[path = "../tests/dashboard/reads.rs"]
mod reads;

const STREAMS: usize = 1_000_000;
const LONG_STREAM_EVENTS: usize = 10_000;
const DEAD_LETTERS: u64 = 1_500;
/// Appends in flight, so that they share commits.
const WRITERS: usize = 256;
const ANSWERS: usize = 21;
const MEDIAN_MAX: Duration = Duration::from_millis(200);
/// The most rows of a table that a page reads, with those that its application reads meanwhile.
const ROWS_MAX: i64 = 1_200;

const STREAM_PATHS: [&str; 8] = [
    "/",
    "/streams",
    "/streams?type=Order&prefix=o-05",
    "/streams?type=Cart",
    "/stream?type=Order&id=o-0000007",
    "/stream?type=Order&id=long",
    "/stream?type=Order&id=long&upto=900",
    "/stream?type=Order&id=long&upto=5000",
];

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Order)]
struct OrderPlaced {
    cents: u64,
    lines: Vec<String>,
}

/// Pages show what each event changes in it.
#[derive(Debug, Default, Serialize, Aggregate)]
#[aggregate(events(OrderPlaced))]
struct Order {
    cents: u64,
    last_lines: Vec<String>,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        let OrderEvent::OrderPlaced(placed) = event;
        self.cents += placed.cents;
        self.last_lines.clone_from(&placed.lines);
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = env::args().collect();
    let given = arguments.iter().position(|argument| argument == "--streams").map(|place| &arguments[place + 1]);
    let streams = given.map_or(STREAMS, |number| number.parse().unwrap());

    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let began = Instant::now();
    fill(&store, streams).await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    // as autovacuum does some time after the tables were filled
    sqlx::query("VACUUM ANALYZE").execute(&mut connection).await.unwrap();
    eprintln!("{streams} streams in {:.0} s", began.elapsed().as_secs_f64());

    let url = database.url();
    store.close().await;
    let rows = count_rows(url, &mut connection).await;
    let (app, site) = start(PgEventStore::connect(url).await.unwrap()).await;
    let states = site.get("/stream?type=Order&id=long&upto=900").await.ok();
    assert!(states.contains("Changed in the state"), "the page shows no states");
    let mut slow = Vec::new();
    println!("{:<50} {:>10} {:>10} {:>10}", "page", "rows", "median ms", "longest ms");
    for path in STREAM_PATHS.into_iter().chain(OPERATING_PATHS) {
        let mut took = Vec::with_capacity(ANSWERS);
        for _ in 0..ANSWERS {
            let began = Instant::now();
            site.get(path).await.ok();
            took.push(began.elapsed());
        }
        took.sort_unstable();
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        let rows = rows[path];
        println!("{path:<50} {rows:>10} {:>10.1} {:>10.1}", millis(took[ANSWERS / 2]), millis(took[ANSWERS - 1]));
        if took[ANSWERS / 2] > MEDIAN_MAX {
            slow.push(path);
        }
    }
    app.shutdown(Duration::from_secs(60)).await.unwrap();
    assert!(slow.is_empty(), "over {MEDIAN_MAX:?}: {slow:?}");
}

/// Starts an application with its dashboard.
async fn start(store: PgEventStore) -> (App, Site) {
    let app = App::builder().store(store).start().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site::new(&format!("http://{}/", listener.local_addr().unwrap()));
    let router: Router = eventbus_cli::dashboard(&app);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (app, site)
}

/// Returns for each page the rows that it reads of the table of which it reads most. Fails if it scans a table.
async fn count_rows(url: &str, connection: &mut PgConnection) -> BTreeMap<&'static str, i64> {
    let mut rows = BTreeMap::new();
    for path in STREAM_PATHS.into_iter().chain(OPERATING_PATHS) {
        let before = rows_read(connection).await;
        let store = PgEventStore::connect(url).await.unwrap();
        let (app, site) = start(store.clone()).await;
        site.get(path).await.ok();
        app.shutdown(Duration::from_secs(60)).await.unwrap();
        store.close().await;
        let read = rows_read(connection).await.since(&before);
        for (table, (scanned, found)) in &read {
            // the planner scans a table of few rows, as that is cheaper than its index
            assert!(*scanned < 100 && *found <= ROWS_MAX, "{path} scans {scanned} and finds {found} rows of {table}");
        }
        rows.insert(path, read.values().map(|(scanned, found)| scanned + found).max().unwrap_or_default());
    }
    rows
}

fn placed() -> NewEvent {
    NewEvent::from_event(&OrderPlaced { cents: 120, lines: vec!["a".into(), "b".into()] }).unwrap()
}

async fn fill(store: &PgEventStore, streams: usize) {
    let appends = stream::iter(0..streams).map(|number| async move {
        let stream = StreamId::parse("Order", &format!("o-{number:07}")).unwrap();
        store.append(&stream, ExpectedVersion::NoStream, vec![placed()]).await.unwrap();
    });
    appends.buffer_unordered(WRITERS).collect::<Vec<()>>().await;
    let long = StreamId::parse("Order", "long").unwrap();
    for _ in 0..LONG_STREAM_EVENTS / 1_000 {
        store.append(&long, ExpectedVersion::Any, (0..1_000).map(|_| placed()).collect()).await.unwrap();
    }
    add_first_dead_letters(store, "mail", DEAD_LETTERS).await;
    for number in 0..20 {
        let projection = Name::new("checkpoint", format!("projection:totals-{number}")).unwrap();
        store.save_checkpoint(&projection, Position::new(100 * number)).await.unwrap();
    }
}
