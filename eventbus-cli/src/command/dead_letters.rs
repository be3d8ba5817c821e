//! `dead-letters`: the deliveries that groups gave up.

use std::{collections::HashSet, time::Duration};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use eventbus::{
    Uuid,
    bus::MessageId,
    dead_letter::{DeadLetterFilter, DeadLetters},
};
use serde::Serialize;
use serde_json::json;

use super::parse_duration;
use crate::{
    dead_letter_action::DeadLetterAction,
    error::{CommandError, ExitStatus},
    output::{Progress, Table, age, optional, time_text},
    query::{DeadLetterQuery, DeadLetterRow, find_dead_letters},
    session::{Consent, Session},
};

/// The most dead letters that are held at once, with their events.
const FOUND_AT_ONCE: usize = 100;

/// List, show, replay or discard the dead letters of the handlers of a store, or of a bus
#[derive(Debug, Args)]
pub(crate) struct DeadLetterArgs {
    #[command(subcommand)]
    action: DeadLetterCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLetterCommand {
    /// List the dead letters, oldest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Go on after the dead letter with this id
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// The most dead letters to list
        #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Show one dead letter with its event
    Show {
        /// Its id among the dead letters
        id: String,
    },
    /// Deliver dead letters once more to the handlers that gave them up
    Replay(EndArgs),
    /// Delete dead letters for good
    Discard(EndArgs),
}

/// Which dead letters.
#[derive(Debug, Clone, Args)]
struct FilterArgs {
    /// Only of this consumer group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Only of this handler
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// Only of this event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only of aggregates with this id, of every type and tenant
    #[arg(long, value_name = "ID")]
    aggregate: Option<String>,
    /// Only of aggregates of this type
    #[arg(long, value_name = "TYPE")]
    aggregate_type: Option<String>,
    /// Only of this tenant; the nil UUID stands for none
    #[arg(long, value_name = "UUID")]
    tenant: Option<Uuid>,
    /// Only those whose error holds this text
    // refused if empty, as each error holds that
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    error: Option<String>,
    /// Only those that were given up longer than this ago
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older: Option<Duration>,
}

/// Which dead letters to end: some ids, or those that a filter matches.
#[derive(Debug, Args)]
struct EndArgs {
    /// Their ids among the dead letters; without ids a filter, or `--all`
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All dead letters
    #[arg(long, conflicts_with_all = [
        "ids", "group", "handler", "event_type", "aggregate", "aggregate_type", "tenant", "error", "older",
    ])]
    all: bool,
}

#[derive(Debug, Serialize)]
struct DeadLetterList {
    dead_letters: Vec<DeadLetterRow>,
    /// The id to pass as `--after` for the next page.
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct OneDeadLetter {
    dead_letter: DeadLetterRow,
}

/// The outcome for one dead letter.
#[derive(Debug, Serialize)]
struct Outcome {
    id: String,
    /// `replayed`, `discarded`, `gone`, `failed`, or `unchanged` in a dry run.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl FilterArgs {
    fn to_query(&self, session: &Session) -> DeadLetterQuery {
        let filter = DeadLetterFilter {
            group: self.group.clone(),
            handler: self.handler.clone(),
            event_type: self.event_type.clone(),
            aggregate_id: self.aggregate.clone(),
            ..DeadLetterFilter::default()
        };
        let query = DeadLetterQuery {
            filter,
            aggregate_type: self.aggregate_type.clone(),
            tenant: self.tenant,
            error: self.error.clone(),
        };
        query.older_than(self.older, session.clock())
    }

    const fn is_empty(&self) -> bool {
        let Self { group, handler, event_type, aggregate, aggregate_type, tenant, error, older } = self;
        group.is_none()
            && handler.is_none()
            && event_type.is_none()
            && aggregate.is_none()
            && aggregate_type.is_none()
            && tenant.is_none()
            && error.is_none()
            && older.is_none()
    }
}

impl DeadLetterArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        match &self.action {
            DeadLetterCommand::List { filter, after, limit } => {
                let after = after.as_deref().map(MessageId::new);
                let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                list(session, &filter.to_query(session), after, limit).await
            }
            DeadLetterCommand::Show { id } => show(session, id).await,
            DeadLetterCommand::Replay(args) => end(session, args, DeadLetterAction::Replay).await,
            DeadLetterCommand::Discard(args) => end(session, args, DeadLetterAction::Discard).await,
        }
    }
}

