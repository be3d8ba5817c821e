//! `import`: the events of a file into a store; the file is an export, or another program wrote it.

use std::path::PathBuf;

use clap::Args;
use eventbus::store::EventStore;
use serde_json::json;

use super::export::verify;
use crate::{
    error::{CommandError, ExitStatus},
    output::Progress,
    session::Session,
    transfer::{EarlyEvents, ExportReader, ForeignReader, Importer, compare},
};

/// Append the events of a file that `export` wrote to the store, which must be empty
///
/// A second call goes on with an import that was interrupted, or adds what `export --resume` has added to the file. Before
/// the import all checksums of the file are compared, after it the events of the store with those of the file. Create the
/// tables with `migrate` before, and start the application after it: it stores tags and unique values anew, by
/// `tag_stored_events` and `take_unique_values`.
///
/// With `--foreign` the file is of another program: one JSON object per line, with `aggregate_type`, `aggregate_id`,
/// `version` (from 1), `event_type`, `occurred_at` (RFC 3339) and `fields`, and perhaps `schema_version` (1 otherwise),
/// `event_id`, `recorded_at`, `tenant`, `correlation_id`, `causation_id`, `actor_id` and `attributes`. Later files, with
/// more events, are imported into the same store: events that it has are compared, and not stored again.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file is of another program: JSON lines without the header and the checksums of an export
    #[arg(long)]
    foreign: bool,
}

/// What an operator has to know before the application starts on the moved events.
const BEGIN_ANEW: &str = "groups and projections begin with the first event there: handlers run again for all events";

impl ImportArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let store = session.store().await?;
        if self.foreign {
            return self.run_foreign(session, &*store).await;
        }
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
        show_moved(session, "imported", count)
    }

    /// Imports the events of another program.
    async fn run_foreign(&self, session: &Session, store: &dyn EventStore) -> Result<ExitStatus, CommandError> {
        let (mut reader, mut events) = (ForeignReader::open(&self.file)?, 0);
        {
            let _line = Progress::of_unknown_size("reading the file")?;
            loop {
                match reader.next_chunk()?.len() {
                    0 => break,
                    read => events += read as u64,
                }
                tokio::task::yield_now().await;
            }
        }
        let question = format!("append {events} events to {}, unless it has them", store.describe());
        if !session.may_change(&question).await? {
            return Ok(ExitStatus::Done);
        }
        let (lines, mut reader) = (reader.lines(), ForeignReader::open(&self.file)?);
        {
            let progress = Progress::new("importing", "lines")?;
            loop {
                let chunk = reader.next_chunk()?;
                if chunk.is_empty() {
                    break;
                }
                reader.append(store, &chunk).await?;
                progress.set(reader.lines(), lines);
            }
        }
        if let Some(EarlyEvents { line, count }) = reader.early() {
            session.printer().note(&format!(
                "the feed has {count} events before events of earlier lines, first that of line {line}: for the order of the \
                 file, import it into an empty store"
            ));
        }
        show_moved(session, "imported", events)
    }
}

/// Ends a finished import or copy.
pub(super) fn show_moved(session: &Session, moved: &str, events: u64) -> Result<ExitStatus, CommandError> {
    session.printer().note(BEGIN_ANEW);
    session.show(&json!({ "events": events, "verified": true }), |_| format!("{moved} {events} events, verified\n"))
}
