//! The state of what a consumer has in hand: no tasks, no locks.
//!
//! Keep: of one aggregate only the first entry in hand is startable; the others are parked behind it until it is done
//! with. An entry leaves the hand when what became of it is written down, or when someone else has taken it over.
//!
//! What waits for a retry, and what is parked behind it, is not in flight: only its id, its aggregate and its time are
//! kept, and the bus reads event and tries again when its turn has come.
//!
//! | stage | with event and tries | next stage |
//! |---|---|---|
//! | parked | yes, or no if one before it waited | when it is the first: ready, suspect, waiting; due if it is without; parked, and without, if its aggregate is held back |
//! | waiting | no | when its time has come: due |
//! | due | no | when the bus asks what is due: reading |
//! | reading | no | when the bus has read it: ready, suspect, waiting; due again if it could not be read; waiting if put off |
//! | ready, suspect, running | yes | when it has failed: waiting, and those behind it are without |

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};

use super::{
    DueAgain, Settled, Taken, Verdict,
    pace::Pace,
    places::Place,
    suspect::{Due, Marked},
};
use crate::{
    domain::{clock::SharedClock, record::RecordedEvent, stream::StreamId},
    port::{MessageId, Outcome, RetryPolicy, Tries},
};

/// An aggregate, as far as order goes: two that share a number only wait for each other without need.
type Lane = u64;

/// What an event takes beside its texts, about.
const OVERHEAD: usize = 500;
/// Of what was never delivered here before, so many entries are handled for one that was read again, as long as there are
/// both: retries, which may be many times as many as events, take little from those that do not fail.
const NEW_BEFORE_ONE_AGAIN: usize = 20;
/// After how long without a delivery what comes next is shared anew.
const IDLE: Duration = Duration::from_secs(1);

/// A map by numbers that are spread well enough as they are.
type ByNumber<T> = HashMap<u64, T, BuildHasherDefault<Plain>>;

/// Takes a number as its own hash, mixed as the map looks at the highest bits too.
#[derive(Debug, Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9E37_79B9_7F4A_7C15); // 2^64 divided by the golden ratio
    }
}

#[derive(Debug)]
struct Item {
    id: MessageId,
    lane: Lane,
    stage: Stage,
    /// Nothing while it waits, or is parked behind one that waits; nor when it is done with.
    body: Option<Box<Body>>,
    /// When a handler failed first, in milliseconds since 1970.
    failing_since: Option<u64>,
}

/// What is read again after a wait.
#[derive(Debug)]
struct Body {
    /// Nothing, if it is no event.
    record: Option<RecordedEvent>,
    tries: Tries,
    /// How many bytes of memory the event takes, about.
    bytes: usize,
    /// Whether it was read again.
    is_again: bool,
}

impl Item {
    fn settled(&self, verdict: Verdict) -> Settled {
        let record = self.body.as_ref().and_then(|body| body.record.clone());
        Settled { id: self.id.clone(), record, verdict }
    }

    /// Takes back that a suspect is begun.
    fn not_begun(&mut self, is_alone: bool, clock: &SharedClock) -> Option<Settled> {
        let body = self.body.as_mut()?;
        body.tries.not_begun(is_alone, clock);
        let tries = body.tries.clone();
        Some(self.settled(Verdict::Retry { tries, after: Duration::ZERO }))
    }

    const fn can_be_read_later(&self) -> bool {
        matches!(self.stage, Stage::Parked | Stage::Waiting { .. })
    }

    fn ended_alone(&self) -> u32 {
        self.body.as_ref().map_or(0, |body| body.tries.ended_alone)
    }
}

#[derive(Debug)]
enum Stage {
    /// Behind another entry of its aggregate.
    Parked,
    /// To be read again then.
    Waiting { until: Instant, has_waited: bool },
    /// To be read again, since this time.
    Due { since: Instant, has_waited: bool },
    /// It is being read again.
    Reading { since: Instant, has_waited: bool },
    /// To run alone.
    Suspect,
    /// A suspect of which it is being written down that it begins, alone or beside others.
    Marking { is_alone: bool },
    /// A suspect of which that is written down.
    Marked { is_alone: bool },
    /// Startable.
    Ready,
    /// A worker has it since this time.
    Running(Arc<Notify>, Instant),
    /// Done with; the next of its aggregate may run.
    Settled,
    /// To become a dead letter; the next of its aggregate waits until it is one.
    Burying,
}

/// An entry that a worker is to handle.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    pub(super) tries: Tries,
}

