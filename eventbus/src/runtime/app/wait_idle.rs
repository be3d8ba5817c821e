//! The wait for an idle app: all events published, handled and projected.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use super::{error::SettleError, inner::AppInner, relay_health};
use crate::{
    domain::{name::Name, stream::Position},
    port::{DeadLetter, DeadLetterFilter, ReadError, SubscriberStatus},
    runtime::relay,
};

/// Pause between polls of the bus. Real time, as is the timeout: the wait is for the work of other tasks, also where a
/// test moves the app's clock by hand.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Describes one aspect of a subscriber, if there is anything to say.
type DescribeFn = fn(&dyn SubscriberStatus) -> Option<String>;

const HANDLING: DescribeFn = |subscriber| subscriber.handling();
const LAST_FAILURE: DescribeFn = |subscriber| subscriber.last_failure();

pub(super) async fn settled(app: &AppInner) -> Result<(), SettleError> {
    let waiting = Mutex::new("the store".to_owned());
    let wait_idle = async {
        loop {
            let head = followed_head(app).await?;
            wait_until_handled(app, head, &waiting).await?;
            if followed_head(app).await? == head {
                return check_new_dead_letters(app).await;
            }
        }
    };
    let timeout = app.wait_timeout;
    if let Ok(settled) = tokio::time::timeout(timeout, wait_idle).await {
        return settled;
    }
    let mut waiting_for = waiting.into_inner();
    if let Some(problem) = app.tasks.relay().and_then(|relay| relay.read(|now| now.problem.clone())) {
        waiting_for = format!("{waiting_for} (the relay: {problem})");
    }
    for (what, describe) in [("busy", HANDLING), ("failed", LAST_FAILURE)] {
        let descriptions = describe_handlers(app, describe);
        if !descriptions.is_empty() {
            waiting_for = format!("{waiting_for} ({what}: {})", descriptions.join("; "));
        }
    }
    Err(SettleError::TimedOut { waiting_for, timeout })
}

/// Returns the head of the app's store, which its handlers, its projections and its relay follow.
async fn followed_head(app: &AppInner) -> Result<Position, ReadError> {
    if app.has_store { app.store.head().await } else { Ok(Position::START) }
}

async fn wait_until_handled(app: &AppInner, head: Position, waiting: &Mutex<String>) -> Result<(), SettleError> {
    let wait_for = |what| *waiting.lock() = what;
    if app.tasks.relay().is_some() {
        wait_for("the relay".into());
        relay_health::published(app, head).await?;
        while !relay::is_published_on_bus(&*app.store, &**app.transport(), head).await {
            tokio::time::sleep(IDLE_POLL_INTERVAL).await;
            relay_health::published(app, head).await?;
        }
    }
    for projection in &app.projections {
        wait_for(format!("projection `{}`", projection.definition().name));
        projection.fed().wait_for_position(Some(head), app.wait_timeout).await?;
    }
    for group in &app.groups {
        wait_group_idle(app, group, wait_for).await?;
    }
    Ok(())
}

async fn wait_group_idle(app: &AppInner, group: &Name, wait_for: impl Fn(String)) -> Result<(), SettleError> {
    wait_for(format!("group `{group}`"));
    loop {
        let progress = app.bus.progress(group).await?;
        if progress.is_settled() {
            return match progress.exhausted {
                0 => Ok(()),
                exhausted => Err(SettleError::Exhausted {
                    group: group.clone(),
                    exhausted,
                    last: describe_group_handlers(app, group, LAST_FAILURE),
                }),
            };
        }
        let rest = [(progress.unread, "unread"), (progress.pending, "pending")];
        let rest = rest.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let paused = progress.is_paused.then(|| "paused".to_owned());
        wait_for(format!("group `{group}` ({})", rest.chain(paused).collect::<Vec<_>>().join(", ")));
        tokio::time::sleep(IDLE_POLL_INTERVAL).await;
    }
}

/// Reports each dead letter once.
async fn check_new_dead_letters(app: &AppInner) -> Result<(), SettleError> {
    match app.report_dead_letters() {
        0 => Ok(()),
        dead => {
            let mut last = describe_handlers(app, LAST_FAILURE);
            last.extend(find_unhandled_dead_letter(app, dead).await);
            Err(SettleError::DeadLetters { dead, last })
        }
    }
}

/// Finds the last of the newest `dead` dead letters of this app's groups that has no handler, as an entry that is
/// no event.
async fn find_unhandled_dead_letter(app: &AppInner, dead: u64) -> Option<String> {
    const DEAD_LETTER_PAGE_SIZE: usize = 100;
    let dead_letters = app.bus.dead_letters()?;
    let (mut after, mut newest) = (None, VecDeque::new());
    loop {
        // the log has those that cannot be read now
        let filter = DeadLetterFilter::default();
        let page = dead_letters.list_dead_letters(&filter, after.as_ref(), DEAD_LETTER_PAGE_SIZE).await.ok()?;
        let is_ours = |dead_letter: &DeadLetter| {
            app.groups.iter().any(|group| dead_letter.group.as_deref() == Some(group.as_str()))
        };
        newest.extend(page.letters.into_iter().filter(is_ours));
        let surplus = newest.len().saturating_sub(usize::try_from(dead).unwrap_or(usize::MAX));
        newest.drain(..surplus);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let dead_letter =
        newest.into_iter().rfind(|dead_letter| dead_letter.handler.as_deref().is_none_or(str::is_empty))?;
    let id = dead_letter.original_message_id.unwrap_or(dead_letter.id);
    Some(format!("entry `{id}`: {}", dead_letter.error.as_deref().unwrap_or("no reason recorded")))
}

#[cfg(feature = "axum")]
pub(super) fn failures(app: &AppInner) -> Vec<String> {
    describe_handlers(app, LAST_FAILURE)
}

/// Describes the handlers of all groups.
fn describe_handlers(app: &AppInner, describe: DescribeFn) -> Vec<String> {
    app.groups.iter().flat_map(|group| describe_group_handlers(app, group, describe)).collect()
}

/// Describes the handlers of a group.
fn describe_group_handlers(app: &AppInner, group: &Name, describe: DescribeFn) -> Vec<String> {
    let subscribers = app.bus.subscribers();
    subscribers.iter().filter(|other| other.group() == group).filter_map(|other| describe(&**other)).collect()
}
