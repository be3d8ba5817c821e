//! `groups`: the handlers of a store, and the consumer groups of a bus.

use std::time::Duration;

use clap::{Args, Subcommand};
use eventbus::Name;
use eventbus_redis::RetiredGroup;
use serde::Serialize;
use serde_json::json;

use super::{
    group_creation::{StartArgs, exists, not_on_redis},
    handlers,
    other_buses::note_other_buses,
};
use crate::{
    connection::OpenBus,
    error::{CommandError, ExitStatus},
    output::{Progress, Table, age, optional},
    query::{DeadLetterTally, GroupRow, GroupView, HandlerRow, list_groups, list_handlers, load_group},
    session::{Consent, Session},
};

/// Show the handlers of the store, and the consumer groups of the bus: how far they are, what waits, dead letters
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    action: Option<GroupAction>,
}

#[derive(Debug, Subcommand)]
enum GroupAction {
    /// Show the shards of a handler; or the consumers of a group on Redis, and its oldest pending deliveries
    Show {
        /// The handler or group
        #[arg(value_name = "GROUP")]
        group: String,
        /// The number of pending deliveries
        #[arg(long, value_name = "NUMBER", default_value = "20")]
        limit: usize,
    },
    /// Create a handler, or with `--bus` a group on Redis, that begins after a position of the store, or now
    ///
    /// For a handler that moves or is renamed: one with a new name would handle all events of the store once more. Create it
    /// before a process with it starts. `eventbus groups` shows the position up to which the former one has handled all
    /// events.
    Create {
        /// The handler or group
        #[arg(value_name = "GROUP")]
        group: String,
        #[command(flatten)]
        start: StartArgs,
    },
    /// Pause the handlers of a group: running ones end, none begins, also after a restart
    Pause {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
    },
    /// Resume the handlers of a paused group
    Resume {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
    },
    /// Remove a handler that no release has any more, or a group on Redis; what it has not finished is not delivered
    ///
    /// A handler goes with its dead letters. The dead letters of a group on Redis stay, until they are discarded. Call it again if
    /// it was interrupted.
    Retire {
        /// The handler or group
        #[arg(value_name = "GROUP")]
        group: String,
    },
}

#[derive(Debug, Serialize)]
struct Groups {
    handlers: Vec<HandlerRow>,
    groups: Vec<GroupRow>,
    /// Set if there are more dead letters than were counted.
    more_dead_letters: bool,
}

impl GroupArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        match &self.action {
            None => {
                let body = read_groups(session).await?;
                note_other_buses(session).await?;
                session.printer().show(&body, text)?;
                if body.more_dead_letters {
                    session.printer().note("of the dead letters the oldest 1,000 are counted; there are more");
                }
                Ok(ExitStatus::Done)
            }
            Some(GroupAction::Show { group, limit }) => show(session, group, *limit).await,
            Some(GroupAction::Create { group, start }) => create(session, group, start).await,
            Some(GroupAction::Pause { group }) => handlers::set_paused(session, group, true).await,
            Some(GroupAction::Resume { group }) => handlers::set_paused(session, group, false).await,
            Some(GroupAction::Retire { group }) => retire(session, group).await,
        }
    }
}

async fn read_groups(session: &Session) -> Result<Groups, CommandError> {
    let (bus, store) = (session.bus().await?, session.optional_store().await?);
    let reading = async {
        let handlers = match &store {
            Some(store) => list_handlers(&**store, session.clock()).await?,
            None => Vec::new(),
        };
        if bus.is_in_process() {
            return Ok(Groups { handlers, groups: Vec::new(), more_dead_letters: false });
        }
        let tally = DeadLetterTally::load(bus).await?;
        let groups = list_groups(bus, &tally).await?;
        Ok(Groups { handlers, groups, more_dead_letters: !tally.is_complete() })
    };
    Progress::while_reading(reading).await
}

async fn show(session: &Session, group: &str, limit: usize) -> Result<ExitStatus, CommandError> {
    let name = Name::new("group", group).map_err(|error| CommandError::Usage(error.to_string()))?;
    let known = read_groups(session).await?;
    if known.groups.iter().all(|row| row.group != group) {
        if let Some(handler) = known.handlers.iter().find(|row| row.handler == group) {
            return handlers::show(session, handler);
        }
        note_other_buses(session).await?;
        return handlers::missing(session, group);
    }
    let view = Progress::while_reading(load_group(session.bus().await?, &name, limit)).await?;
    session.show(&view, |view| format!("{}\n{}", consumers(view).to_text(), pending(view).to_text()))
}

fn consumers(view: &GroupView) -> Table {
    Table::new("CONSUMER, PENDING>, IDLE>").rows(&view.consumers, |consumer| {
        let idle = age(Duration::from_millis(consumer.idle_ms));
        [consumer.name.clone(), consumer.pending.to_string(), idle]
    })
}

