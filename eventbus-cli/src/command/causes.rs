//! `why`: the causes of an event, and the events that it caused.

use std::time::Duration;

use clap::Args;
use eventbus::{EventId, Position};

use super::parse_duration;
use crate::{
    error::{CommandError, ExitStatus},
    output::{Progress, printable, time_text},
    query::{
        AttemptsView, CauseTree, EventDeliveries, SearchProgress, WaitingDeliveryRow, ago, find_causes, position_at,
    },
    session::Session,
};

/// Show the tree of causes of an event: what led to it, and what it led to
///
/// It searches the feed, twice. Shown are the events of the conversation, and of each which handlers have left a note in the
/// store, which have not finished it, and which gave it up. A handler that takes neither the store's connection
/// nor a repository leaves no note: whether it has run is unknown. The store forgets notes after 30 days, unless the application
/// sets another `inbox_retention`.
#[derive(Debug, Args)]
pub(crate) struct CauseArgs {
    /// The id of the event
    #[arg(value_name = "EVENT")]
    event: String,
    /// Search only events that were recorded within this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "after")]
    since: Option<Duration>,
    /// Search only events after this position
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
}

impl CauseArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let wanted = EventId::parse(&self.event).map_err(|error| CommandError::Usage(error.to_string()))?;
        let store = session.store().await?;
        let after = match (self.since, self.after) {
            (Some(since), _) => position_at(&*store, ago(session.clock(), since)).await?,
            (None, after) => Position::new(after.unwrap_or_default()),
        };
        let bus = session.bus().await?;
        let bar = Progress::new("searching", "positions")?;
        let report = |now: SearchProgress| {
            let from_after = |position: Position| position.get().saturating_sub(after.get());
            bar.set(from_after(now.position), from_after(now.through));
        };
        let found = find_causes(&*store, bus, wanted, after, report).await;
        drop(bar);
        let Some(tree) = found? else {
            session.printer().note(&format!("the feed holds no event {wanted} after position {after}"));
            return Ok(ExitStatus::Finding);
        };
        session.printer().show(&tree, text)?;
        Ok(ExitStatus::Done)
    }
}

/// The most causes above an event that the indent of its line shows; with more, the line begins with their number.
const INDENT_MAX: usize = 30;

fn text(tree: &CauseTree) -> String {
    let mut text = format!("correlation {}\n", tree.correlation_id);
    for row in &tree.events {
        let event = &row.event;
        let indent = "  ".repeat(row.depth.min(INDENT_MAX));
        let depth = if row.depth > INDENT_MAX { format!("[{}] ", row.depth) } else { String::new() };
        let line = format!(
            "{indent}{depth}{} {}  {}/{}  v{}  {}  {}{}\n",
            if row.is_wanted { "*" } else { "-" },
            event.event_type,
            event.aggregate_type,
            event.aggregate_id,
            event.version,
            time_text(event.recorded_at.unwrap_or(event.occurred_at)),
            event.event_id,
            if row.is_unknown { "  handlers unknown" } else { "  other handlers unknown" },
        );
        text.push_str(&line);
        for line in delivery_lines(&row.deliveries) {
            text.push_str(&format!("{indent}  {line}\n"));
        }
    }
    if tree.may_have_more_deliveries {
        text.push_str("there may be more dead letters, which were not searched\n");
    }
    if tree.is_cut {
        text.push_str("the conversation has more events\n");
    }
    text
}

/// Returns a line for each known delivery of an event.
fn delivery_lines(deliveries: &EventDeliveries) -> Vec<String> {
    let EventDeliveries { handled_by, waiting, dead_letters } = deliveries;
    let mut lines: Vec<_> = handled_by.iter().map(|handler| format!("handled by {handler}")).collect();
    lines.extend(waiting.iter().map(|row| {
        let WaitingDeliveryRow { group, handler, attempts: AttemptsView { failed_runs, failed } } = row;
        let failed: String = failed.iter().map(|(handler, error)| format!(", {handler}: {error}")).collect();
        printable(&format!("waits in {group}/{handler}, failed runs: {failed_runs}{failed}"))
    }));
    lines.extend(dead_letters.iter().map(|dead| {
        let words = [dead.group.as_deref(), dead.handler.as_deref(), dead.error.as_deref()];
        let words: Vec<_> = words.into_iter().flatten().map(printable).collect();
        format!("dead letter {}: {}", dead.id, words.join(", "))
    }));
    lines
}
