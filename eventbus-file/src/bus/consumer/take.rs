//! Taking events: what was left, what was replayed, what is new.

use eventbus::{
    Name,
    port::{DueRange, PAGE_BYTES, Taken, Tries},
};

use super::Consumer;
use crate::{
    bus::letters,
    disk,
    error::{FileQueueError, Result},
    event::{QueueEvent, message_id},
    log::Slot,
    queue::Shared,
};

/// How many events are taken at once; fewer if they have more than [`PAGE_BYTES`].
const BATCH: usize = 100;

/// How many events are looked at, at most, for those of a range.
const MOST_LOOKED_AT: usize = 1_000;

/// What was read, not yet in hand.
#[derive(Debug)]
enum Read {
    Event(QueueEvent),
    Torn(u64, FileQueueError),
}

/// What was read again.
enum Again {
    Slot(Slot),
    Replay(Option<Taken>),
}

impl Consumer<'_> {
    /// Takes what the worker before us had taken and was not done with.
    pub(super) async fn take_left(&mut self) -> Result<()> {
        let open = self.owned.progress.open.keys().copied().collect();
        self.take_open(open, self.owned.was_left).await
    }

    /// Takes events that were taken before.
    pub(super) async fn take_open(&mut self, open: Vec<u64>, is_left: bool) -> Result<()> {
        let group = self.group.clone();
        let left = self
            .shared
            .blocking(move |shared| {
                let read = |id| Ok((id, shared.log.read(id)?, shared.is_letter(id, &group)?));
                open.into_iter().map(read).collect::<Result<Vec<_>>>()
            })
            .await?;
        for (id, slot, is_letter) in left {
            match slot {
                // it was given up, and that was not yet written down here
                _ if is_letter => drop(self.owned.progress.open.remove(&id)),
                Slot::Event(event) => self.take(Read::Event(event), is_left),
                Slot::Torn(error) => self.take(Read::Torn(id, error), false),
                Slot::Gap | Slot::Missing | Slot::Removed(_) => drop(self.owned.progress.open.remove(&id)),
            }
        }
        self.is_dirty = true;
        Ok(())
    }

    fn take(&mut self, read: Read, is_left: bool) {
        match read {
            Read::Event(event) => {
                let tries = self.owned.progress.open.entry(event.id()).or_default().clone();
                let taken = Taken::new(event.message_id(), event.record().clone()).with_tries(tries);
                self.taken.push(if is_left { taken.left_over() } else { taken });
            }
            Read::Torn(id, error) => {
                let tries = Tries::hopeless(said(&error), &self.shared.config.clock);
                self.owned.progress.open.insert(id, tries.clone());
                self.hopeless.push((message_id(id), tries));
            }
        }
    }

    /// Reads events again that have waited. What has, counts as in flight from now on.
    pub(super) async fn read_again(&mut self) -> Result<()> {
        let due = self.hand.take_due();
        if due.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = due.iter().filter_map(|due| due.id.as_str().parse::<u64>().ok()).collect();
        let (group, replays) = (self.group.clone(), self.replays.clone());
        let read = self
            .shared
            .blocking(move |shared| {
                let read = |id: u64| match replays.contains(&id) {
                    true => Ok(Again::Replay(shared.take_replay(id, &group)?)),
                    false => Ok(Again::Slot(shared.log.read(id)?)),
                };
                wanted.into_iter().map(read).collect::<Result<Vec<_>>>()
            })
            .await;
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                self.hand.not_read(due.iter().map(|due| &due.id));
                return Err(error);
            }
        };
        for (due, again) in due.into_iter().zip(read) {
            let id = due.id.as_str().parse().unwrap_or_default();
            match again {
                Again::Replay(Some(taken)) => self.resumed.push(taken),
                Again::Slot(Slot::Event(event)) => {
                    let tries = self.owned.progress.open.entry(id).or_default();
                    self.is_dirty |= due.has_waited && tries.next_at.take().is_some();
                    let taken = Taken::new(due.id, event.record().clone()).with_tries(tries.clone());
                    self.resumed.push(taken);
                }
                Again::Slot(Slot::Torn(error)) => {
                    self.done.push(due.id);
                    self.take(Read::Torn(id, error), false);
                }
                Again::Replay(None) | Again::Slot(Slot::Gap | Slot::Missing | Slot::Removed(_)) => {
                    self.replays.remove(&id);
                    self.owned.progress.open.remove(&id);
                    self.is_dirty = true;
                    self.done.push(due.id);
                }
            }
        }
        Ok(())
    }

    /// Takes what was replayed since, as far as there is room.
    pub(super) async fn take_replays(&mut self) -> Result<()> {
        let room = self.hand.room_beside(self.taken.len());
        let (group, known) = (self.group.clone(), self.replays.clone());
        let replays = self
            .shared
            .blocking(move |shared| {
                let mut ids = shared.replays_of(&group)?;
                ids.retain(|id| !known.contains(id));
                ids.truncate(room);
                Ok(ids.into_iter().map(|id| (id, shared.take_replay(id, &group))).collect::<Vec<_>>())
            })
            .await?;
        for (id, taken) in replays {
            if self.owned.progress.open.contains_key(&id) {
                continue; // it was given up, and that is about to be written down
            }
            match taken {
                Ok(Some(taken)) => {
                    self.taken.push(if self.was_left { taken.left_over() } else { taken });
                    self.replays.insert(id);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(group = %self.group, id, error = error.log(), "replay passed over and left alone");
                    self.replays.insert(id);
                }
            }
        }
        self.was_left = false;
        Ok(())
    }

    /// Takes events, as many as there is room for.
    pub(super) async fn take_more(&mut self) -> Result<()> {
        let room = self.hand.room_beside(self.taken.len()).min(BATCH);
        if room == 0 {
            return Ok(());
        }
        if let Some(due) = self.owned.progress.types.due().cloned() {
            return self.take_due(due, room).await;
        }
        let after = self.owned.progress.read;
        let (through, read, has_more) = self.shared.blocking(move |shared| shared.read_after(after, room)).await?;
        self.has_more = has_more;
        if through != after {
            self.owned.progress.read = through;
            self.is_dirty = true;
            self.patience.reset();
        }
        for one in read {
            self.take(one, false);
        }
        Ok(())
    }

    /// Takes events of a type that the group skipped, before any new one.
    async fn take_due(&mut self, due: DueRange, room: usize) -> Result<()> {
        let (through, read) = self.shared.blocking(move |shared| shared.read_due(&due, room)).await?;
        self.owned.progress.types.delivered_through(through);
        (self.is_dirty, self.has_more) = (true, true);
        self.patience.reset();
        for one in read {
            self.take(one, false);
        }
        Ok(())
    }
}