fn pending(view: &GroupView) -> Table {
    Table::new("ENTRY, POSITION>, EVENT, STREAM, CONSUMER, IDLE>, FAILED RUNS>, LAST ERRORS").rows(
        &view.pending,
        |row| {
            let errors = row.attempts.failed.iter().map(|(handler, error)| format!("{handler}: {error}"));
            let errors = Some(errors.collect::<Vec<_>>().join("; ")).filter(|errors| !errors.is_empty());
            [
                row.entry.clone(),
                optional(row.position.as_ref()),
                optional(row.event_type.as_ref()),
                optional(row.stream.as_ref()),
                row.consumer.clone(),
                age(Duration::from_millis(row.idle_ms)),
                row.attempts.failed_runs.to_string(),
                optional(errors),
            ]
        },
    )
}

async fn create(session: &Session, group: &str, start: &StartArgs) -> Result<ExitStatus, CommandError> {
    let name = Name::new("group", group).map_err(|error| CommandError::Usage(error.to_string()))?;
    let redis = match session.bus().await? {
        OpenBus::Redis(redis, _) => redis,
        OpenBus::Store(_) => return handlers::create(session, &name, start).await,
        OpenBus::Other(_) => return Err(not_on_redis("created")),
    };
    if read_groups(session).await?.groups.iter().any(|row| row.group == group) {
        return session.finding(&exists(&name));
    }
    start.create(session, redis, &name).await
}

async fn retire(session: &Session, group: &str) -> Result<ExitStatus, CommandError> {
    let name = Name::new("group", group).map_err(|error| CommandError::Usage(error.to_string()))?;
    let bus = session.bus().await?;
    let settings = session.settings();
    if session.is_in_app() && settings.store.is_some() && settings.bus.is_none() && !bus.is_in_process() {
        // the operator may mean a handler of that store
        let text = "`--store` may not be the store of the application: name the bus by `--bus URL`, too, or retire a handler of \
             that store by `eventbus groups retire`";
        return Err(CommandError::Usage(text.into()));
    }
    let Groups { handlers, groups, .. } = read_groups(session).await?;
    if groups.iter().all(|row| row.group != group)
        && let Some(handler) = handlers.iter().find(|row| row.handler == group)
    {
        return handlers::retire(session, handler).await;
    }
    if bus.is_in_process() {
        return handlers::missing(session, group);
    }
    let OpenBus::Redis(redis, _) = bus else { return Err(not_on_redis("retired")) };
    let Some(found) = groups.into_iter().find(|row| row.group == group) else {
        return handlers::missing(session, group);
    };
    let (pending, unread) = (found.pending, found.unread);
    let question = format!("retire group `{group}`, with {pending} pending and {} unread entries", unread_text(unread));
    let retired = match session.confirm(&question).await? {
        Consent::DryRun => None,
        Consent::Given => {
            let retiring = async { Ok(redis.retire_group(&name).await?) };
            Some(Progress::during("retiring", retiring).await?)
        }
    };
    let (pending, unread) = match retired {
        Some(RetiredGroup { pending, unread, .. }) => (pending, Some(unread)),
        None => (pending, unread),
    };
    let is_retired = retired.is_some();
    let body = json!({ "group": group, "retired": is_retired, "pending": pending, "unread": unread });
    session.show(&body, |_| match is_retired {
        true => {
            format!("retired group `{group}`: {pending} pending and {} unread entries\n", unread_text(unread))
        }
        false => String::new(),
    })
}

fn unread_text(unread: Option<u64>) -> String {
    unread.map_or_else(|| "an unknown number of".to_owned(), |unread| unread.to_string())
}

fn text(body: &Groups) -> String {
    match (body.handlers.is_empty(), body.groups.is_empty()) {
        (false, false) => [handlers::table(&body.handlers).to_text(), table(&body.groups).to_text()].join("\n"),
        (true, false) => table(&body.groups).to_text(),
        (_, true) => handlers::table(&body.handlers).to_text(),
    }
}

/// Returns the table of groups.
pub(super) fn table(groups: &[GroupRow]) -> Table {
    Table::new("GROUP, CONSUMERS>, PENDING>, OLDEST>, UNREAD>, DEAD>, HOLDS TRIM").rows(groups, |row| {
        [
            row.group.clone(),
            row.consumers.to_string(),
            row.pending.to_string(),
            optional(row.oldest_ms.map(|oldest| age(Duration::from_millis(oldest)))),
            optional(row.unread),
            row.dead_letters.to_string(),
            if row.holds_trim { "yes" } else { "no" }.into(),
        ]
    })
}
