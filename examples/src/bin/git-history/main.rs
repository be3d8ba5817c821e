//! The history of a git repository as events: commits are events, files are aggregates.
//!
//! ```text
//! cargo run -p examples --bin git-history -- <path> [--store <url>]
//! ```
//!
//! Run it again to import new commits. After an interrupt or a kill the next run continues where the former one
//! stopped: no event is lost or stored twice. Read `domain` first: it is the part that an application is about.
//!
//! - The import covers all commits reachable from HEAD, parents before children. A merge counts as a commit, with those
//!   files only that it changed itself; the other changes came with the commits that it merges. If branches disagreed
//!   about a file, its state is that of the branch imported last, whichever version the merge chose.
//! - `identity` explains how a file keeps its identity under renames.
//! - A rewritten history is refused without `--accept-rewrite`. Events are facts: imported ones stay, the rewrite
//!   becomes an event of its own, and the missing commits are imported too. The same holds after a checkout of a
//!   different branch.
//! - A shallow clone is imported with a note. If it is deepened later, the import is refused: no event can be put
//!   before existing ones.

mod change;
mod domain;
mod git;
mod identity;
mod import;
mod log;
mod progress;
mod report;
mod resume;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use eventbus::{App, ProjectionHandle, projection::Projection, store::EventStore};
use examples::signal::{INTERRUPTED, Stop};

use crate::{
    domain::{Authors, HotFiles},
    git::Repository,
    import::Importer,
    progress::Progress,
    resume::{Imported, Plan},
};

/// The default file of the store, in the target folder.
const FILE: &str = "git-history.db";

/// Imports the history of a git repository as events, and shows who and what changed most.
#[derive(Debug, Parser)]
struct Arguments {
    /// The repository: a folder in it.
    path: PathBuf,
    /// The event store: a file, `sqlite:…` or `postgres://…`; one repository per store.
    #[arg(long)]
    store: Option<String>,
    /// Number of rows in the tables.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Import missing commits although HEAD does not contain all imported ones.
    #[arg(long)]
    accept_rewrite: bool,
}

#[tokio::main]
async fn main() -> eventbus::Result<ExitCode> {
    let arguments = Arguments::parse();
    examples::log_warnings();
    let mut stop = Stop::on_signal()?;
    let repository = Arc::new(Repository::open(&arguments.path)?);
    if repository.is_shallow {
        println!("note: a shallow clone: its oldest commits look as if they added every file");
    }
    let url = match arguments.store {
        Some(url) => url,
        None => examples::in_target(FILE)?.to_string_lossy().into_owned(),
    };
    println!("store: {}", examples::shown(&url));
    let store = examples::open_store(&url).await?;

    let Some(imported) = stop.unless(replay(&store)).await else {
        return Ok(stopped());
    };
    let imported = imported?;
    let plan = resume::plan(&repository, &imported, &store, arguments.accept_rewrite).await?;
    match (imported.commits, plan.commits) {
        (0, new) => println!("{new} commits to import"),
        (before, 0) => println!("{before} commits were imported before, none is new"),
        (before, new) => println!("{before} commits were imported before, {new} to go"),
    }
    let left_over = imported.left_over().len();
    if left_over > 0 {
        println!("{left_over} file events are there already: an import was interrupted");
    }

    let app = App::builder()
        .store(Arc::clone(&store))
        .projection_with(Authors::default)
        .projection_with(HotFiles::default)
        .without_relay()
        .wait_timeout(Duration::from_secs(3_600))
        .start()
        .await?;

    let importer = Importer::new(store, imported)?;
    let ended = match import(importer, repository, &plan, &mut stop).await {
        Ok(true) => stop.unless(look_back(&app, arguments.top)).await.transpose(),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    let shut_down = app.shutdown(Duration::from_secs(5)).await;
    let Some(()) = ended? else {
        return Ok(stopped());
    };
    shut_down?;
    Ok(ExitCode::SUCCESS)
}

/// Imports new commits, and prints the rate; returns `false` if it was stopped before the end.
async fn import(
    importer: Importer<Arc<dyn EventStore>>,
    repository: Arc<Repository>,
    plan: &Plan,
    stop: &mut Stop,
) -> eventbus::Result<bool> {
    let began = Instant::now();
    let mut progress = Progress::new("importing", plan.commits);
    let commits = import::read(repository, plan.without.clone());
    let outcome = importer.run(commits, plan, stop, |commits| progress.add(commits)).await?;
    drop(progress);
    let took = began.elapsed();
    println!(
        "imported {} commits as {} events in {took:.1?} ({} commits/s, {} events/s)",
        outcome.commits,
        outcome.events,
        report::per_second(outcome.commits, took),
        report::per_second(outcome.events, took),
    );
    report::oddities(&outcome.oddities);
    Ok(!outcome.stopped)
}

/// Folds the imported events.
async fn replay(store: &Arc<dyn EventStore>) -> eventbus::Result<Imported> {
    let imported = ProjectionHandle::with_factory(Imported::default);
    let mut progress = Progress::new("reading", 0);
    imported.rebuild(store).on_progress(|now| progress.reach(now.position.get(), now.target.get())).await?;
    let imported = imported.read().await.clone();
    Ok(imported)
}

/// Prints the projections, then rebuilds them and compares.
async fn look_back(app: &App, top: usize) -> eventbus::Result<()> {
    let head = app.store().head().await?;
    let authors = app.projected::<Authors>(head).await?.clone();
    report::authors(&authors, top);
    let files = app.projected::<HotFiles>(head).await?.clone();
    report::hot_files(&files, top);
    println!();
    rebuild(app, "authors", &authors).await?;
    rebuild(app, "hot files", &files).await
}

/// Rebuilds a projection from zero; the result must equal the former one.
async fn rebuild<P>(app: &App, name: &str, live: &P) -> eventbus::Result<()>
where
    P: Projection + PartialEq,
{
    let mut progress = Progress::new(&format!("rebuilding {name}"), 0);
    let rebuilt = app.rebuild::<P>().on_progress(|now| progress.reach(now.position.get(), now.target.get())).await?;
    drop(progress);
    if *app.projection::<P>()?.read().await != *live {
        return Err(format!("{name}: rebuilt from {} events, and not as before", rebuilt.events).into());
    }
    println!(
        "{name}: rebuilt from {} events in {:.1?} ({} events/s), same as live",
        rebuilt.events,
        rebuilt.took,
        report::per_second(rebuilt.events, rebuilt.took),
    );
    Ok(())
}

fn stopped() -> ExitCode {
    println!("stopped: what was imported stays, the same command goes on from there");
    ExitCode::from(INTERRUPTED)
}
