//! `copy`: copies the events of a store into a second one.

use clap::Args;
use eventbus::store::FeedFilter;

use super::import::show_moved;
use crate::{
    connection::{ConnectionSettings, OpenStore},
    error::{CommandError, ExitStatus},
    output::Progress,
    session::Session,
    transfer::{Importer, checksum, compare, read_chunk},
};

/// Append all events of the store to another store, which must be empty
///
/// A second call goes on with a copy that was interrupted. At the end all events of both stores are compared, so stop the
/// application before the last call. Moved are events alone, as by `export`.
#[derive(derive_more::Debug, Args)]
pub(crate) struct CopyArgs {
    /// The other store: postgres://…, sqlite:PATH or redis://…
    #[arg(long, value_name = "URL", env = "EVENTBUS_TO", hide_env_values = true)]
    #[debug(skip)]
    to: String,
    /// The schema of the other store, if it is a PostgreSQL store
    #[arg(long, value_name = "NAME", default_value = "eventbus")]
    to_schema: String,
    /// The key prefix of the other store, if it is a Redis store
    #[arg(long, value_name = "PREFIX", default_value = "")]
    to_prefix: String,
}

impl CopyArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let from = session.store().await?;
        let of_source = |error: CommandError| error.of_store(&from.describe());
        let settings = ConnectionSettings {
            store: Some(self.to.clone()),
            schema: self.to_schema.clone(),
            store_prefix: self.to_prefix.clone(),
            ..session.settings().clone()
        };
        let open = OpenStore::open(&settings).await?;
        let to = open.shared();
        let of_target = |error: CommandError| error.of_store(&to.describe());
        let head = from.head().await.map_err(|error| of_source(error.into()))?;
        let id = from.store_id().await.map_err(|error| of_source(error.into()))?;
        Importer::check(&*to, id).await.map_err(of_target)?;
        let question = format!("append the events of {} to {}", from.describe(), to.describe());
        if !session.may_change(&question).await? {
            return Ok(ExitStatus::Done);
        }
        let mut importer = Importer::begin(to.clone(), id).await.map_err(of_target)?;
        {
            let progress = Progress::new("copying", "positions")?;
            let mut feed = from.read_feed(importer.begins_after(), head, &FeedFilter::all());
            while let Some(chunk) = read_chunk(&mut feed).await.map_err(of_source)? {
                importer.add(&chunk).await.map_err(of_target)?;
                progress.set(chunk.position.get(), head.get());
            }
        }
        let sum = checksum(&*from, head, Progress::new("reading", "positions")?).await.map_err(of_source)?;
        compare(&*to, sum, Progress::new("verifying", "positions")?).await.map_err(of_target)?;
        open.close().await;
        show_moved(session, "copied", sum.events)
    }
}