impl Shared {
    /// The next events of a range, and up to where they were looked for.
    fn read_due(&self, due: &DueRange, count: usize) -> Result<(u64, Vec<Read>)> {
        let (mut through, mut read, mut bytes) = (due.after, Vec::new(), 0);
        for _ in 0..MOST_LOOKED_AT {
            if read.len() >= count || bytes >= PAGE_BYTES {
                return Ok((through, read));
            }
            let Some((id, slot)) = self.log.next(through, &self.worker)?.filter(|(id, _)| *id <= due.through) else {
                return Ok((due.through, read));
            };
            through = id;
            if let Slot::Event(event) = slot
                && event.record().event_type().as_str() == due.event_type
            {
                bytes += event.record().payload().len();
                read.push(Read::Event(event));
            }
        }
        Ok((through, read))
    }

    /// The next events after one, up to where they were read, and whether there may be more.
    fn read_after(&self, after: u64, count: usize) -> Result<(u64, Vec<Read>, bool)> {
        let (mut through, mut read, mut bytes) = (after, Vec::new(), 0);
        while read.len() < count
            && bytes < PAGE_BYTES
            && let Some((id, slot)) = self.log.next(through, &self.worker)?
        {
            through = id;
            match slot {
                Slot::Event(event) => {
                    bytes += event.record().payload().len();
                    read.push(Read::Event(event));
                }
                Slot::Torn(error) => read.push(Read::Torn(id, error)),
                Slot::Gap | Slot::Missing | Slot::Removed(_) => {}
            }
        }
        if read.is_empty() && through == after {
            let head = self.log.head()?;
            if head < after {
                tracing::warn!(
                    read = after,
                    newest = head,
                    "events are gone that were read, the group goes on with what comes"
                );
                through = head;
            }
        }
        let has_more = read.len() == count || bytes >= PAGE_BYTES;
        Ok((through, read, has_more))
    }

    /// Whether a group has given an event up.
    fn is_letter(&self, id: u64, group: &Name) -> Result<bool> {
        disk::exists(&self.letter_path(&letters::stem(id, group)?))
    }
}

/// An error with its causes.
fn said(error: &FileQueueError) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    said
}
