//! Two releases of a program, with the same handlers apart from one that the second release adds, one that it removes, and
//! some whose event types it changes.

use std::{path::PathBuf, time::Duration};

use eventbus::{App, DomainEvent, HandlerError, RecordedEvent, State, app::AppBuilder, handler};
use serde::{Deserialize, Serialize};

use crate::fire::{
    HarnessError,
    kills::process_role::init_log,
    place::Place,
    role::Role,
    runs::{RunLog, open_while_down, run_app},
};

pub(super) const DEPOSITED: &str = "Deposited";
pub(super) const WITHDRAWN: &str = "Withdrawn";
/// The number of events that a process runs at once of each handler.
pub(super) const CONCURRENCY: usize = 2;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Withdrawn {}

/// Both types.
#[derive(Debug, Clone, DomainEvent)]
enum Movement {
    Deposited(Deposited),
    Withdrawn(Withdrawn),
}

/// A release of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Release {
    First,
    Second,
}

/// The handlers of a release, with the event types that each takes.
pub(super) type Handlers = &'static [(&'static str, &'static [&'static str])];

impl Release {
    pub(super) const fn handlers(self) -> Handlers {
        const BOTH: &[&str] = &[DEPOSITED, WITHDRAWN];
        match self {
            Self::First => &[
                ("unchanged", BOTH),
                ("removed", &[WITHDRAWN]),
                ("widened", &[DEPOSITED]),
                ("widened_now", &[DEPOSITED]),
                ("narrowed", BOTH),
            ],
            Self::Second => &[
                ("unchanged", BOTH),
                ("added", &[WITHDRAWN]),
                ("added_now", &[WITHDRAWN]),
                ("widened", BOTH),
                ("widened_now", BOTH),
                ("narrowed", &[DEPOSITED]),
            ],
        }
    }

    fn add_handlers(self, builder: AppBuilder) -> AppBuilder {
        match self {
            Self::First => builder
                .handler::<unchanged>()
                .handler::<removed>()
                .handler::<first::widened>()
                .handler::<first::widened_now>()
                .handler::<first::narrowed>(),
            Self::Second => builder
                .handler::<unchanged>()
                .handler::<added>()
                .handler::<added_now>()
                .handler::<second::widened>()
                .handler::<second::widened_now>()
                .handler::<second::narrowed>(),
        }
    }
}

async fn record(runs: &RunLog, handler: &str, event: &RecordedEvent) -> Result<(), HandlerError> {
    let no_effect = async { Ok::<_, HarnessError>(()) };
    runs.record(handler, event, false, no_effect).await
}

#[handler(manual, shards = 4, concurrency = 2)]
async fn unchanged(_: &Movement, event: &RecordedEvent, State(runs): State<RunLog>) -> Result<(), HandlerError> {
    record(&runs, "unchanged", event).await
}

#[handler(manual, concurrency = 2)]
async fn removed(_: &Withdrawn, event: &RecordedEvent, State(runs): State<RunLog>) -> Result<(), HandlerError> {
    record(&runs, "removed", event).await
}

#[handler(manual, concurrency = 2)]
async fn added(_: &Withdrawn, event: &RecordedEvent, State(runs): State<RunLog>) -> Result<(), HandlerError> {
    record(&runs, "added", event).await
}

#[handler(manual, concurrency = 2, start = "now")]
async fn added_now(_: &Withdrawn, event: &RecordedEvent, State(runs): State<RunLog>) -> Result<(), HandlerError> {
    record(&runs, "added_now", event).await
}

/// Makes the handlers whose types differ between the releases.
macro_rules! handlers_of_release {
    ($release:ident, $widened:ident, $narrowed:ident) => {
        mod $release {
            use super::{HandlerError, RecordedEvent, RunLog, State, handler, record, $narrowed, $widened};

            #[handler(manual, shards = 4, concurrency = 2)]
            pub(super) async fn widened(
                _: &$widened,
                event: &RecordedEvent,
                State(runs): State<RunLog>,
            ) -> Result<(), HandlerError> {
                record(&runs, "widened", event).await
            }

            #[handler(manual, shards = 2, concurrency = 2, start = "now")]
            pub(super) async fn widened_now(
                _: &$widened,
                event: &RecordedEvent,
                State(runs): State<RunLog>,
            ) -> Result<(), HandlerError> {
                record(&runs, "widened_now", event).await
            }

            #[handler(manual, shards = 4, concurrency = 2)]
            pub(super) async fn narrowed(
                _: &$narrowed,
                event: &RecordedEvent,
                State(runs): State<RunLog>,
            ) -> Result<(), HandlerError> {
                record(&runs, "narrowed", event).await
            }
        }
    };
}

handlers_of_release!(first, Deposited, Movement);
handlers_of_release!(second, Movement, Deposited);

/// A process of a release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::fire) struct Process {
    pub(super) number: u32,
    pub(super) release: Release,
    pub(super) place: Place,
    /// The file of runs.
    pub(super) runs: PathBuf,
    pub(super) lease: Duration,
    /// Set if it appends events too.
    pub(super) writes: bool,
    pub(super) seed: u64,
}

impl Role for Process {
    const VARIABLE: &'static str = "FIRE_RELEASES";

    async fn play(self) -> Result<(), HarnessError> {
        init_log(&format!("release-{:?}-{}", self.release, self.number))?;
        let start = async {
            let store = open_while_down(&self.place).await?;
            let runs = RunLog::open(self.number, &self.runs)?;
            let builder = App::builder().store(store).state(runs).lease(self.lease);
            Ok(self.release.add_handlers(builder).start().await?)
        };
        run_app(start, self.writes, self.seed, &[DEPOSITED, WITHDRAWN]).await
    }
}
