//! `groups`: the consumer groups of a bus.

use std::time::Duration;

use clap::{Args, Subcommand};
use eventbus::Name;
use eventbus_redis::RetiredGroup;
use serde::Serialize;

use super::{
    group_creation::{StartArgs, exists, not_on_redis},
    other_buses::note_other_buses,
};
use crate::{
    connection::OpenBus,
    error::{CommandError, ExitStatus},
    output::{Align, Progress, Table, age, optional},
    query::{DeadLetterTally, GroupDetail, GroupRow, GroupView, list_groups, load_group},
    session::{Consent, Session},
};

/// Show the consumer groups: consumers, pending and unread entries, dead letters, which one holds trimming
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    action: Option<GroupAction>,
}

#[derive(Debug, Subcommand)]
enum GroupAction {
    /// Show the consumers of a group, and its oldest pending deliveries with their attempts
    Show {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
        /// The number of pending deliveries
        #[arg(long, value_name = "NUMBER", default_value = "20")]
        limit: usize,
    },
    /// Create a group on Redis that begins after a position of the store, or now
    ///
    /// For handlers that move to a group of their own: the first consumer of a new group would handle all events of the stream
    /// once more. Create the group before a process with its handlers starts. A position needs `--store URL`.
    Create {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
        #[command(flatten)]
        start: StartArgs,
    },
    /// Remove a group for good, so that it holds trimming no more; its unfinished entries are not delivered
    ///
    /// Of the in-process bus stop the application first: the store does not know whether a process runs. Dead letters stay,
    /// until they are discarded. Call it again if it was interrupted.
    Retire {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
    },
}

#[derive(Debug, Serialize)]
struct Groups {
    groups: Vec<GroupRow>,
    /// Set if there are more dead letters than were counted.
    more_dead_letters: bool,
}

#[derive(Debug, Serialize)]
struct Retired {
    group: String,
    retired: bool,
    pending: u64,
    /// `None` in a dry run if neither the bus nor the store knows.
    unread: Option<u64>,
}

impl GroupArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        match &self.action {
            None => {
                let body = read_groups(session).await?;
                note_other_buses(session).await?;
                session.printer().show_table(&body, |body| table(&body.groups))?;
                if body.more_dead_letters {
                    session.printer().note("of the dead letters the oldest 1,000 are counted; there are more");
                }
                Ok(ExitStatus::Done)
            }
            Some(GroupAction::Show { group, limit }) => show(session, group, *limit).await,
            Some(GroupAction::Create { group, start }) => create(session, group, start).await,
            Some(GroupAction::Retire { group }) => retire(session, group).await,
        }
    }
}

async fn read_groups(session: &Session) -> Result<Groups, CommandError> {
    let (bus, store) = (session.bus().await?, session.optional_store().await?);
    let reading = async {
        let tally = DeadLetterTally::load(bus, store.as_deref()).await?;
        let counted = (&tally, GroupDetail::Waiting);
        let groups = list_groups(bus, store.as_deref(), counted, session.clock()).await?;
        Ok(Groups { groups, more_dead_letters: !tally.is_complete() })
    };
    Progress::while_reading(reading).await
}

async fn show(session: &Session, group: &str, limit: usize) -> Result<ExitStatus, CommandError> {
    let name = Name::new("group", group).map_err(|error| CommandError::Usage(error.to_string()))?;
    if read_groups(session).await?.groups.iter().all(|row| row.group != group) {
        note_other_buses(session).await?;
        session.printer().note(&format!("there is no group `{group}`"));
        return Ok(ExitStatus::Finding);
    }
    let (bus, store) = (session.bus().await?, session.optional_store().await?);
    let view = Progress::while_reading(load_group(bus, store.as_deref(), &name, limit)).await?;
    session.printer().show(&view, |view| format!("{}\n{}", consumers(view).to_text(), pending(view).to_text()))?;
    Ok(ExitStatus::Done)
}

fn consumers(view: &GroupView) -> Table {
    let mut table = Table::new([("CONSUMER", Align::Left), ("PENDING", Align::Right), ("IDLE", Align::Right)]);
    for consumer in &view.consumers {
        let idle = age(Duration::from_millis(consumer.idle_ms));
        table.add([consumer.name.clone(), consumer.pending.to_string(), idle]);
    }
    table
}

fn pending(view: &GroupView) -> Table {
    let mut table = Table::new([
        ("ENTRY", Align::Left),
        ("POSITION", Align::Right),
        ("EVENT", Align::Left),
        ("STREAM", Align::Left),
        ("CONSUMER", Align::Left),
        ("IDLE", Align::Right),
        ("FAILED RUNS", Align::Right),
        ("LAST ERRORS", Align::Left),
    ]);
    for row in &view.pending {
        let errors = row.attempts.failed.iter().map(|(handler, error)| format!("{handler}: {error}"));
        let errors = Some(errors.collect::<Vec<_>>().join("; ")).filter(|errors| !errors.is_empty());
        table.add([
            optional(row.entry.as_ref()),
            optional(row.position.as_ref()),
            optional(row.event_type.as_ref()),
            optional(row.stream.as_ref()),
            optional(row.consumer.as_ref()),
            optional(row.idle_ms.map(|idle| age(Duration::from_millis(idle)))),
            row.attempts.failed_runs.to_string(),
            optional(errors),
        ]);
    }
    table
}

