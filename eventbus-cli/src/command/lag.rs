//! `lag`: how far all readers are behind.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{parse_duration, parse_interval};
use crate::{
    error::{CommandError, ExitStatus},
    output::{Progress, Table, optional},
    query::{LagRow, list_lags},
    session::Session,
};

/// Show how far projections, relay, handlers and groups are behind
#[derive(Debug, Args)]
pub(crate) struct LagArgs {
    /// Show it again and again, every 2 seconds or as often as this says; once it was shown, an outage does not end it
    ///
    /// With `--over` or `--over-time` it ends as soon as a reader is beyond that.
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", value_parser = parse_interval)]
    watch: Option<Duration>,
    /// End with exit code 1 if a reader is more than so many events behind, or their number is unknown
    ///
    /// A handler that is paused, or that no release has, does not count.
    #[arg(long, value_name = "EVENTS")]
    over: Option<u64>,
    /// End with exit code 1 if a reader is behind for longer than this, or its lag is unknown
    ///
    /// A file queue knows no times: without a store, its jobs do not count.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    over_time: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Lags {
    readers: Vec<LagRow>,
    /// The readers beyond `--over` or `--over-time`.
    over: Vec<String>,
}

impl LagArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let (bus, store) = (session.bus().await?, session.optional_store().await?);
        let mut was_shown = false;
        loop {
            let reading = list_lags(store.as_deref(), bus, session.clock());
            let readers = match (Progress::while_reading(reading).await, self.watch) {
                // an operator watches how an outage ends
                (Err(error @ CommandError::Unreachable { .. }), Some(interval)) if was_shown => {
                    session.printer().note(&format!("error: {}", error.to_line()));
                    session.clock().sleep(interval).await;
                    continue;
                }
                (readers, _) => readers?,
            };
            was_shown = true;
            let over = readers.iter().filter(|row| self.is_over(row)).map(|row| row.name.clone());
            let body = Lags { over: over.collect(), readers };
            let shown = session.printer_now().show_table(&body, |body| table(&body.readers));
            match self.watch {
                Some(_) if body.over.is_empty() => shown?,
                // the exit code is an answer too
                _ => shown.or_else(CommandError::unless_reader_left)?,
            }
            if !body.over.is_empty() {
                session.printer().note(&format!("behind: {}", body.over.join(", ")));
                return Ok(ExitStatus::Finding);
            }
            match self.watch {
                Some(interval) => session.clock().sleep(interval).await,
                None => return Ok(ExitStatus::Done),
            }
        }
    }

    fn is_over(&self, row: &LagRow) -> bool {
        // an unknown number may be too high
        let is_late = |most: Duration| match row.seconds {
            Some(seconds) => row.events != Some(0) && seconds > most.as_secs_f64(),
            // a position without seconds: the store cannot read the event at which the reader waits
            None => row.events.is_none() || (row.position.is_some() && row.events != Some(0)),
        };
        let is_over = self.over.is_some_and(|most| row.events.is_none_or(|events| events > most));
        !row.is_at_rest() && (is_over || self.over_time.is_some_and(is_late))
    }
}

fn table(readers: &[LagRow]) -> Table {
    Table::new("KIND, NAME, POSITION>, HEAD>, EVENTS>, SECONDS>, OWNER").rows(readers, |row| {
        [
            row.kind.as_str().into(),
            row.name.clone(),
            optional(row.position.as_ref()),
            optional(row.head.as_ref()),
            optional(row.events),
            optional(row.seconds.map(|seconds| format!("{seconds:.1}"))),
            row.remark.map_or_else(|| optional(row.owner.as_ref()), str::to_owned),
        ]
    })
}