/// What a worker may do next.
#[derive(Debug)]
pub(super) enum Turn {
    Work(Job, Place),
    /// Nothing to do, until this time at most.
    Idle(Option<Instant>),
    /// Nothing it has a place for, until one is freed or something else is due.
    NoPlace(Option<Instant>),
}

/// The entries of one aggregate, in the order they came.
#[derive(Debug, Default)]
struct Queue {
    numbers: VecDeque<u64>,
    /// How many of them are here with their events.
    whole: usize,
    /// Whether the first one waits for a retry, or to become a dead letter: then none of them is work for a worker.
    is_held: bool,
    /// Whether one of them was in flight when its process ended: then those behind it were not.
    has_suspect: bool,
}

/// How much a consumer may have at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// Whether so many entries wait that no more are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowding {
    Begins,
    Ends,
}

#[derive(Debug, Default)]
pub(super) struct State {
    hasher: RandomState,
    items: ByNumber<Item>,
    numbers: HashMap<MessageId, u64>,
    lanes: ByNumber<Queue>,
    /// How many entries with their events are in queues that are not held: work for the workers.
    active: usize,
    /// How many entries are here without their events, and how many may be.
    waiters: usize,
    most_waiters: usize,
    /// Since when there are too many.
    crowded_since: Option<OffsetDateTime>,
    /// That this has changed, and nobody was told yet.
    crowding: Option<Crowding>,
    running: usize,
    /// How many workers there are.
    workers: usize,
    /// The bytes of all events here.
    bytes: usize,
    pace: Pace,
    /// When the last delivery ended.
    last_end: Option<Instant>,
    ready: BTreeSet<u64>,
    /// The same of those that were read again, how many of these are running, and how many others are started before the
    /// next of these is.
    ready_again: BTreeSet<u64>,
    running_again: usize,
    new_before_again: usize,
    /// Whether there is more to be read that is new.
    more_follows: bool,
    /// Those that may run, with how often each ran alone in vain: the likely ones last.
    suspects: BTreeSet<(u32, u64)>,
    waiting: BTreeSet<(Instant, u64)>,
    /// The aggregates that are held back, and how often.
    held_back: ByNumber<usize>,
    /// The handlers of those that have failed, by when they failed first and by their numbers.
    failing: BTreeMap<(u64, u64), Arc<str>>,
    /// Those that are to be read again, with since when: so none waits for ever for others that are due again and again.
    due: BTreeSet<(Instant, u64)>,
    /// How many of them are being read.
    reading: usize,
    /// How many are done with, once that is written down.
    settled: usize,
    /// What is to be written down, in order.
    outbox: Vec<Settled>,
    next: u64,
    clock: SharedClock,
}

impl State {
    pub(super) fn new(clock: SharedClock, most_waiters: usize) -> Self {
        Self { clock, most_waiters, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many of them are in flight: here with their events, or not yet written down.
    pub(super) fn in_flight(&self) -> usize {
        self.items.len() - self.waiters
    }

    /// How many wait, and since when that is too many.
    pub(super) fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        Some((self.waiters, self.crowded_since?))
    }

    /// Since when the one that failed first of all does so, in milliseconds since 1970, and which handlers.
    pub(super) fn oldest_failing(&self) -> Option<(u64, Arc<str>)> {
        self.failing.first_key_value().map(|((since, _), handlers)| (*since, Arc::clone(handlers)))
    }

    /// Notes that an entry has failed and is unfinished.
    fn fails(&mut self, number: u64) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let tries = item.body.as_ref().map(|body| &body.tries);
        let Some((since, tries)) = tries.and_then(|tries| Some((tries.first_failed_at?, tries))) else {
            return;
        };
        if let Some(before) = item.failing_since.replace(since) {
            self.failing.remove(&(before, number));
        }
        self.failing.insert((since, number), tries.handlers().into());
    }

    /// That too many began to wait, or do so no more; handed out once.
    pub(super) fn take_crowding(&mut self) -> Option<Crowding> {
        self.crowding.take()
    }

    fn waits(&mut self) {
        self.waiters += 1;
        if self.waiters >= self.most_waiters && self.crowded_since.is_none() {
            self.crowded_since = Some(self.clock.now());
            self.crowding = Some(Crowding::Begins);
        }
    }

    /// It is over when a tenth of them is gone: else it would end and begin with each.
    fn waits_no_more(&mut self) {
        self.waiters -= 1;
        if self.waiters <= self.most_waiters - self.most_waiters.div_ceil(10) && self.crowded_since.take().is_some() {
            self.crowding = Some(Crowding::Ends);
        }
    }

