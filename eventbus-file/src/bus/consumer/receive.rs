//! Receiving events: open ones of the previous owner, retries, replays, and new ones.

use eventbus::port::{DeliveryAttempts, DueRange, InFlightEntry};

use super::Consumer;
use crate::{
    error::{FileQueueError, Result},
    event::message_id,
    log::{LogEntry, ReadEvent},
};

/// Maximum number of events received at once; fewer if they have more than [`PAGE_BYTES`](eventbus::port::PAGE_BYTES).
const RECEIVE_BATCH_MAX: usize = 100;

/// An in-flight entry that was read again.
enum RereadEvent {
    Log(LogEntry),
    Replay(Option<InFlightEntry>),
}

impl Consumer<'_> {
    /// Receives the events that were open at the previous owner.
    pub(super) async fn receive_redelivered(&mut self) -> Result<()> {
        let open = self.owned.progress.open.keys().copied().collect();
        self.receive_open(open, self.owned.was_abandoned).await
    }

    pub(super) async fn receive_open(&mut self, open: Vec<u64>, is_redelivered: bool) -> Result<()> {
        let group = self.group.clone();
        let entries = self
            .queue
            .blocking(move |queue| {
                let read = |id| Ok((id, queue.log.read(id)?, queue.dead_letters.has_dead_letter(id, &group)?));
                open.into_iter().map(read).collect::<Result<Vec<_>>>()
            })
            .await?;
        for (id, slot, is_dead_letter) in entries {
            match slot {
                // the event became a dead letter, but the progress without it was not saved
                _ if is_dead_letter => drop(self.owned.progress.open.remove(&id)),
                LogEntry::Event(event) => self.add_received(ReadEvent::Event(event), is_redelivered),
                LogEntry::Torn(error) => self.add_received(ReadEvent::Torn(id, error), false),
                LogEntry::Gap | LogEntry::Missing | LogEntry::Removed(_) => drop(self.owned.progress.open.remove(&id)),
            }
        }
        self.is_dirty = true;
        Ok(())
    }

    fn add_received(&mut self, read: ReadEvent, is_redelivered: bool) {
        match read {
            ReadEvent::Event(event) => {
                let attempts = self.owned.progress.open.entry(event.id()).or_default().clone();
                let entry = InFlightEntry::new(event.message_id(), event.record().clone()).with_attempts(attempts);
                self.to_add.push(if is_redelivered { entry.redelivered() } else { entry });
            }
            ReadEvent::Torn(id, error) => {
                let attempts = DeliveryAttempts::undecodable(error_chain(&error), &self.queue.config.clock);
                self.owned.progress.open.insert(id, attempts.clone());
                self.undecodable.push((message_id(id), attempts));
            }
        }
    }

    /// Reads the waiting events again that are due. One that is read counts as in flight from now on.
    pub(super) async fn read_due(&mut self) -> Result<()> {
        let due = self.in_flight.take_due();
        if due.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = due.iter().filter_map(|due| due.id.as_str().parse::<u64>().ok()).collect();
        let (group, replays) = (self.group.clone(), self.replays.clone());
        let read = self
            .queue
            .blocking(move |queue| {
                let read = |id: u64| match replays.contains(&id) {
                    true => Ok(RereadEvent::Replay(queue.dead_letters.load_replay(id, &group)?)),
                    false => Ok(RereadEvent::Log(queue.log.read(id)?)),
                };
                wanted.into_iter().map(read).collect::<Result<Vec<_>>>()
            })
            .await;
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                self.in_flight.return_due(due.iter().map(|due| &due.id));
                return Err(error);
            }
        };
        for (due, reread) in due.into_iter().zip(read) {
            let id = due.id.as_str().parse().unwrap_or_default();
            match reread {
                RereadEvent::Replay(Some(entry)) => self.to_resume.push(entry),
                RereadEvent::Log(LogEntry::Event(event)) => {
                    let attempts = self.owned.progress.open.entry(id).or_default();
                    self.is_dirty |= due.has_waited && attempts.next_at.take().is_some();
                    let entry = InFlightEntry::new(due.id, event.record().clone()).with_attempts(attempts.clone());
                    self.to_resume.push(entry);
                }
                RereadEvent::Log(LogEntry::Torn(error)) => {
                    self.to_release.push(due.id);
                    self.add_received(ReadEvent::Torn(id, error), false);
                }
                RereadEvent::Replay(None)
                | RereadEvent::Log(LogEntry::Gap | LogEntry::Missing | LogEntry::Removed(_)) => {
                    self.replays.remove(&id);
                    self.owned.progress.open.remove(&id);
                    self.is_dirty = true;
                    self.to_release.push(due.id);
                }
            }
        }
        Ok(())
    }

    /// Receives new replays, as many as there is room for.
    pub(super) async fn receive_replays(&mut self) -> Result<()> {
        let room = self.in_flight.room_beside(self.to_add.len());
        let (group, known) = (self.group.clone(), self.replays.clone());
        let replays = self
            .queue
            .blocking(move |queue| {
                let mut ids = queue.dead_letters.list_replays(&group)?;
                ids.retain(|id| !known.contains(id));
                ids.truncate(room);
                Ok(ids.into_iter().map(|id| (id, queue.dead_letters.load_replay(id, &group))).collect::<Vec<_>>())
            })
            .await?;
        for (id, entry) in replays {
            if self.owned.progress.open.contains_key(&id) {
                continue; // replayed before the progress without the event was saved
            }
            match entry {
                Ok(Some(entry)) => {
                    self.to_add.push(if self.was_abandoned { entry.redelivered() } else { entry });
                    self.replays.insert(id);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(group = %self.group, id, error = error.log(), "unreadable replay passed over");
                    self.replays.insert(id);
                }
            }
        }
        self.was_abandoned = false;
        Ok(())
    }

    /// Receives new events, as many as there is room for.
    pub(super) async fn receive_new(&mut self) -> Result<()> {
        let room = self.in_flight.room_beside(self.to_add.len()).min(RECEIVE_BATCH_MAX);
        if room == 0 {
            return Ok(());
        }
        if let Some(due) = self.owned.progress.types.due().cloned() {
            return self.receive_skipped(due, room).await;
        }
        let after = self.owned.progress.read;
        let (through, read, has_more) = self.queue.blocking(move |queue| queue.log.read_after(after, room)).await?;
        self.has_more = has_more;
        if through != after {
            self.owned.progress.read = through;
            self.is_dirty = true;
            self.poll_backoff.reset();
        }
        for one in read {
            self.add_received(one, false);
        }
        Ok(())
    }

    /// Receives events of a type that the group skipped, before any new event.
    async fn receive_skipped(&mut self, due: DueRange, room: usize) -> Result<()> {
        let (through, read) = self.queue.blocking(move |queue| queue.log.read_due_range(&due, room)).await?;
        self.owned.progress.types.delivered_through(through);
        (self.is_dirty, self.has_more) = (true, true);
        self.poll_backoff.reset();
        for one in read {
            self.add_received(one, false);
        }
        Ok(())
    }
}

/// Returns an error with its causes, as text.
fn error_chain(error: &FileQueueError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
