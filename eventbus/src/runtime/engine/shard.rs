//! A shard that this process owns: which of its events wait, run, are due for a retry or block their streams, and what
//! the next save of its progress contains.
//!
//! It is a state machine without a clock and without I/O. Times are milliseconds of the Unix clock.
//!
//! | # | event | step | in memory | next save |
//! |---|---|---|---|---|
//! | 1 | is read from the feed | [`add`](Shard::add) | ready if its stream is free, else queued | nothing |
//! | 2 | a worker takes it | [`take`](Shard::take) | running | in `started` if it still runs; checkpoint at or after it |
//! | 3 | its run succeeds | [`end`](Shard::end) `Done` | gone, the next of its stream is ready | in no list; its row deleted |
//! | 4 | its run fails | `Retry` | due at a time, its stream is blocked | a row |
//! | 5 | its attempts are used up | `Dead` | gone, the next of its stream is ready | a row, dead |
//! | 6 | the same, of a handler that holds | `Dead` | held, its stream is blocked | a row, dead and held |
//! | 7 | the time of its retry comes | [`wake_due`](Shard::wake_due) | ready | nothing |
//! | 8 | its version is newer than this program | `Newer` | blocked until another owner has the shard | a row |
//! | 9 | it was started by an owner that died | [`restore`](Shard::restore) | ready, one death more | a row |
//! | 10 | it has three deaths, or its shard three owners without progress | `take` | ready to run alone | a row before the run |
//! | 11 | it was ended by its fifth death alone | `restore` | gone | a row, dead |
//! | 12 | an operator replays or discards it | [`replay`](Shard::replay), [`discard`](Shard::discard) | ready, or gone | nothing |
//!
//! Invariant: an event that was added and has not ended is after the checkpoint of every save, or in one of its lists,
//! or has a row. So a crash repeats what ended after the last save, and loses nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque},
    time::Duration,
};

use time::OffsetDateTime;

use crate::{
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
    port::{
        attempts::DeliveryAttempts,
        handler_progress::{AcquiredShard, DeliveryRow, ShardId, ShardSave},
    },
};

/// The most events of a save's `waiting`; further ones get rows.
const WAITING_MAX: usize = 256;
/// The number of events that run alone after [`OWNERS_WITHOUT_PROGRESS`] owners in a row: what one save may leave out.
const ALONE_AFTER_UNCLEAN: usize = 256;
/// After this many owners in a row that died without progress, events run alone.
const OWNERS_WITHOUT_PROGRESS: u32 = 3;

/// A shard with the events that its owner has read and not finished.
#[derive(Debug)]
pub(super) struct Shard {
    id: ShardId,
    epoch: u64,
    /// The feed is read up to here.
    read: Position,
    /// The highest event that was started.
    high: Position,
    /// The unfinished events without a row, with their streams.
    open: BTreeMap<Position, Stage>,
    /// The running events, also those with a row.
    running: BTreeSet<Position>,
    /// By the hash of the stream: two streams with one hash share a queue, which only makes them wait for each other.
    streams: HashMap<u64, StreamQueue>,
    /// Streams whose front may run beside others, the oldest event first: so few events wait behind the checkpoint.
    ready: BinaryHeap<Reverse<(Position, u64)>>,
    /// Streams whose front runs alone.
    alone: VecDeque<u64>,
    /// Streams whose front is due at a time.
    due: BTreeSet<(u64, u64)>,
    size: Size,
    unsaved: Unsaved,
    /// The number of events that still run alone because the shard had owners without progress.
    alone_left: usize,
    /// The end of the feed when the shard was acquired, after owners without progress and while no unfinished event is
    /// known. A shard that had none up to there counts no death: none of its events ended a process.
    idle_through: Option<Position>,
}

/// The number of events in a shard, or in several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Events, with or without a body.
    pub(super) events: usize,
    /// Events with a body.
    pub(super) bodies: usize,
    /// The bytes of their payloads.
    pub(super) bytes: usize,
}

impl Size {
    pub(super) const fn plus(self, other: Self) -> Self {
        let (events, bodies) = (self.events + other.events, self.bodies + other.bodies);
        Self { events, bodies, bytes: self.bytes + other.bytes }
    }

    fn take_body(&mut self, item: &mut Item) -> Option<RecordedEvent> {
        let body = item.body.take()?;
        self.bodies -= 1;
        self.bytes -= body.payload().len();
        Some(body)
    }