    /// Whether a worker may find something to do, now or when a delay has passed.
    pub(super) fn has_work(&self) -> bool {
        self.startable() > 0 || !self.waiting.is_empty() || !self.suspects.is_empty() || !self.due.is_empty()
    }

    /// How many could be started now.
    pub(super) fn startable(&self) -> usize {
        self.ready.len() + self.ready_again.len()
    }

    /// How many more entries are to be read, beside some that are about to come.
    ///
    /// More are read when half of what the workers finish in a moment is gone, or when one of them has nothing to do:
    /// what it could do may all be parked behind what others do.
    ///
    /// Nothing is read while too many wait.
    pub(super) fn room(&self, coming: usize, bounds: Bounds) -> usize {
        if self.crowded_since.is_some() {
            return 0;
        }
        let (workers, window) = self.reach(bounds);
        // else those that are tried again one after the other would leave no room for new ones
        let are_more_again = self.reading + self.ready_again.len() + self.due.len() > 0;
        let running_again = if are_more_again { self.running_again } else { 0 };
        let idle = match self.ready.len() {
            0 => (workers + running_again).saturating_sub(self.running + coming),
            _ => 0,
        };
        let active = self.active.saturating_sub(self.ready_again.len() + running_again) + coming;
        if active > window / 2 && idle == 0 {
            return 0;
        }
        let free = bounds.entries.saturating_sub(self.in_flight() + self.reading + coming);
        self.fitting(window.saturating_sub(active).max(idle).min(free), self.reading + coming, bounds)
    }

    /// Whether there is something new to be started, or about to be read: at once, or as soon as it is written down that
    /// others are done with.
    fn has_new(&self, bounds: Bounds) -> bool {
        let is_read = || self.settled > 0 || self.room(0, bounds) > 0;
        !self.ready.is_empty() || (self.more_follows && self.crowded_since.is_none() && is_read())
    }

    /// Says whether there is more to be read that is new. Returns `true` if that has changed.
    pub(super) const fn more_follows(&mut self, follows: bool) -> bool {
        let has_changed = self.more_follows != follows;
        self.more_follows = follows;
        has_changed
    }

    /// How many of those that are due are to be read again now: a share of what is read ahead, a larger one where nothing
    /// else is to be started, as soon as half of it is gone.
    pub(super) fn due_room(&self, bounds: Bounds) -> usize {
        if self.due.is_empty() {
            return 0;
        }
        let (workers, window) = self.reach(bounds);
        let share = match self.has_new(bounds) {
            false => window / 4,
            true => window / NEW_BEFORE_ONE_AGAIN,
        };
        let (share, ahead) = (share.max(workers), self.reading + self.ready_again.len());
        if ahead > share / 2 {
            return 0;
        }
        let idle = match self.startable() {
            0 => workers.saturating_sub(self.running + self.reading),
            _ => 0,
        };
        // suspects, which run one at a time, are not to take all the room
        let room = (window + share).saturating_sub(self.suspects.len() + ahead).max(idle);
        let free = bounds.entries.saturating_sub(self.in_flight() + self.reading);
        self.fitting((share - ahead).min(self.due.len()).min(room).min(free), self.reading, bounds)
    }

    /// How many fit beside what is in flight, which is never none if that is nothing.
    pub(super) fn free(&self, bounds: Bounds) -> usize {
        let in_flight = self.in_flight();
        let fitting = self.pace.fitting(bounds.bytes.saturating_sub(self.bytes));
        bounds.entries.saturating_sub(in_flight).min(fitting.max(usize::from(in_flight == 0)))
    }

    /// How many workers there are, and how many entries they finish in a moment.
    pub(super) fn reach(&self, bounds: Bounds) -> (usize, usize) {
        let workers = self.workers.max(1);
        (workers, self.pace.window(workers, bounds.entries))
    }

    /// How many of those that are wanted fit in beside some that are about to come: at least one if there is nothing else.
    fn fitting(&self, wanted: usize, coming: usize, bounds: Bounds) -> usize {
        if self.in_flight() == 0 && coming == 0 {
            return wanted.min(self.pace.fitting(bounds.bytes).max(1));
        }
        let coming_bytes = self.pace.bytes_of(coming);
        wanted.min(self.pace.fitting(bounds.bytes.saturating_sub(self.bytes).saturating_sub(coming_bytes)))
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn contains(&self, id: &MessageId) -> bool {
        self.numbers.contains_key(id)
    }

    /// The ids of all entries, unsorted.
    pub(super) fn ids(&self) -> Vec<MessageId> {
        self.numbers.keys().cloned().collect()
    }

    /// What is to be written down, in order; it is handed out once.
    pub(super) fn drain(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.outbox)
    }

