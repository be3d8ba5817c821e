//! `import`: the events of a file into a store.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::export::verify;
use crate::{
    error::{CommandError, ExitStatus},
    output::Progress,
    session::Session,
    transfer::{ExportReader, Importer, compare},
};

/// Append the events of a file that `export` wrote to the store, which must be empty
///
/// A second call goes on with an import that was interrupted, or adds what `export --resume` has added to the file. Before
/// the import all checksums of the file are compared, after it the events of the store with those of the file. Create the
/// tables with `migrate` before, and start the application after it: it stores tags and unique values anew, by
/// `tag_stored_events` and `take_unique_values`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What an operator has to know before the application starts on the moved events.
pub(super) const BEGIN_ANEW: &str =
    "groups and projections begin with the first event there: handlers run again for all events";

/// A finished import or copy.
#[derive(Debug, Serialize)]
pub(super) struct Imported {
    pub(super) events: u64,
    pub(super) verified: bool,
}

impl ImportArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let store = session.store().await?;
        let count = verify(&self.file).await?;
        let mut reader = ExportReader::open(&self.file)?;
        Importer::check(&*store, reader.store()).await?;
        let question = format!("append {count} events to {}", store.describe());
        if !session.may_change(&question).await? {
            return Ok(ExitStatus::Done);
        }
        let mut importer = Importer::begin(store.clone(), reader.store()).await?;
        {
            let progress = Progress::new("importing", "events")?;
            while let Some(chunk) = reader.next_chunk()? {
                importer.add(&chunk).await?;
                progress.set(reader.events(), count);
                // a chunk that was appended before takes no await: Ctrl-C ends it here
                tokio::task::yield_now().await;
            }
        }
        compare(&*store, reader.checksum(), Progress::new("verifying the store", "positions")?).await?;
        session.printer().note(BEGIN_ANEW);
        let body = Imported { events: count, verified: true };
        session.printer().show(&body, |body| format!("imported {} events, verified\n", body.events))?;
        Ok(ExitStatus::Done)
    }
}