    fn add(&mut self, item: &Item) {
        self.events += 1;
        if let Some(body) = &item.body {
            self.bodies += 1;
            self.bytes += body.payload().len();
        }
    }

    fn remove(&mut self, mut item: Item) {
        self.take_body(&mut item);
        self.events -= 1;
    }
}

#[derive(Debug, Clone, Copy)]
struct Stage {
    stream: u64,
    is_running: bool,
}

/// The unfinished events of a stream, in order.
#[derive(Debug)]
struct StreamQueue {
    items: VecDeque<Item>,
    front: Front,
}

/// The state of the first event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    Ready,
    Running,
    DueAt(u64),
    Held,
    Newer,
}

#[derive(Debug)]
struct Item {
    position: Position,
    /// `None` if the event is read again before it runs: it has waited behind a failed one.
    body: Option<RecordedEvent>,
    /// The attempts of its row; `None` without a row.
    row: Option<Box<DeliveryAttempts>>,
}

/// What the next save contains beside checkpoint and lists.
#[derive(Debug, Default)]
struct Unsaved {
    /// Set if checkpoint or lists may have changed.
    is_changed: bool,
    has_progressed: bool,
    rows: BTreeMap<Position, DeliveryRow>,
    finished: BTreeSet<Position>,
    left: BTreeMap<Name, Option<Position>>,
}

/// An event that a worker runs.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) shard: u16,
    pub(super) epoch: u64,
    pub(super) stream: u64,
    pub(super) position: Position,
    /// `None` if the worker must read the event.
    pub(super) event: Option<RecordedEvent>,
    /// The attempts so far.
    pub(super) attempts: DeliveryAttempts,
    /// Set if it was taken to run alone.
    pub(super) is_alone: bool,
    /// Set if its row counts a death of the process as its own: no other event runs meanwhile.
    pub(super) is_counted_alone: bool,
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    Done,
    /// It failed and is due at this time.
    Retry(DeliveryAttempts, u64),
    /// It failed for the last time. `is_held` blocks its stream.
    Dead {
        attempts: DeliveryAttempts,
        since: OffsetDateTime,
        is_held: bool,
    },
    /// The program does not know the version of the event.
    Newer(DeliveryAttempts),
    /// It did not run, or was aborted, and runs again.
    Again(DeliveryAttempts),
}

/// An unfinished event as the former owner left it.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) position: Position,
    pub(super) event: RecordedEvent,
    /// Its row, if it has one.
    pub(super) row: Option<DeliveryRow>,
}

impl Shard {
    /// Owns an acquired shard. `head` is the end of the feed, if the shard had owners without progress.
    pub(super) fn new(acquired: &AcquiredShard, head: Position) -> Self {
        let alone_left = if acquired.unclean >= OWNERS_WITHOUT_PROGRESS { ALONE_AFTER_UNCLEAN } else { 0 };
        Self {
            id: acquired.shard.clone(),
            epoch: acquired.epoch,
            read: acquired.checkpoint,
            high: acquired.checkpoint,
            open: BTreeMap::new(),
            running: BTreeSet::new(),
            streams: HashMap::new(),
            ready: BinaryHeap::new(),
            alone: VecDeque::new(),
            due: BTreeSet::new(),
            size: Size::default(),
            unsaved: Unsaved::default(),
            alone_left,
            idle_through: (acquired.unclean > 0).then_some(head),
        }
    }

    pub(super) const fn id(&self) -> &ShardId {
        &self.id
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) const fn read(&self) -> Position {
        self.read
    }

    pub(super) const fn size(&self) -> Size {
        self.size
    }