    /// How many wait to be written down.
    pub(super) fn unwritten(&self) -> usize {
        self.outbox.len()
    }

    /// Takes an entry in. False: it is there already.
    pub(super) fn add(&mut self, taken: Taken, now: Instant) -> bool {
        let Taken { id, record, mut tries, is_left_over } = taken;
        if self.contains(&id) {
            return false;
        }
        let lane = self.hasher.hash_one(record.metadata().stream());
        let bytes = bytes_of(&record);
        if self.is_empty() && self.last_end.is_some_and(|end| now.saturating_duration_since(end) > IDLE) {
            self.pace.begin_anew();
        }
        let verdict = self.examine(&mut tries, lane, is_left_over);
        let stage = if matches!(verdict, Some(Verdict::Bury(_))) { Stage::Burying } else { Stage::Parked };
        let body = Some(Box::new(Body { record: Some(record), tries, bytes, is_again: false }));
        let Some(number) = self.insert(Item { id, lane, stage, body, failing_since: None }) else {
            return false;
        };
        self.fails(number);
        self.pace.read(bytes);
        if let (Some(verdict), Some(item)) = (verdict, self.items.get(&number)) {
            self.outbox.push(item.settled(verdict));
        }
        let queue = self.lanes.entry(lane).or_default();
        let is_behind_waiters = queue.numbers.len() > queue.whole;
        queue.numbers.push_back(number);
        queue.whole += 1;
        queue.has_suspect |= is_left_over;
        let is_first = queue.numbers.len() == 1;
        if !queue.is_held {
            self.active += 1;
        }
        if is_first {
            self.activate(number, now);
        } else if is_behind_waiters {
            self.strip_one(number);
        }
        true
    }

    /// What is to be noted about an entry that is taken in, as its process has ended.
    fn examine(&self, tries: &mut Tries, lane: Lane, is_left_over: bool) -> Option<Verdict> {
        if tries.is_waiting(&self.clock) {
            return None;
        }
        if !is_left_over {
            tries.taken_from_living();
            return None;
        }
        if self.lanes.get(&lane).is_some_and(|queue| queue.has_suspect) {
            return None; // only the first of an aggregate is in flight
        }
        if tries.process_ended(&self.clock) {
            return Some(Verdict::Retry { tries: tries.clone(), after: tries.patience() });
        }
        tries.give_up_ending(&self.clock);
        Some(Verdict::Bury(tries.clone()))
    }

    /// Takes in what no handler can ever handle. False: it is there already.
    pub(super) fn add_hopeless(&mut self, id: MessageId, tries: Tries) -> bool {
        let body = Some(Box::new(Body { record: None, tries: tries.clone(), bytes: 0, is_again: false }));
        let item = Item { id, lane: 0, stage: Stage::Burying, body, failing_since: None };
        let settled = item.settled(Verdict::Bury(tries));
        let is_new = self.insert(item).is_some();
        if is_new {
            self.outbox.push(settled);
        }
        is_new
    }

    fn insert(&mut self, item: Item) -> Option<u64> {
        let number = self.next;
        match self.numbers.entry(item.id.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(number),
        };
        self.next += 1;
        self.bytes += item.body.as_ref().map_or(0, |body| body.bytes);
        self.items.insert(number, item);
        Some(number)
    }

