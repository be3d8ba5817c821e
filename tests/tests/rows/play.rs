//! The roles of the processes that die.

use std::{env, time::Duration};

use eventbus::{App, projection::RebuildError};
use eventbus_test::internal::Actor;

use crate::{
    kinds::{Kind, Postgres, SHORT_LEASE, Sqlite},
    orders::Pace,
};

/// The role of such a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Feeds the projection.
    Project,
    /// Rebuilds the projection, and prints the progress.
    Rebuild,
    /// Runs the handler.
    Handle,
}

/// Runs the role of a process that dies; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_dies() {
    let (Ok(kind), Ok(place), Ok(part), Ok(pace)) =
        (env::var("ROWS_KIND"), env::var("ROWS_PLACE"), env::var("ROWS_PART"), env::var("ROWS_PACE"))
    else {
        return;
    };
    Actor::end_with_parent();
    let pace = Pace(Duration::from_micros(pace.parse().unwrap()));
    match &*kind {
        Sqlite::NAME => play(Sqlite::open(&place).await, &part, pace).await,
        _ => play(Postgres::open(&place).await, &part, pace).await,
    }
}

async fn play<K: Kind>(kind: K, part: &str, pace: Pace) {
    let app = match part {
        "Handle" => {
            let builder = App::builder().store(kind.store()).state(pace);
            K::with_effects(builder).start().await.unwrap()
        }
        _ => kind.app(pace, SHORT_LEASE).await,
    };
    println!("\nbegun");
    if part == "Rebuild" {
        let rebuild = async || app.rebuild::<K::Rows>().on_progress(|now| println!("\nat {}", now.events)).await;
        let mut rebuilt = rebuild().await;
        // on a machine under load the short lease may expire: the next call continues
        while let Err(RebuildError::Lost { .. }) = rebuilt {
            rebuilt = rebuild().await;
        }
        rebuilt.unwrap();
        println!("\nrebuilt");
    }
    std::future::pending().await
}

/// Starts a process.
pub(crate) fn spawn<K: Kind>(place: &str, part: Part, pace: Duration) -> Actor {
    let (part, pace) = (format!("{part:?}"), pace.as_micros().to_string());
    let variables = [("ROWS_KIND", K::NAME), ("ROWS_PLACE", place), ("ROWS_PART", &part), ("ROWS_PACE", &pace)];
    Actor::play("play::the_process_that_dies", &variables)
}