    /// Returns the number of events that a worker could take now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Returns for how long the next event that runs alone waits for others to end; `None` if there is none.
    pub(super) fn wait_to_run_alone(&self) -> Option<Duration> {
        let front = self.streams.get(self.alone.front()?)?.items.front()?;
        Some(front.row.as_deref().map_or(Duration::from_secs(1), DeliveryAttempts::wait_to_run_alone))
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns the events that wait or run, and those whose rows the next save deletes.
    pub(super) fn known(&self) -> BTreeSet<Position> {
        let items = self.streams.values().flat_map(|queue| &queue.items).map(|item| item.position);
        items.chain(self.unsaved.finished.iter().copied()).collect()
    }

    /// Returns the number of events that wait behind one that waits for a retry, and that of their streams.
    pub(super) fn blocked(&self) -> (u64, u64) {
        let is_blocked =
            |queue: &&StreamQueue| queue.items.len() > 1 && !matches!(queue.front, Front::Ready | Front::Running);
        let blocked = self.streams.values().filter(is_blocked);
        blocked.fold((0, 0), |(events, streams), queue| (events + queue.items.len() as u64 - 1, streams + 1))
    }

    /// Returns the time of the first failure of the event that fails for longest, in milliseconds of the Unix clock.
    pub(super) fn oldest_failure(&self) -> Option<u64> {
        let fronts = self.streams.values().filter(|queue| queue.front != Front::Held);
        let rows = fronts.filter_map(|queue| queue.items.front()?.row.as_deref());
        rows.filter_map(|row| row.first_failed_at).min()
    }

    /// Returns `true` if every end of a run is saved, or part of a save under way.
    pub(super) fn is_saved(&self) -> bool {
        let Unsaved { has_progressed, rows, finished, .. } = &self.unsaved;
        !has_progressed && rows.is_empty() && finished.is_empty()
    }

    /// Returns the number of events in a version that this program does not know.
    pub(super) fn newer(&self) -> u64 {
        self.streams.values().filter(|queue| queue.front == Front::Newer).count() as u64
    }

    /// Returns `true` if no event waits or runs, those left out that only another owner or an operator can start.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.values().all(|queue| matches!(queue.front, Front::Held | Front::Newer))
    }

    /// Returns the number of events up to the checkpoint that have no row: the catch-up of a type waits while they are many.
    pub(super) fn is_crowded_below(&self) -> bool {
        self.open.range(..=self.high).count() >= WAITING_MAX / 2
    }

    /// Queues an event of the feed that the handler takes. It may be one of a type that was left, at or before the
    /// checkpoint.
    pub(super) fn add(&mut self, event: RecordedEvent, now: u64) {
        let (position, stream) = (event.position().unwrap_or_default(), event.metadata().stream().hash());
        if self.open.contains_key(&position) {
            return;
        }
        self.open.insert(position, Stage { stream, is_running: false });
        self.unsaved.is_changed |= position <= self.high;
        self.push(stream, Item { position, body: Some(event), row: None }, now);
    }

    /// Marks the feed as read up to here.
    pub(super) fn note_read(&mut self, through: Position) {
        self.read = self.read.max(through);
        self.unsaved.is_changed |= self.open.is_empty();
        self.note_idle();
    }

    /// Counts no death of former owners once the shard is known to have had no unfinished event.
    pub(super) fn note_idle(&mut self) {
        if self.idle_through.take_if(|head| self.read >= *head).is_some() {
            self.alone_left = 0;
            (self.unsaved.is_changed, self.unsaved.has_progressed) = (true, true);
        }
    }

    /// Queues an event that the former owner did not finish. Call it in the order of the positions. `has_crashed` counts
    /// a death: the former owner died while the event ran.
    pub(super) fn restore(&mut self, restored: Restored, has_crashed: bool, now: u64, since: OffsetDateTime) {
        let Restored { position, event, row } = restored;
        let stream = event.metadata().stream().hash();
        let is_held = row.as_ref().is_some_and(|row| row.is_held);
        let mut attempts = row.map(|row| row.attempts);
        if has_crashed {
            let counted = attempts.get_or_insert_default();
            let may_run = counted.note_death(now);
            let row = DeliveryRow {
                position,
                attempts: counted.clone(),
                dead_since: (!may_run).then_some(since),
                is_held: false,
            };
            self.unsaved.rows.insert(position, row);
            (self.unsaved.is_changed, self.idle_through) = (true, None);
            if !may_run {
                return;
            }
        }
        if attempts.is_none() {
            self.open.insert(position, Stage { stream, is_running: false });
        }
        self.push(stream, Item { position, body: Some(event), row: attempts.map(Box::new) }, now);
        if is_held && let Some(queue) = self.streams.get_mut(&stream).filter(|queue| queue.items.len() == 1) {
            queue.front = Front::Held;
            self.ready.retain(|Reverse((_, ready))| *ready != stream);
        }
    }

