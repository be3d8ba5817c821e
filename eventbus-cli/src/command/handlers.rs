//! The handlers of a store, as `groups` lists and changes them.

use std::sync::Arc;

use eventbus::{Name, Position, port::HandlerProgress, store::EventStore};
use serde_json::json;

use crate::{
    error::{CommandError, ExitStatus},
    output::{Progress, Table, optional},
    query::{HandlerRow, list_handlers, progress_of},
    session::Session,
};

/// Returns the table of handlers.
pub(super) fn table(handlers: &[HandlerRow]) -> Table {
    Table::new("HANDLER, GROUP, SHARDS>, OWNER, POSITION>, HEAD>, SECONDS>, WAITING>, DEAD>").rows(handlers, |row| {
        [
            row.handler.clone(),
            row.group.clone(),
            row.shards.len().to_string(),
            row.remark().map_or_else(|| optional(row.owner()), str::to_owned),
            row.position.to_string(),
            row.head.to_string(),
            optional(row.lag.seconds.map(|seconds| format!("{seconds:.1}"))),
            row.waiting.to_string(),
            row.dead_letters.to_string(),
        ]
    })
}

fn shard_table(handler: &HandlerRow) -> Table {
    Table::new("SHARD>, OWNER, EPOCH>, CHECKPOINT>, WAITING>, STARTED>, TYPES LEFT").rows(&handler.shards, |shard| {
        let left: Vec<_> = shard.left.iter().map(|(name, from)| format!("{name} from {from} on")).collect();
        [
            shard.shard.to_string(),
            optional(shard.owner.as_ref()),
            shard.epoch.to_string(),
            shard.checkpoint.to_string(),
            shard.waiting.to_string(),
            shard.started.to_string(),
            optional(Some(left.join(", ")).filter(|left| !left.is_empty())),
        ]
    })
}

/// Finds a handler of the store; `None` if there is no store, or it does not know the handler.
pub(super) async fn find(session: &Session, name: &str) -> Result<Option<HandlerRow>, CommandError> {
    let Some(store) = session.optional_store().await? else { return Ok(None) };
    let handlers = Progress::while_reading(list_handlers(&*store, session.clock())).await?;
    Ok(handlers.into_iter().find(|row| row.handler == name))
}

pub(super) fn show(session: &Session, handler: &HandlerRow) -> Result<ExitStatus, CommandError> {
    session
        .show(handler, |row| format!("{}\n{}", table(std::slice::from_ref(row)).to_text(), shard_table(row).to_text()))
}

/// Creates a handler that no process has declared, after a position, or at the head.
pub(super) async fn create(
    session: &Session,
    name: &Name,
    after: Option<Position>,
) -> Result<ExitStatus, CommandError> {
    let store = session.store().await?;
    let progress = progress_of(&*store)?;
    let exists = || format!("handler `{name}` exists already, and stays where it is; `groups retire` removes it");
    if find(session, name).await?.is_some() {
        return session.finding(&exists());
    }
    let head = store.head().await?;
    let after = after.unwrap_or(head);
    if after > head {
        return Err(CommandError::Usage(format!("the store ends at position {head}")));
    }
    let begins = format!("which begins with the first event after position {after}");
    if !session.may_change(&format!("create handler `{name}`, {begins}")).await? {
        return Ok(ExitStatus::Done);
    }
    let creating = async { Ok(progress.create_handler(name, after).await?) };
    if !Progress::during("creating", creating).await? {
        return session.finding(&exists());
    }
    let body = json!({ "handler": name.as_str(), "created": true, "after": after.to_string() });
    session.show(&body, |_| format!("created handler `{name}`, {begins}\n"))
}

/// Deletes a handler with all that the store keeps of it.
pub(super) async fn retire(session: &Session, handler: &HandlerRow) -> Result<ExitStatus, CommandError> {
    let name = Name::new("handler", &handler.handler).map_err(|error| CommandError::Usage(error.to_string()))?;
    let (waiting, dead) = (handler.waiting, handler.dead_letters);
    if let Some(owner) = handler.owner() {
        return Err(in_use(&name, &owner));
    }
    let question = format!(
        "retire handler `{name}` at position {}, with {waiting} waiting events and {dead} dead letters",
        handler.position
    );
    if !session.may_change(&question).await? {
        return Ok(ExitStatus::Done);
    }
    let store = session.store().await?;
    let progress = progress_of(&*store)?;
    let retiring = async { Ok(progress.retire_handler(&name).await?) };
    if Progress::during("retiring", retiring).await?.is_none() {
        // a process has taken it meanwhile, or another operator has retired it
        return match find(session, &name).await? {
            Some(row) => Err(in_use(&name, &row.owner().unwrap_or_else(|| "a process".into()))),
            None => missing(session, &name),
        };
    }
    let body = json!({ "handler": name.as_str(), "retired": true, "waiting": waiting, "dead_letters": dead });
    session.show(&body, |_| format!("retired handler `{name}`: {waiting} waiting events and {dead} dead letters\n"))
}

fn in_use(name: &Name, owner: &str) -> CommandError {
    CommandError::fault(format!("`{owner}` runs handler `{name}`: stop it first"))
}

/// Notes that there is no such handler or group.
pub(super) fn missing(session: &Session, name: &str) -> Result<ExitStatus, CommandError> {
    session.finding(&format!("there is no handler or group `{name}`"))
}

/// Pauses a group of handlers, or resumes it.
pub(super) async fn set_paused(session: &Session, group: &str, is_paused: bool) -> Result<ExitStatus, CommandError> {
    let name = Name::new("group", group).map_err(|error| CommandError::Usage(error.to_string()))?;
    let store: Arc<dyn EventStore> = session.store().await?;
    let progress: &dyn HandlerProgress = progress_of(&*store)?;
    let handlers = Progress::while_reading(list_handlers(&*store, session.clock())).await?;
    let members: Vec<_> = handlers.iter().filter(|row| row.group == group).collect();
    if members.is_empty() {
        return session.finding(&format!("no handler of the store has the group `{group}`"));
    }
    let (verb, done) = if is_paused { ("pause", "paused") } else { ("resume", "resumed") };
    let names: Vec<_> = members.iter().map(|row| format!("`{}`", row.handler)).collect();
    if !session.may_change(&format!("{verb} group `{group}` with {}", names.join(", "))).await? {
        return Ok(ExitStatus::Done);
    }
    progress.set_paused(&name, is_paused).await?;
    session.show(&json!({ "group": group, "paused": is_paused }), |_| format!("{done} group `{group}`\n"))
}