async fn create(session: &Session, group: &str, start: &StartArgs) -> Result<ExitStatus, CommandError> {
    let name = Name::new("group", group).map_err(|error| CommandError::Usage(error.to_string()))?;
    let bus = session.bus().await?;
    if !matches!(bus, OpenBus::Redis(_)) {
        return Err(not_on_redis("created"));
    }
    if read_groups(session).await?.groups.iter().any(|row| row.group == group) {
        session.printer().note(&exists(&name));
        return Ok(ExitStatus::Finding);
    }
    start.create(session, &name).await
}

async fn retire(session: &Session, group: &str) -> Result<ExitStatus, CommandError> {
    let name = Name::new("group", group).map_err(|error| CommandError::Usage(error.to_string()))?;
    let bus = session.bus().await?;
    if matches!(bus, OpenBus::Other(_)) && !bus.is_in_process() {
        return Err(not_retired());
    }
    let settings = session.settings();
    if session.is_in_app() && settings.store.is_some() && settings.bus.is_none() && !bus.is_in_process() {
        // the operator may mean the in-process bus of that store
        let text = "`--store` may not be the store of the application: name the bus by `--bus URL`, too, or retire a group of the \
             in-process bus by `eventbus groups retire`";
        return Err(CommandError::Usage(text.into()));
    }
    let Groups { groups, .. } = read_groups(session).await?;
    let Some(found) = groups.into_iter().find(|row| row.group == group) else {
        session.printer().note(&format!("there is no group `{group}`"));
        return Ok(ExitStatus::Finding);
    };
    let (pending, unread) = (found.pending.unwrap_or_default(), found.unread);
    let unread_text = unread_text(unread);
    // the store does not know whether a process runs
    let stopped = if bus.is_in_process() { "; the application must be stopped" } else { "" };
    let question = format!("retire group `{group}`, with {pending} pending and {unread_text} unread entries{stopped}");
    let retired = match session.confirm(&question).await? {
        Consent::DryRun => None,
        Consent::Given => Some(Progress::during("retiring", retire_from(bus, &name)).await?),
    };
    // the in-process bus keeps no entries: the store knows how many the group has not read
    let retired = retired.map(|(pending, counted)| (pending, counted.or(unread)));
    let (pending, unread) = retired.unwrap_or((pending, unread));
    let body = Retired { group: group.to_owned(), retired: retired.is_some(), pending, unread };
    session.printer().show(&body, retired_text)?;
    Ok(ExitStatus::Done)
}

/// Retires a group. Returns the numbers of its pending and of its unread entries, if the bus counts them.
async fn retire_from(bus: &OpenBus, group: &Name) -> Result<(u64, Option<u64>), CommandError> {
    match bus {
        OpenBus::Redis(redis) => {
            let RetiredGroup { pending, unread, .. } = redis.retire_group(group).await?;
            Ok((pending, Some(unread)))
        }
        OpenBus::InProcess(bus) => Ok((bus.retire_group(group).await?, None)),
        OpenBus::Other(_) => Err(not_retired()),
    }
}

fn not_retired() -> CommandError {
    CommandError::Usage("only groups on Redis and of the in-process bus are retired; pass `--bus URL`".into())
}

fn retired_text(body: &Retired) -> String {
    match body.retired {
        true => {
            let (pending, unread) = (body.pending, unread_text(body.unread));
            format!("retired group `{}`: {pending} pending and {unread} unread entries\n", body.group)
        }
        false => String::new(),
    }
}

fn unread_text(unread: Option<u64>) -> String {
    unread.map_or_else(|| "an unknown number of".to_owned(), |unread| unread.to_string())
}

/// Returns the table of groups.
pub(super) fn table(groups: &[GroupRow]) -> Table {
    let mut table = Table::new([
        ("GROUP", Align::Left),
        ("CONSUMERS", Align::Right),
        ("PENDING", Align::Right),
        ("OLDEST", Align::Right),
        ("UNREAD", Align::Right),
        ("DEAD", Align::Right),
        ("HOLDS TRIM", Align::Left),
        ("FINISHED", Align::Right),
    ]);
    for row in groups {
        table.add([
            row.group.clone(),
            optional(row.consumers),
            optional(row.pending),
            optional(row.oldest_ms.map(|oldest| age(Duration::from_millis(oldest)))),
            optional(row.unread),
            row.dead_letters.to_string(),
            if row.holds_trim { "yes" } else { "no" }.into(),
            optional(row.position.as_ref()),
        ]);
    }
    table
}