    /// Gives a row to an event of the former owner that this owner does not take: it waits for an owner that does.
    pub(super) fn leave_row(&mut self, position: Position) {
        let row = DeliveryRow { position, attempts: DeliveryAttempts::default(), dead_since: None, is_held: false };
        self.unsaved.rows.insert(position, row);
        self.unsaved.is_changed = true;
    }

    /// Notes an unfinished event that this owner does not take: the shard is not idle.
    pub(super) const fn note_unfinished(&mut self) {
        self.idle_through = None;
    }

    /// Records in the next save from where on the checkpoint counts for a type, or that it counts for all of it.
    pub(super) fn set_left(&mut self, name: Name, from: Option<Position>) {
        self.unsaved.left.insert(name, from);
        self.unsaved.is_changed = true;
    }

    fn push(&mut self, stream: u64, item: Item, now: u64) {
        self.size.add(&item);
        self.idle_through = None;
        let queue = self.streams.entry(stream);
        let queue = queue.or_insert_with(|| StreamQueue { items: VecDeque::with_capacity(1), front: Front::Ready });
        // an event of a type that was left comes after later events of its stream
        let place =
            queue.items.iter().rposition(|before| before.position < item.position).map_or(0, |before| before + 1);
        let place = if queue.items.is_empty() { 0 } else { place.max(1) };
        queue.items.insert(place, item);
        let is_blocked = queue.items.len() > 1 && !matches!(queue.front, Front::Ready | Front::Running);
        if is_blocked && let Some(item) = queue.items.get_mut(place) {
            self.size.take_body(item);
        } else if queue.items.len() == 1 {
            self.start_front(stream, now);
        }
    }

    /// Lets the first event of a stream wait for a worker or for its time; forgets a stream without events.
    fn start_front(&mut self, stream: u64, now: u64) {
        let Some(queue) = self.streams.get_mut(&stream) else { return };
        let Some(item) = queue.items.front() else {
            self.streams.remove(&stream);
            return;
        };
        let due = item.row.as_ref().and_then(|attempts| attempts.due_at()).filter(|due| *due > now);
        queue.front = match due {
            Some(due) => {
                self.due.insert((due, stream));
                Front::DueAt(due)
            }
            None => {
                let runs_alone = self.alone_left > 0 || item.row.as_ref().is_some_and(|row| row.runs_alone());
                if runs_alone {
                    self.alone.push_back(stream)
                } else {
                    self.ready.push(Reverse((item.position, stream)))
                }
                Front::Ready
            }
        };
    }

