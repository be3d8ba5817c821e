//! `groups`: the handlers of a store, and the consumer groups of a bus.

use std::time::Duration;

use clap::{Args, Subcommand};
use eventbus::{Name, Position, bus::EventBus as _};
use eventbus_redis::{GroupStart, RedisEventBus, RetiredGroup};
use serde::Serialize;
use serde_json::json;

use super::handlers;
use crate::{
    connection::OpenBus,
    error::{CommandError, ExitStatus},
    output::{Progress, Table, age, optional},
    query::{GroupRow, GroupView, HandlerRow, list_groups, list_handlers, load_group},
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
    /// Create a handler that begins after a position of the store, or now; with `--bus` alone a group on Redis that begins now
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

/// The start of a new handler or group.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct StartArgs {
    /// Begin with the first event after this position of the store
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// Begin with the next event
    #[arg(long)]
    now: bool,
}

#[derive(Debug, Serialize)]
struct Groups {
    handlers: Vec<HandlerRow>,
    groups: Vec<GroupRow>,
}

impl GroupArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        match &self.action {
            None => {
                let body = read_groups(session).await?;
                session.show(&body, text)
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
        Ok(Groups { handlers, groups: list_groups(bus).await? })
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
    match session.bus().await? {
        OpenBus::Redis(redis, _) if session.optional_store().await?.is_none() => {
            create_on_redis(session, redis, &name, start).await
        }
        _ => handlers::create(session, &name, start.after.map(Position::new)).await,
    }
}

/// Creates a group that begins with the next event of the stream.
async fn create_on_redis(
    session: &Session,
    bus: &RedisEventBus,
    group: &Name,
    start: &StartArgs,
) -> Result<ExitStatus, CommandError> {
    if start.after.is_some() {
        return Err(CommandError::Usage("a position is that of a store: pass `--store URL`".into()));
    }
    let destination = bus.destination();
    let question = format!(
        "create group `{group}` of {destination}, which begins with the next event, and from now on holds trimming until its \
         consumers have handled its events"
    );
    if !session.may_change(&question).await? {
        return Ok(ExitStatus::Done);
    }
    let creating = async { Ok(bus.create_group(group, GroupStart::Now).await?) };
    if !Progress::during("creating", creating).await? {
        let text =
            format!("group `{group}` exists already, and stays where it is; `eventbus groups retire` removes it");
        return session.finding(&text);
    }
    session.show(&json!({ "group": group.as_str(), "created": true }), |_| {
        format!("created group `{group}`, which begins with the next event\n")
    })
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
    let OpenBus::Redis(redis, _) = bus else {
        return Err(CommandError::Usage("only groups on Redis are retired; pass `--bus URL`".into()));
    };
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
    Table::new("GROUP, CONSUMERS>, PENDING>, OLDEST>, UNREAD>, HOLDS TRIM").rows(groups, |row| {
        [
            row.group.clone(),
            row.consumers.to_string(),
            row.pending.to_string(),
            optional(row.oldest_ms.map(|oldest| age(Duration::from_millis(oldest)))),
            optional(row.unread),
            if row.holds_trim { "yes" } else { "no" }.into(),
        ]
    })
}
