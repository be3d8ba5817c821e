//! `lag`: how far all readers are behind.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{parse_duration, parse_interval};
use crate::{
    error::{CommandError, ExitStatus},
    output::{Align, Progress, Table, optional},
    query::{LagRow, list_lags},
    session::Session,
};

/// Show how far projections, relay and groups are behind
#[derive(Debug, Args)]
pub(crate) struct LagArgs {
    /// Show it again and again, every 2 seconds or as often as this says; once it was shown, an outage does not end it
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", value_parser = parse_interval)]
    watch: Option<Duration>,
    /// End with exit code 1 if a reader is more than so many events behind, or their number is unknown
    #[arg(long, value_name = "EVENTS")]
    over: Option<u64>,
    /// End with exit code 1 if a reader is behind for longer than this, or its lag is unknown
    ///
    /// A file queue knows no times: without a store, those of its groups do not count.
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
        let mut was_shown = false;
        loop {
            let reading = async {
                let (bus, store) = (session.bus().await?, session.optional_store().await?);
                list_lags(store.as_deref(), bus, session.clock()).await
            };
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
                Some(_) => shown?,
                // the exit code is an answer too
                None => shown.or_else(CommandError::unless_reader_left)?,
            }
            if !body.over.is_empty() {
                session.printer().note(&format!("behind: {}", body.over.join(", ")));
            }
            match self.watch {
                Some(interval) => session.clock().sleep(interval).await,
                None if body.over.is_empty() => return Ok(ExitStatus::Done),
                None => return Ok(ExitStatus::Finding),
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
        self.over.is_some_and(|most| row.events.is_none_or(|events| events > most))
            || self.over_time.is_some_and(is_late)
    }
}

fn table(readers: &[LagRow]) -> Table {
    let mut table = Table::new([
        ("KIND", Align::Left),
        ("NAME", Align::Left),
        ("POSITION", Align::Right),
        ("HEAD", Align::Right),
        ("EVENTS", Align::Right),
        ("SECONDS", Align::Right),
        ("OWNER", Align::Left),
    ]);
    for row in readers {
        table.add([
            row.kind.as_str().into(),
            row.name.clone(),
            optional(row.position.as_ref()),
            optional(row.head.as_ref()),
            optional(row.events),
            optional(row.seconds.map(|seconds| format!("{seconds:.1}"))),
            optional(row.owner.as_ref()),
        ]);
    }
    table
}