    /// Makes the events ready whose time has come.
    pub(super) fn wake_due(&mut self, now: u64) {
        while let Some(&(due, stream)) = self.due.first().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, stream));
            self.start_front(stream, due.max(now));
        }
    }

    /// Returns when the next event is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the next event that may run beside others.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let Reverse((_, stream)) = self.ready.pop()?;
        let taken = self.begin(stream)?;
        if let Some(stage) = self.open.get_mut(&taken.position) {
            stage.is_running = true;
        }
        Some(taken)
    }

    /// Takes the next event that runs alone; it has a row after that, which the caller saves before the run. `is_counted`
    /// counts the death of the process as one while the event ran alone: no other event runs.
    pub(super) fn take_alone(&mut self, is_counted: bool) -> Option<Taken> {
        let stream = self.alone.pop_front()?;
        let mut taken = self.begin(stream)?;
        taken.attempts.begin(is_counted);
        let (position, attempts) = (taken.position, taken.attempts.clone());
        self.open.remove(&position);
        self.put_row(stream, DeliveryRow { position, attempts, dead_since: None, is_held: false });
        (taken.is_alone, taken.is_counted_alone) = (true, is_counted);
        Some(taken)
    }

    /// Begins the run of the first event of a stream.
    fn begin(&mut self, stream: u64) -> Option<Taken> {
        let queue = self.streams.get_mut(&stream)?;
        queue.front = Front::Running;
        let item = queue.items.front()?;
        let (position, event) = (item.position, item.body.clone());
        let attempts = item.row.as_deref().cloned().unwrap_or_default();
        self.running.insert(position);
        self.high = self.high.max(position);
        self.unsaved.is_changed = true;
        let (shard, epoch) = (self.id.number, self.epoch);
        Some(Taken { shard, epoch, stream, position, event, attempts, is_alone: false, is_counted_alone: false })
    }

    /// Gives the first event of a stream this row.
    fn put_row(&mut self, stream: u64, row: DeliveryRow) {
        if let Some(item) = self.streams.get_mut(&stream).and_then(|queue| queue.items.front_mut()) {
            item.row = Some(Box::new(row.attempts.clone()));
        }
        self.unsaved.finished.remove(&row.position);
        self.unsaved.rows.insert(row.position, row);
    }

    /// Lets the running events run again, because their runs were aborted.
    pub(super) fn abort_runs(&mut self, clock: &SharedClock) {
        let running: Vec<_> = self.streams.iter().filter(|(_, queue)| queue.front == Front::Running).collect();
        let running: Vec<_> = running
            .into_iter()
            .map(|(stream, queue)| {
                (*stream, queue.items.front().map(|item| (item.position, item.row.as_deref().cloned())))
            })
            .collect();
        for (stream, front) in running {
            let Some((position, row)) = front else { continue };
            let mut attempts = row.unwrap_or_default();
            if attempts.runs_alone() {
                attempts.undo_begin(true, clock);
            }
            let (shard, epoch) = (self.id.number, self.epoch);
            let taken = Taken {
                shard,
                epoch,
                stream,
                position,
                event: None,
                attempts: DeliveryAttempts::default(),
                is_alone: false,
                is_counted_alone: false,
            };
            self.end(&taken, End::Again(attempts), clock.unix_millis());
        }
    }

    /// Ends the run of a taken event.
    pub(super) fn end(&mut self, taken: &Taken, end: End, now: u64) {
        let Some(queue) = self.streams.get_mut(&taken.stream) else { return };
        let Some(item) = queue.items.front_mut().filter(|item| item.position == taken.position) else { return };
        self.running.remove(&taken.position);
        self.unsaved.is_changed = true;
        if !matches!(end, End::Again(_)) {
            self.unsaved.has_progressed = true;
            self.alone_left = self.alone_left.saturating_sub(1);
        }
        let (attempts, dead_since, is_held, front) = match end {
            End::Done => return self.finish_front(taken.stream, now),
            End::Retry(attempts, due) => (attempts, None, false, Front::DueAt(due)),
            End::Newer(attempts) => (attempts, None, false, Front::Newer),
            End::Dead { attempts, since, is_held } => (attempts, Some(since), is_held, Front::Held),
            End::Again(attempts) => {
                if item.row.is_some() {
                    let position = taken.position;
                    self.put_row(taken.stream, DeliveryRow { position, attempts, dead_since: None, is_held: false });
                } else if let Some(stage) = self.open.get_mut(&taken.position) {
                    stage.is_running = false;
                }
                return self.start_front(taken.stream, now);
            }
        };
        let row = DeliveryRow { position: taken.position, attempts: attempts.clone(), dead_since, is_held };
        self.open.remove(&taken.position);
        self.unsaved.finished.remove(&taken.position);
        self.unsaved.rows.insert(taken.position, row);
        if dead_since.is_some() && !is_held {
            if let Some(item) = queue.items.pop_front() {
                self.size.remove(item);
            }
            return self.start_front(taken.stream, now);
        }
        item.row = Some(Box::new(attempts));
        queue.front = front;
        // the events behind it are read again when their turn comes
        for item in queue.items.iter_mut().skip(1) {
            self.size.take_body(item);
        }
        if let Front::DueAt(due) = front {
            self.due.insert((due, taken.stream));
        }
    }

    /// Removes the first event of a stream, with its row.
    fn finish_front(&mut self, stream: u64, now: u64) {
        let Some(item) = self.streams.get_mut(&stream).and_then(|queue| queue.items.pop_front()) else { return };
        self.open.remove(&item.position);
        if item.row.is_some() {
            self.unsaved.rows.remove(&item.position);
            self.unsaved.finished.insert(item.position);
        }
        self.size.remove(item);
        self.start_front(stream, now);
    }

    /// Returns the events that are held.
    pub(super) fn held(&self) -> BTreeSet<Position> {
        let held = self.streams.values().filter(|queue| queue.front == Front::Held);
        held.filter_map(|queue| queue.items.front()).map(|item| item.position).collect()
    }

    /// Starts a dead letter that an operator replays: a held one at the front of its stream, another one after what its
    /// stream has.
    pub(super) fn replay(&mut self, event: RecordedEvent, row: DeliveryRow, now: u64) {
        let stream = event.metadata().stream().hash();
        if let Some(queue) = self.streams.get_mut(&stream)
            && let Some(item) = queue.items.front_mut().filter(|item| item.position == row.position)
        {
            if queue.front == Front::Held {
                item.row = Some(Box::new(row.attempts));
                self.start_front(stream, now);
            }
            return;
        }
        let item = Item { position: row.position, body: Some(event), row: Some(Box::new(row.attempts)) };
        self.push_last(stream, item, now);
    }

    fn push_last(&mut self, stream: u64, item: Item, now: u64) {
        if let Some(queue) = self.streams.get_mut(&stream) {
            self.size.add(&item);
            queue.items.push_back(item);
        } else {
            self.push(stream, item, now);
        }
    }

    /// Removes a held event that an operator discarded.
    pub(super) fn discard(&mut self, position: Position, now: u64) {
        let held = self.streams.iter_mut().find(|(_, queue)| {
            queue.front == Front::Held && queue.items.front().is_some_and(|item| item.position == position)
        });
        let Some((&stream, queue)) = held else { return };
        if let Some(item) = queue.items.pop_front() {
            self.size.remove(item);
        }
        self.start_front(stream, now);
    }

    /// Returns what has changed since the last save; `None` if nothing has, or if only the checkpoint of an idle shard
    /// moves and `is_lazy`. The caller gives it back by [`unsave`](Self::unsave) if it could not be saved.
    pub(super) fn save(&mut self, is_release: bool, is_lazy: bool) -> Option<ShardSave> {
        if !self.unsaved.is_changed && !is_release {
            return None;
        }
        let is_quiet = self.unsaved.rows.is_empty() && self.unsaved.finished.is_empty() && self.unsaved.left.is_empty();
        if is_lazy && is_quiet && !is_release && !self.unsaved.has_progressed && self.running.is_empty() {
            return None;
        }
        self.give_rows_to_surplus();
        let checkpoint = match self.open.first_key_value() {
            None => self.read.max(self.high),
            Some((first, _)) => self.high.max(Position::new(first.get().saturating_sub(1))),
        };
        let waiting = self.open.range(..=checkpoint).filter(|(_, stage)| !stage.is_running);
        let waiting = waiting.map(|(position, _)| *position).collect();
        let started = self.running.iter().copied().collect();
        let Unsaved { has_progressed, rows, finished, left, .. } = std::mem::take(&mut self.unsaved);
        Some(ShardSave {
            shard: self.id.clone(),
            epoch: self.epoch,
            checkpoint,
            waiting,
            started,
            has_progressed,
            left,
            rows: rows.into_values().collect(),
            finished: finished.into_iter().collect(),
            is_release,
        })
    }

    /// Gives rows to events that wait up to the checkpoint, if they are many: the list of a save stays short.
    fn give_rows_to_surplus(&mut self) {
        let waiting = self.open.range(..=self.high).filter(|(_, stage)| !stage.is_running);
        let waiting: Vec<_> = waiting.map(|(position, stage)| (*position, stage.stream)).collect();
        if waiting.len() <= WAITING_MAX {
            return;
        }
        for (position, stream) in waiting.into_iter().skip(WAITING_MAX / 2) {
            let queue = self.streams.get_mut(&stream);
            let Some(item) = queue.and_then(|queue| queue.items.iter_mut().find(|item| item.position == position))
            else {
                continue;
            };
            item.row = Some(Box::default());
            self.open.remove(&position);
            let row = DeliveryRow { position, attempts: DeliveryAttempts::default(), dead_since: None, is_held: false };
            self.unsaved.rows.insert(position, row);
        }
    }

    /// Takes a save back that may not have been made. What has changed since then counts.
    pub(super) fn unsave(&mut self, save: ShardSave) {
        let unsaved = &mut self.unsaved;
        unsaved.is_changed = true;
        unsaved.has_progressed |= save.has_progressed;
        for row in save.rows {
            if !unsaved.finished.contains(&row.position) {
                unsaved.rows.entry(row.position).or_insert(row);
            }
        }
        for position in save.finished {
            if !unsaved.rows.contains_key(&position) {
                unsaved.finished.insert(position);
            }
        }
        for (name, from) in save.left {
            unsaved.left.entry(name).or_insert(from);
        }
    }
}