async fn list(
    session: &Session,
    query: &DeadLetterQuery,
    after: Option<MessageId>,
    limit: usize,
) -> Result<ExitStatus, CommandError> {
    let reading = list_rows(session.bus().await?.dead_letters()?, query, after, limit);
    let (dead_letters, next) = Progress::while_reading(reading).await?;
    let body = DeadLetterList { dead_letters, next: next.map(|next| next.to_string()) };
    session.show(&body, |body| list_text(body, session))
}

/// Finds the rows of up to `limit` dead letters; holds only some of the events at once, because they may be large.
async fn list_rows(
    dead_letters: &dyn DeadLetters,
    query: &DeadLetterQuery,
    mut after: Option<MessageId>,
    limit: usize,
) -> Result<(Vec<DeadLetterRow>, Option<MessageId>), CommandError> {
    let mut rows = Vec::new();
    loop {
        let at_once = FOUND_AT_ONCE.min(limit - rows.len());
        let (found, next) = find_dead_letters(dead_letters, query, after, at_once).await?;
        rows.extend(found.iter().map(DeadLetterRow::from));
        after = next;
        if rows.len() >= limit || after.is_none() {
            return Ok((rows, after));
        }
    }
}

fn list_text(body: &DeadLetterList, session: &Session) -> String {
    let columns = "ID, GROUP, HANDLER, TYPE, AGGREGATE, ATTEMPTS>, AGE>, ERROR";
    let table = Table::new(columns).rows(&body.dead_letters, |row| {
        let since = row.dead_since.map(|since| session.printer().as_of() - since);
        [
            row.id.clone(),
            optional(row.group.as_ref()),
            optional(row.handler.as_ref()),
            optional(row.event_type.as_ref()),
            optional(row.aggregate.as_ref()),
            optional(row.attempts),
            optional(since.map(|since| age(since.try_into().unwrap_or_default()))),
            row.error.clone().unwrap_or_default(),
        ]
    });
    let next = body.next.as_ref().map(|next| format!("more with --after {next}\n"));
    table.to_text() + &next.unwrap_or_default()
}

async fn show(session: &Session, id: &str) -> Result<ExitStatus, CommandError> {
    let id = MessageId::new(id);
    let dead_letters = session.bus().await?.dead_letters()?;
    let reading = async { Ok(dead_letters.find_dead_letter(&id).await?) };
    let Some(found) = Progress::while_reading(reading).await? else {
        return session.finding(&format!("there is no dead letter `{id}`"));
    };
    let body = OneDeadLetter { dead_letter: DeadLetterRow::from(&found).with_event(&found) };
    session.show(&body, |body| one_text(&body.dead_letter))
}

fn one_text(row: &DeadLetterRow) -> String {
    let mut table = Table::new("DEAD LETTER, ");
    let fields = row.event.as_ref().and_then(|event| event.fields.as_ref()).map(|fields| fields.get().to_owned());
    for (name, value) in [
        ("id", Some(row.id.clone())),
        ("group", row.group.clone()),
        ("handler", row.handler.clone()),
        ("type", row.event_type.clone()),
        ("aggregate", row.aggregate.clone()),
        ("event", row.event_id.clone()),
        ("attempts", row.attempts.map(|attempts| attempts.to_string())),
        ("dead since", row.dead_since.map(time_text)),
        ("error", row.error.clone()),
        ("position", row.event.as_ref().and_then(|event| event.position.clone())),
        ("fields", fields),
    ] {
        if let Some(value) = value {
            table.add([name.into(), value]);
        }
    }
    table.to_text()
}