    /// The first of its aggregate: may it start?
    fn activate(&mut self, number: u64, now: Instant) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let lane = item.lane;
        if self.held_back.contains_key(&lane) && !matches!(item.stage, Stage::Burying) {
            item.stage = Stage::Parked;
            self.hold(lane, true);
            return self.strip(lane);
        }
        let Some(body) = &item.body else {
            item.stage = Stage::Due { since: now, has_waited: false };
            self.due.insert((now, number));
            return self.hold(lane, false);
        };
        if matches!(item.stage, Stage::Burying) {
            return self.hold(lane, true); // the next of its aggregate waits until it is a dead letter
        }
        let wait = body.tries.wait(&self.clock);
        if !wait.is_zero() {
            return self.wait(number, now + wait);
        }
        if body.tries.is_suspect() {
            item.stage = Stage::Suspect;
            self.suspects.insert((body.tries.ended_alone, number));
        } else {
            item.stage = Stage::Ready;
            let ready = if body.is_again { &mut self.ready_again } else { &mut self.ready };
            ready.insert(number);
        }
        self.hold(lane, false);
    }

    /// Parks what comes of an aggregate until it is released.
    pub(super) fn hold_back(&mut self, stream: &StreamId, now: Instant) {
        let lane = self.hasher.hash_one(stream);
        *self.held_back.entry(lane).or_default() += 1;
        if let Some(first) = self.first_of(lane)
            && (self.ready.remove(&first) || self.ready_again.remove(&first))
        {
            self.activate(first, now);
        }
    }

    /// Lets the first of an aggregate start.
    pub(super) fn release(&mut self, stream: &StreamId, now: Instant) {
        let lane = self.hasher.hash_one(stream);
        match self.held_back.get_mut(&lane) {
            Some(times) if *times > 1 => return *times -= 1,
            Some(_) => drop(self.held_back.remove(&lane)),
            None => return,
        }
        if let Some(first) = self.first_of(lane)
            && self.items.get(&first).is_some_and(|item| matches!(item.stage, Stage::Parked))
        {
            self.activate(first, now);
        }
    }

    fn first_of(&self, lane: Lane) -> Option<u64> {
        self.lanes.get(&lane)?.numbers.front().copied()
    }

    /// How many have failed and are tried again, or are parked behind one of those.
    pub(super) fn retried(&self) -> usize {
        let is_retried = |number: &u64| {
            self.items.get(number).is_some_and(|item| match &item.stage {
                Stage::Waiting { .. }
                | Stage::Due { has_waited: true, .. }
                | Stage::Reading { has_waited: true, .. } => true,
                _ => item.body.as_ref().is_some_and(|body| body.tries.attempts > 0),
            })
        };
        let retried = self.lanes.values().filter(|queue| queue.numbers.front().is_some_and(is_retried));
        retried.map(|queue| queue.numbers.len()).sum()
    }

    /// The first of its aggregate waits until then, and those behind it are parked for as long.
    fn wait(&mut self, number: u64, until: Instant) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let lane = item.lane;
        item.stage = Stage::Waiting { until, has_waited: true };
        self.waiting.insert((until, number));
        self.hold(lane, true);
        self.strip(lane);
    }

    /// Drops the events of those that are parked, and of a first one that waits: they are read again.
    fn strip(&mut self, lane: Lane) {
        let numbers = self.lanes.get(&lane).map(|queue| queue.numbers.iter().copied());
        // those that were stripped before come behind the others
        let is_whole = |number: &u64| self.items.get(number).is_some_and(|item| item.body.is_some());
        let whole: Vec<u64> = numbers.into_iter().flatten().take_while(is_whole).collect();
        for number in whole {
            self.strip_one(number);
        }
    }

    fn strip_one(&mut self, number: u64) {
        let Some(item) = self.items.get_mut(&number).filter(|item| item.can_be_read_later()) else {
            return;
        };
        let Some(body) = item.body.take() else {
            return;
        };
        self.bytes -= body.bytes;
        if let Some(queue) = self.lanes.get_mut(&item.lane) {
            queue.whole -= 1;
            if !queue.is_held {
                self.active -= 1;
            }
        }
        self.waits();
    }

    /// Says whether the first of a queue waits, and with it all others.
    fn hold(&mut self, lane: Lane, is_held: bool) {
        if let Some(queue) = self.lanes.get_mut(&lane)
            && queue.is_held != is_held
        {
            queue.is_held = is_held;
            match is_held {
                true => self.active -= queue.whole,
                false => self.active += queue.whole,
            }
        }
    }

    /// What a worker is to do: the first that came of those that may start, suspects apart, and now and then one that was
    /// read again.
    pub(super) fn take(
        &mut self,
        worker: &Arc<Notify>,
        place: Option<Place>,
        workers: usize,
        now: Instant,
        bounds: Bounds,
    ) -> Turn {
        self.workers = workers;
        self.wake(now);
        let next_due = self.waiting.first().map(|(at, _)| *at);
        let Some(place) = place else {
            return if self.startable() == 0 { Turn::Idle(next_due) } else { Turn::NoPlace(next_due) };
        };
        match self.next_ready(bounds).and_then(|number| self.run(number, worker, now)) {
            Some(job) => Turn::Work(job, place),
            None => Turn::Idle(next_due),
        }
    }

    /// The entry that is to start next, which is ready no more; none if a new one is about to be read, whose turn it is.
    fn next_ready(&mut self, bounds: Bounds) -> Option<u64> {
        if (self.new_before_again == 0 || !self.has_new(bounds))
            && let Some(again) = self.ready_again.pop_first()
        {
            self.new_before_again = NEW_BEFORE_ONE_AGAIN;
            return Some(again);
        }
        let new = self.ready.pop_first()?;
        self.new_before_again = self.new_before_again.saturating_sub(1);
        Some(new)
    }

    fn run(&mut self, number: u64, worker: &Arc<Notify>, now: Instant) -> Option<Job> {
        let item = self.items.get_mut(&number)?;
        let body = item.body.as_ref()?;
        let record = body.record.clone()?;
        item.stage = Stage::Running(Arc::clone(worker), now);
        self.running += 1;
        self.running_again += usize::from(body.is_again);
        Some(Job { number, id: item.id.clone(), record, tries: body.tries.clone() })
    }

    /// The suspect that is to run next: of those that may, one that ran alone in vain least often. One that did before
    /// waits until all is read that is due and that there is room for, as a less likely one may be among that: else it
    /// would end the process first, each time again.
    pub(super) fn next_suspect(&mut self, now: Instant, bounds: Bounds) -> Due {
        self.wake(now);
        let is_read = self.reading == 0 && self.due_room(bounds) == 0;
        let body = |number| self.items.get(number)?.body.as_ref();
        let next = self.suspects.first().filter(|(ended_alone, _)| *ended_alone == 0 || is_read);
        match next.and_then(|(_, number)| Some((*number, body(number)?))) {
            Some((number, body)) => Due::Now(number, body.tries.patience()),
            None => Due::Later(self.waiting.first().map(|(at, _)| *at)),
        }
    }

    /// Has it written down that a suspect begins. Returns `false` if it is in hand no more.
    pub(super) fn mark(&mut self, number: u64, is_alone: bool) -> bool {
        let Some(item) = self.items.get_mut(&number).filter(|item| matches!(item.stage, Stage::Suspect)) else {
            return false;
        };
        self.suspects.remove(&(item.ended_alone(), number));
        item.stage = Stage::Marking { is_alone };
        let Some(body) = &mut item.body else {
            return false;
        };
        body.tries.begin(is_alone);
        let begins = Verdict::Begin(body.tries.clone());
        self.outbox.push(item.settled(begins));
        true
    }

    /// A suspect whose beginning is written down, to be handled.
    pub(super) fn take_marked(&mut self, number: u64, worker: &Arc<Notify>, now: Instant) -> Marked {
        match self.items.get(&number).map(|item| &item.stage) {
            Some(Stage::Marked { .. }) => self.run(number, worker, now).map_or(Marked::Gone, Marked::Begins),
            Some(Stage::Marking { .. }) => Marked::NotYet,
            _ => Marked::Gone,
        }
    }

    /// Those that have waited long enough are due.
    fn wake(&mut self, now: Instant) {
        while let Some((since, number)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.pop_first();
            if let Some(item) = self.items.get_mut(&number)
                && let Stage::Waiting { has_waited, .. } = item.stage
            {
                let lane = item.lane;
                item.stage = Stage::Due { since, has_waited };
                self.due.insert((since, number));
                self.hold(lane, false);
            }
        }
    }

    /// What is to be read again now, those first that are due for longest; each is handed out once.
    pub(super) fn take_due(&mut self, now: Instant, bounds: Bounds) -> Vec<DueAgain> {
        self.wake(now);
        let mut taken = Vec::new();
        for _ in 0..self.due_room(bounds) {
            let Some((_, number)) = self.due.pop_first() else { break };
            if let Some(item) = self.items.get_mut(&number)
                && let Stage::Due { since, has_waited } = item.stage
            {
                item.stage = Stage::Reading { since, has_waited };
                self.reading += 1;
                taken.push(DueAgain { id: item.id.clone(), has_waited });
            }
        }
        taken
    }

    /// An entry was read again. Returns `false` if it is not wanted any more.
    pub(super) fn resume(&mut self, taken: Taken, now: Instant) -> bool {
        let Some((number, _, has_waited)) = self.reading(&taken.id) else {
            return false;
        };
        let Taken { record, mut tries, .. } = taken;
        if has_waited {
            tries.next_at = None; // it has waited by our clock; another one's may differ
        }
        let Some(item) = self.items.get_mut(&number) else {
            return false;
        };
        let (bytes, lane) = (bytes_of(&record), item.lane);
        item.stage = Stage::Parked;
        item.body = Some(Box::new(Body { record: Some(record), tries, bytes, is_again: true }));
        self.bytes += bytes;
        self.reading -= 1;
        self.waits_no_more();
        self.fails(number);
        self.pace.read(bytes);
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.whole += 1;
            if !queue.is_held {
                self.active += 1;
            }
        }
        self.activate(number, now);
        true
    }

    /// An entry could not be read again: it is still due.
    pub(super) fn not_read(&mut self, id: &MessageId) {
        if let Some((number, since, has_waited)) = self.reading(id)
            && let Some(item) = self.items.get_mut(&number)
        {
            item.stage = Stage::Due { since, has_waited };
            self.reading -= 1;
            self.due.insert((since, number));
        }
    }

    /// An entry that is being read again is put off: it is due again later.
    pub(super) fn put_off(&mut self, id: &MessageId, until: Instant) {
        if let Some((number, _, has_waited)) = self.reading(id)
            && let Some(item) = self.items.get_mut(&number)
        {
            let lane = item.lane;
            item.stage = Stage::Waiting { until, has_waited };
            self.reading -= 1;
            self.waiting.insert((until, number));
            self.hold(lane, true);
        }
    }

    /// An entry that is being read again, since when it was due, and whether it has waited.
    fn reading(&self, id: &MessageId) -> Option<(u64, Instant, bool)> {
        let number = *self.numbers.get(id)?;
        match self.items.get(&number)?.stage {
            Stage::Reading { since, has_waited } => Some((number, since, has_waited)),
            _ => None,
        }
    }

    /// It is written down that the entry is begun.
    pub(super) fn begin(&mut self, id: &MessageId) {
        let item = self.numbers.get(id).and_then(|number| self.items.get_mut(number));
        if let Some(item) = item
            && let Stage::Marking { is_alone } = item.stage
        {
            item.stage = Stage::Marked { is_alone };
        }
    }

    /// Whether a worker still has the entry.
    pub(super) fn is_running(&self, number: u64) -> bool {
        self.items.get(&number).is_some_and(|item| matches!(item.stage, Stage::Running(..)))
    }

    /// A worker has handled an entry. Returns `true` if something is to be written down; nothing happens if someone else
    /// has taken the entry over meanwhile.
    pub(super) fn settle(&mut self, number: u64, outcome: Outcome, policy: &RetryPolicy, now: Instant) -> bool {
        let Some(item) = self.items.get_mut(&number) else {
            return false;
        };
        let Stage::Running(_, since) = item.stage else {
            return false;
        };
        self.running -= 1;
        self.last_end = Some(now);
        let Some(body) = &mut item.body else {
            return false;
        };
        self.running_again -= usize::from(body.is_again);
        let Some(verdict) = Verdict::of(outcome, &mut body.tries, policy, &self.clock) else {
            if body.tries.is_suspect() {
                body.tries.taken_from_living();
                item.stage = Stage::Suspect;
                self.suspects.insert((body.tries.ended_alone, number));
            } else {
                item.stage = Stage::Ready;
                let ready = if body.is_again { &mut self.ready_again } else { &mut self.ready };
                ready.insert(number);
            }
            return false;
        };
        self.pace.ended(now.saturating_duration_since(since), self.workers);
        let lane = item.lane;
        match verdict {
            Verdict::Retry { after, .. } => {
                self.outbox.push(Settled { id: item.id.clone(), record: None, verdict });
                self.fails(number);
                self.wait(number, now + after);
            }
            Verdict::Bury(_) => {
                item.stage = Stage::Burying;
                self.outbox.push(item.settled(verdict));
                self.hold(lane, true);
            }
            _ => {
                // nobody needs the record here any more, and whoever gets it drops it outside of our lock
                let (record, bytes) = (body.record.take(), body.bytes);
                self.outbox.push(Settled { id: item.id.clone(), record, verdict });
                item.stage = Stage::Settled;
                self.settled += 1;
                item.body = None;
                self.bytes -= bytes;
                self.leave_lane(lane, number, true, now);
            }
        }
        true
    }

    /// Has an entry handled that was skipped, unless it was let go since: before the others of its aggregate of which none
    /// was started.
    pub(super) fn handle_skipped(&mut self, skipped: Settled, now: Instant) {
        let Settled { id, record: Some(record), verdict: Verdict::Skip(tries) } = skipped else {
            return;
        };
        let number = self.numbers.get(&id).copied();
        let Some((number, item)) = number.and_then(|number| Some((number, self.items.get_mut(&number)?))) else {
            return;
        };
        if !matches!(item.stage, Stage::Settled) {
            return;
        }
        let (lane, bytes) = (item.lane, bytes_of(&record));
        item.stage = Stage::Parked;
        item.body = Some(Box::new(Body { record: Some(record), tries, bytes, is_again: false }));
        self.bytes += bytes;
        self.settled -= 1;
        let first = self.first_of(lane);
        let is_before = first.is_none_or(|first| self.ready.remove(&first) || self.ready_again.remove(&first));
        if is_before && let Some(first) = first.and_then(|first| self.items.get_mut(&first)) {
            first.stage = Stage::Parked;
        }
        let queue = self.lanes.entry(lane).or_default();
        let is_behind_waiters = queue.numbers.len() > queue.whole;
        queue.numbers.insert(usize::from(!is_before), number);
        queue.whole += 1;
        if !queue.is_held {
            self.active += 1;
        }
        if is_before {
            self.activate(number, now);
        } else if is_behind_waiters {
            self.strip_one(number);
        }
    }

    /// Lets an entry go, whatever its stage; a worker that has it is told. False: it was not there.
    pub(super) fn remove(&mut self, id: &MessageId, now: Instant) -> bool {
        let Some(number) = self.numbers.remove(id) else {
            return false;
        };
        let Some(item) = self.items.remove(&number) else {
            return false;
        };
        if let Some(since) = item.failing_since {
            self.failing.remove(&(since, number));
        }
        if matches!(item.stage, Stage::Settled) {
            self.settled -= 1;
            return true; // it has left its lane
        }
        match &item.body {
            Some(body) => self.bytes -= body.bytes,
            None => self.waits_no_more(),
        }
        let (is_whole, ended_alone) = (item.body.is_some(), item.ended_alone());
        let is_again = item.body.as_ref().is_some_and(|body| body.is_again);
        match item.stage {
            Stage::Running(worker, _) => {
                self.running -= 1;
                self.running_again -= usize::from(is_again);
                worker.notify_one();
            }
            Stage::Waiting { until, .. } => drop(self.waiting.remove(&(until, number))),
            Stage::Ready if is_again => drop(self.ready_again.remove(&number)),
            Stage::Ready => drop(self.ready.remove(&number)),
            Stage::Suspect => drop(self.suspects.remove(&(ended_alone, number))),
            Stage::Due { since, .. } => drop(self.due.remove(&(since, number))),
            Stage::Reading { .. } => self.reading -= 1,
            Stage::Parked | Stage::Marking { .. } | Stage::Marked { .. } | Stage::Burying | Stage::Settled => {}
        }
        self.leave_lane(item.lane, number, is_whole, now);
        true
    }

    /// Lets go of everything that is neither being handled nor done with. Of a suspect that was to be begun it is not
    /// written down any more, or written down that it was not.
    pub(super) fn remove_idle(&mut self, which: impl Fn(&MessageId) -> bool) -> Vec<MessageId> {
        let is_busy = |item: &Item| matches!(item.stage, Stage::Running(..) | Stage::Settled | Stage::Burying);
        let is_idle = |item: &&Item| !is_busy(item) && which(&item.id);
        let ids: Vec<_> = self.items.values().filter(is_idle).map(|item| item.id.clone()).collect();
        let mut not_begun = HashMap::new();
        for item in self.items.values_mut().filter(|item| which(&item.id)) {
            if let Stage::Marking { is_alone } | Stage::Marked { is_alone } = item.stage {
                not_begun.extend(item.not_begun(is_alone, &self.clock).map(|settled| (settled.id.clone(), settled)));
            }
        }
        let now = self.clock.instant();
        for id in &ids {
            self.remove(id, now);
        }
        self.outbox.retain(|settled| {
            let is_begin = matches!(settled.verdict, Verdict::Begin(_));
            !is_begin || not_begun.remove(&settled.id).is_none()
        });
        self.outbox.extend(not_begun.into_values());
        ids
    }

    /// The entry does not hold up others of its aggregate any more.
    fn leave_lane(&mut self, lane: Lane, number: u64, is_whole: bool, now: Instant) {
        let Some(queue) = self.lanes.get_mut(&lane) else {
            return;
        };
        let was_first = queue.numbers.front() == Some(&number);
        if was_first {
            queue.numbers.pop_front();
        } else if let Some(place) = queue.numbers.iter().position(|other| *other == number) {
            queue.numbers.remove(place);
        } else {
            return; // what is no event has no aggregate
        }
        if is_whole {
            queue.whole -= 1;
            if !queue.is_held {
                self.active -= 1;
            }
        }
        match queue.numbers.front().copied() {
            None => drop(self.lanes.remove(&lane)),
            Some(next) if was_first => self.activate(next, now),
            Some(_) => {}
        }
    }
}

/// How many bytes of memory an event takes, about.
fn bytes_of(record: &RecordedEvent) -> usize {
    let metadata = record.metadata();
    OVERHEAD + record.payload().len() + metadata.aggregate_id().as_str().len() + metadata.attributes().as_json().len()
}
