//! `replay`: runs one handler on stored events once more.

use std::{fmt, time::Duration};

use clap::Args;
use eventbus::{
    Position,
    app::{ReplayError, Replayed},
};
use serde::Serialize;

use super::{parse_duration, rebuild::to_command_error};
use crate::{
    error::{CommandError, ExitStatus},
    output::{Printer, Progress, printable},
    query::{ago, position_at},
    session::Session,
};

/// Run one handler on stored events, from a position or a time on
///
/// The application may run or be down: no other handler runs, and no consumer group moves. Each event is handled once, and
/// the replay ends at the first one that fails; it says after which position to go on. A handler that takes the store's
/// connection, or a repository, runs only for events that it has not handled. For dead letters see `dead-letters replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The name of the handler
    #[arg(value_name = "HANDLER")]
    handler: String,
    #[command(flatten)]
    from: FromArgs,
    /// The position of the last event; without it the end of the store
    #[arg(long, value_name = "POSITION")]
    through: Option<u64>,
}

/// Where the replay begins.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct FromArgs {
    /// Begin after this position; 0 is before the first event
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// Begin with the events that were recorded within this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Replay<'n> {
    handler: &'n str,
    events: u64,
    /// The events that the handler had handled before, and did not handle again.
    skipped: u64,
    /// All events up to this position are handled.
    position: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A replay that has not ended. When it is dropped, also by Ctrl-C, it says where to go on.
struct RunningReplay<'a> {
    handler: &'a str,
    after: Position,
    through: Option<Position>,
    printer: Printer,
    bar: Option<Progress>,
    events: u64,
    skipped: u64,
    position: Position,
}

/// Returns the sentence about the result of a replay.
fn done_text(handler: &str, (events, skipped): (u64, u64), position: &impl fmt::Display) -> String {
    let noun = if events == 1 { "event" } else { "events" };
    let skipped = match skipped {
        0 => String::new(),
        skipped => format!(", skipped {skipped} that it had handled before"),
    };
    format!("`{handler}` handled {events} {noun}{skipped}, up to position {position}")
}

impl<'a> RunningReplay<'a> {
    fn new(
        handler: &'a str,
        (after, through): (Position, Option<Position>),
        printer: Printer,
    ) -> Result<Self, CommandError> {
        let bar = Some(Progress::new("replaying", "positions")?);
        Ok(Self { handler, after, through, printer, bar, events: 0, skipped: 0, position: after })
    }

    fn report(&mut self, now: &Replayed) {
        (self.events, self.skipped, self.position) = (now.events, now.skipped, now.position);
        if let Some(bar) = &self.bar {
            let from_after = |position: Position| position.get().saturating_sub(self.after.get());
            bar.set(from_after(now.position), from_after(now.through));
        }
    }

    fn end(mut self) {
        self.bar = None;
    }
}

impl Drop for RunningReplay<'_> {
    fn drop(&mut self) {
        let Self { handler, events, skipped, position, .. } = self;
        let done = done_text(handler, (*events, *skipped), position);
        let through = self.through.map(|through| format!(" --through {through}")).unwrap_or_default();
        if self.bar.take().is_some() {
            self.printer.note(&format!("{done}; go on with `--after {position}{through}`"));
        }
    }
}

impl ReplayArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let handler = &*self.handler;
        let app = session.take_app().await?;
        let Some(store) = app.given_store().cloned() else {
            return Err(CommandError::Usage("the application has no store, so it has no events to replay".into()));
        };
        let app = app.standalone().map_err(|error| to_command_error(error.into()))?;
        app.check_handler(handler).map_err(|error| to_command_error(error.into()))?;
        let after = match (self.from.since, self.from.after) {
            (Some(since), _) => position_at(&*store, ago(session.clock(), since)).await?,
            (None, after) => Position::new(after.unwrap_or_default()),
        };
        let through = self.through.map(Position::new);
        let end = through.map_or_else(|| "the end".to_owned(), |position| format!("position {position}"));
        let question =
            format!("run handler `{handler}` on its events after position {after} up to {end} of {}", store.describe());
        if !session.may_change(&question).await? {
            return Ok(ExitStatus::Done);
        }
        let mut running = RunningReplay::new(handler, (after, through), session.printer())?;
        let replayed = app.replay(handler, after, through, |now| running.report(&now)).await;
        let (done, skipped) = (running.events, running.skipped);
        let (body, status) = match replayed.map_err(eventbus::Error::into_inner) {
            Ok(replayed) => {
                let (events, position) = (replayed.events, replayed.position.to_string());
                (Replay { handler, events, skipped, position, error: None }, ExitStatus::Done)
            }
            Err(error) => match error.downcast::<ReplayError>().map(|error| *error) {
                Ok(ReplayError::Store(error)) => return Err(error.into()),
                Ok(error) => {
                    let position = if let ReplayError::Failed { after, .. } = error { after } else { after };
                    let (position, error) = (position.to_string(), Some(error.to_string()));
                    (Replay { handler, events: done, skipped, position, error }, ExitStatus::Finding)
                }
                Err(error) => {
                    // it did not begin
                    running.end();
                    return Err(to_command_error(error));
                }
            },
        };
        running.end();
        let shown = session.printer().show(&body, |body| {
            let error = body.error.as_ref().map(|error| format!("{}\n", printable(error))).unwrap_or_default();
            format!("{error}{}\n", done_text(handler, (body.events, body.skipped), &body.position))
        });
        shown.or_else(CommandError::unless_reader_left)?;
        Ok(status)
    }
}
