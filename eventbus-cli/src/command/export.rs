//! `export`: the events of a store into a file.

use std::path::PathBuf;

use clap::Args;
use eventbus::store::FeedFilter;
use serde_json::json;

use crate::{
    error::{CommandError, ExitStatus},
    output::Progress,
    session::Session,
    transfer::{ExportReader, ExportWriter, check_new, read_chunk},
};

/// Write all events of the store to a file of JSON lines, compressed with zstd if its name ends with .zst
///
/// Events keep their ids, versions, times and fields. Checkpoints, deliveries, dead letters and snapshots are not
/// exported, nor are tags and unique values: after the import the application stores them anew, by `tag_stored_events`
/// and `take_unique_values`. The file is read again at the end, and each checksum compared.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file, which must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Go on with an earlier export of the store, interrupted or not: add the events that the file does not hold
    #[arg(long)]
    resume: bool,
}

impl ExportArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let store = session.store().await?;
        let (store_id, head) = (store.store_id().await?, store.head().await?);
        if session.is_dry_run() {
            match self.resume {
                // a file is changed only once there is something to add
                true => drop(ExportWriter::resume(&self.file, &*store).await?),
                false => check_new(&self.file)?,
            }
            let (file, store, head) = (self.file.display(), store.describe(), head.get());
            session.show_dry_run(&format!("write the events of {store} up to position {head} to {file}"))?;
            return Ok(ExitStatus::Done);
        }
        let mut writer = match self.resume {
            true => ExportWriter::resume(&self.file, &*store).await?,
            false => ExportWriter::create(&self.file, store_id)?,
        };
        {
            let progress = Progress::new("exporting", "positions")?;
            let mut feed = store.read_feed(writer.position(), head, &FeedFilter::all());
            while let Some(chunk) = read_chunk(&mut feed).await? {
                writer.add(&chunk)?;
                progress.set(chunk.position.get(), head.get());
            }
        }
        writer.finish()?;
        let events = verify(&self.file).await?;
        let (file, id) = (self.file.display().to_string(), store_id.to_string());
        let body = json!({ "file": file, "store_id": id, "events": events, "verified": true });
        session.show(&body, |_| format!("exported {events} events to {file}, verified\n"))
    }
}

/// Reads a file to its end, comparing its checksums; returns the number of its events.
pub(super) async fn verify(file: &std::path::Path) -> Result<u64, CommandError> {
    let progress = Progress::new("verifying the file", "bytes")?;
    let mut reader = ExportReader::open(file)?;
    while reader.next_chunk()?.is_some() {
        let (done, of) = reader.progress();
        progress.set(done, of);
        // so that Ctrl-C ends it
        tokio::task::yield_now().await;
    }
    Ok(reader.events())
}