/// Finds all dead letters that match now, so that the question can state their number; later ones are not touched. Also
/// returns how many aggregates have the wanted id; 1 if no id is wanted.
async fn find_ids(
    dead_letters: &dyn DeadLetters,
    query: &DeadLetterQuery,
) -> Result<(Vec<MessageId>, usize), CommandError> {
    let (mut ids, mut aggregates, mut after) = (Vec::new(), HashSet::new(), None);
    let line = Progress::of_unknown_size("finding dead letters")?;
    loop {
        let (found, next) = find_dead_letters(dead_letters, query, after, FOUND_AT_ONCE).await?;
        if query.filter.aggregate_id.is_some() {
            let records = found.iter().filter_map(|dead_letter| dead_letter.record.as_ref());
            aggregates.extend(records.map(|record| record.metadata().stream().clone()));
        }
        ids.extend(found.into_iter().map(|found| found.id));
        line.set_subject(ids.len().to_string());
        after = next;
        if after.is_none() {
            return Ok((ids, aggregates.len().max(1)));
        }
    }
}

/// Finds the dead letters to end, states their number, asks, and reports the outcome of each.
async fn end(session: &Session, args: &EndArgs, action: DeadLetterAction) -> Result<ExitStatus, CommandError> {
    let [verb, doing, done] = action.forms();
    if args.ids.is_empty() && args.filter.is_empty() && !args.all {
        let text = format!("which dead letters? pass ids, a filter such as `--group`, or `--all` to {verb} all");
        return Err(CommandError::Usage(text));
    }
    if !args.ids.is_empty() && !args.filter.is_empty() {
        return Err(CommandError::Usage("pass ids or a filter, not both".into()));
    }
    let dead_letters = session.bus().await?.dead_letters()?;
    let (ids, aggregates) = match args.ids.is_empty() {
        false => (args.ids.iter().map(|id| MessageId::new(id.as_str())).collect(), 1),
        true => find_ids(dead_letters, &args.filter.to_query(session)).await?,
    };
    if ids.is_empty() {
        session.printer().note("no dead letter matches");
        let shown = session.printer().show(&json!({ "found": 0 }), |_| String::new());
        shown.or_else(CommandError::unless_reader_left)?;
        return Ok(ExitStatus::Done);
    }
    let of_many = if aggregates > 1 { format!(" of {aggregates} aggregates with this id") } else { String::new() };
    let consent = session.confirm(&format!("{verb} {} dead letters{of_many}", ids.len())).await?;
    let mut is_complete = true;
    let count = u64::try_from(ids.len()).unwrap_or(u64::MAX);
    let (done, bar) = match consent {
        Consent::DryRun => ("unchanged", Progress::hidden()),
        Consent::Given => (done, Progress::new(doing, "dead letters")?),
    };
    bar.set(0, count);
    for (id, number) in ids.into_iter().zip(1..) {
        let is_there = match consent {
            // a filter has just found it
            Consent::DryRun if args.ids.is_empty() => Ok(true),
            Consent::DryRun => {
                dead_letters.find_dead_letter(&id).await.map(|found| found.is_some()).map_err(Into::into)
            }
            Consent::Given => action.end(dead_letters, &id).await,
        };
        let (outcome, error) = match is_there {
            Ok(true) => (done, None),
            Ok(false) => ("gone", None),
            // the rest would fail too
            Err(error @ CommandError::Unreachable { .. }) => return Err(error),
            Err(error) => ("failed", Some(error.to_line())),
        };
        // the operator expects a dead letter for each id that was passed
        is_complete &= error.is_none() && (outcome != "gone" || args.ids.is_empty());
        let body = Outcome { id: id.to_string(), outcome, error };
        let text = |body: &Outcome| {
            let error = body.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} {}{error}\n", body.id, body.outcome)
        };
        bar.hide_while(|| session.printer().show(&body, text)).or_else(CommandError::unless_reader_left)?;
        bar.set(number, count);
    }
    drop(bar);
    Ok(if is_complete { ExitStatus::Done } else { ExitStatus::Finding })
}
