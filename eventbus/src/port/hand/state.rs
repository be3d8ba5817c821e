//! The state of what a consumer has in hand: no tasks, no locks.
//!
//! Keep: of one aggregate only the first entry in hand is startable; the others are parked behind it until it is done
//! with. An entry leaves the hand when what became of it is written down, or when someone else has taken it over.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Settled, Taken, Verdict,
    pace::Pace,
    suspect::{Due, Marked},
};
use crate::{
    domain::{clock::SharedClock, record::RecordedEvent},
    port::{MessageId, Outcome, RetryPolicy, Tries},
};

/// An aggregate, as far as order goes: two that share a number only wait for each other without need.
type Lane = u64;

/// What an event takes beside its texts, about.
const OVERHEAD: usize = 500;
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
    /// Nothing, if it is no event.
    record: Option<RecordedEvent>,
    tries: Tries,
    lane: Lane,
    stage: Stage,
    /// How many bytes of memory the event takes, about.
    bytes: usize,
}

impl Item {
    fn settled(&self, verdict: Verdict) -> Settled {
        Settled { id: self.id.clone(), record: self.record.clone(), verdict }
    }

    /// Takes back that a suspect is begun.
    fn not_begun(&mut self, is_alone: bool, clock: &SharedClock) -> Settled {
        self.tries.not_begun(is_alone, clock);
        self.settled(Verdict::Retry { tries: self.tries.clone(), after: Duration::ZERO })
    }
}

#[derive(Debug)]
enum Stage {
    /// Behind another entry of its aggregate.
    Parked,
    /// To be tried again later.
    Waiting(Instant),
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
    Work(Job),
    /// Nothing to do, until this time at most.
    Idle(Option<Instant>),
}

/// The entries of one aggregate, in the order they came.
#[derive(Debug, Default)]
struct Queue {
    numbers: VecDeque<u64>,
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

#[derive(Debug, Default)]
pub(super) struct State {
    hasher: RandomState,
    items: ByNumber<Item>,
    numbers: HashMap<MessageId, u64>,
    lanes: ByNumber<Queue>,
    /// How many entries are in queues that are not held: work for the workers.
    active: usize,
    running: usize,
    /// How many workers there are.
    workers: usize,
    /// The bytes of all events here.
    bytes: usize,
    pace: Pace,
    /// When the last delivery ended.
    last_end: Option<Instant>,
    ready: BTreeSet<u64>,
    /// Those that may run, with how often each ran alone in vain: the likely ones last.
    suspects: BTreeSet<(u32, u64)>,
    waiting: BTreeSet<(Instant, u64)>,
    /// What is to be written down, in order.
    outbox: Vec<Settled>,
    next: u64,
    clock: SharedClock,
}

impl State {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether a worker may find something to do, now or when a delay has passed.
    pub(super) fn has_work(&self) -> bool {
        self.startable() > 0 || !self.waiting.is_empty() || !self.suspects.is_empty()
    }

    /// How many could be started now.
    pub(super) fn startable(&self) -> usize {
        self.ready.len()
    }

    /// How many more entries are to be read, beside some that are about to come.
    ///
    /// More are read when half of what the workers finish in a moment is gone, or when one of them has nothing to do:
    /// what it could do may all be parked behind what others do.
    pub(super) fn room(&self, coming: usize, bounds: Bounds) -> usize {
        let workers = self.workers.max(1);
        let window = self.pace.window(workers, bounds.entries);
        let idle = match self.startable() {
            0 => workers.saturating_sub(self.running).saturating_sub(coming),
            _ => 0,
        };
        let active = self.active + coming;
        if active > window / 2 && idle == 0 {
            return 0;
        }
        let free = bounds.entries.saturating_sub(self.len()).saturating_sub(coming);
        let wanted = window.saturating_sub(active).max(idle).min(free);
        if self.is_empty() && coming == 0 {
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
        let item = Item { id, record: Some(record), tries, lane, stage, bytes };
        let Some(number) = self.insert(item) else {
            return false;
        };
        self.pace.read(bytes);
        let queue = self.lanes.entry(lane).or_default();
        queue.numbers.push_back(number);
        queue.has_suspect |= is_left_over;
        let is_first = queue.numbers.len() == 1;
        if !queue.is_held {
            self.active += 1;
        }
        if let (Some(verdict), Some(item)) = (verdict, self.items.get(&number)) {
            self.outbox.push(item.settled(verdict));
        }
        if is_first {
            self.activate(number, now);
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
        let item = Item { id, record: None, tries, lane: 0, stage: Stage::Burying, bytes: 0 };
        let settled = item.settled(Verdict::Bury(item.tries.clone()));
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
        self.bytes += item.bytes;
        self.items.insert(number, item);
        Some(number)
    }

    /// The first of its aggregate: may it start?
    fn activate(&mut self, number: u64, now: Instant) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let (lane, wait) = (item.lane, item.tries.wait(&self.clock));
        let is_buried = matches!(item.stage, Stage::Burying);
        if is_buried {
            // the next of its aggregate waits until it is a dead letter
        } else if !wait.is_zero() {
            item.stage = Stage::Waiting(now + wait);
            self.waiting.insert((now + wait, number));
        } else if item.tries.is_suspect() {
            item.stage = Stage::Suspect;
            self.suspects.insert((item.tries.ended_alone, number));
        } else {
            item.stage = Stage::Ready;
            self.ready.insert(number);
        }
        self.hold(lane, is_buried || !wait.is_zero());
    }

    /// Says whether the first of a queue waits, and with it all others.
    fn hold(&mut self, lane: Lane, is_held: bool) {
        if let Some(queue) = self.lanes.get_mut(&lane)
            && queue.is_held != is_held
        {
            queue.is_held = is_held;
            match is_held {
                true => self.active -= queue.numbers.len(),
                false => self.active += queue.numbers.len(),
            }
        }
    }

    /// What a worker is to do: the first that came of those that may start, suspects apart.
    pub(super) fn take(&mut self, worker: &Arc<Notify>, workers: usize, now: Instant) -> Turn {
        self.workers = workers;
        self.wake(now);
        match self.ready.pop_first().and_then(|number| self.run(number, worker, now)) {
            Some(job) => Turn::Work(job),
            None => Turn::Idle(self.waiting.first().map(|(at, _)| *at)),
        }
    }

    fn run(&mut self, number: u64, worker: &Arc<Notify>, now: Instant) -> Option<Job> {
        let item = self.items.get_mut(&number)?;
        let record = item.record.clone()?;
        item.stage = Stage::Running(Arc::clone(worker), now);
        self.running += 1;
        Some(Job { number, id: item.id.clone(), record, tries: item.tries.clone() })
    }

    /// The suspect that is to run next: of those that may, one that ran alone in vain least often.
    pub(super) fn next_suspect(&mut self, now: Instant) -> Due {
        self.wake(now);
        let next = self.suspects.first().and_then(|(_, number)| Some((*number, self.items.get(number)?)));
        match next {
            Some((number, item)) => Due::Now(number, item.tries.patience()),
            None => Due::Later(self.waiting.first().map(|(at, _)| *at)),
        }
    }

    /// Has it written down that a suspect begins. Returns `false` if it is in hand no more.
    pub(super) fn mark(&mut self, number: u64, is_alone: bool) -> bool {
        let Some(item) = self.items.get_mut(&number).filter(|item| matches!(item.stage, Stage::Suspect)) else {
            return false;
        };
        self.suspects.remove(&(item.tries.ended_alone, number));
        item.stage = Stage::Marking { is_alone };
        item.tries.begin(is_alone);
        self.outbox.push(item.settled(Verdict::Begin(item.tries.clone())));
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

    /// Those that have waited long enough may start.
    fn wake(&mut self, now: Instant) {
        while let Some((_, number)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.pop_first();
            if let Some(item) = self.items.get_mut(&number) {
                item.tries.next_at = None;
            }
            self.activate(number, now);
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
        let Some(verdict) = Verdict::of(outcome, &mut item.tries, policy, &self.clock) else {
            if item.tries.is_suspect() {
                item.tries.taken_from_living();
                item.stage = Stage::Suspect;
                self.suspects.insert((item.tries.ended_alone, number));
            } else {
                item.stage = Stage::Ready;
                self.ready.insert(number);
            }
            return false;
        };
        self.pace.ended(now.saturating_duration_since(since), self.workers);
        let lane = item.lane;
        let stage = match &verdict {
            Verdict::Retry { after, .. } => {
                self.waiting.insert((now + *after, number));
                Some(Stage::Waiting(now + *after))
            }
            Verdict::Bury(_) => Some(Stage::Burying),
            _ => None,
        };
        if let Some(stage) = stage {
            item.stage = stage;
            self.outbox.push(item.settled(verdict));
            self.hold(lane, true);
            return true;
        }
        // nobody needs the record here any more, and whoever gets it drops it outside of our lock
        self.outbox.push(Settled { id: item.id.clone(), record: item.record.take(), verdict });
        item.stage = Stage::Settled;
        self.bytes -= std::mem::take(&mut item.bytes);
        self.leave_lane(lane, number, now);
        true
    }

    /// Lets an entry go, whatever its stage; a worker that has it is told. False: it was not there.
    pub(super) fn remove(&mut self, id: &MessageId, now: Instant) -> bool {
        let Some(number) = self.numbers.remove(id) else {
            return false;
        };
        let Some(item) = self.items.remove(&number) else {
            return false;
        };
        self.bytes -= item.bytes;
        match item.stage {
            Stage::Settled => return true, // it has left its lane
            Stage::Running(worker, _) => {
                self.running -= 1;
                worker.notify_one();
            }
            Stage::Waiting(at) => drop(self.waiting.remove(&(at, number))),
            Stage::Ready => drop(self.ready.remove(&number)),
            Stage::Suspect => drop(self.suspects.remove(&(item.tries.ended_alone, number))),
            Stage::Parked | Stage::Marking { .. } | Stage::Marked { .. } | Stage::Burying => {}
        }
        self.leave_lane(item.lane, number, now);
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
                not_begun.insert(item.id.clone(), item.not_begun(is_alone, &self.clock));
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
    fn leave_lane(&mut self, lane: Lane, number: u64, now: Instant) {
        let Some(queue) = self.lanes.get_mut(&lane) else {
            return;
        };
        let was_first = queue.numbers.front() == Some(&number);
        let before = queue.numbers.len();
        queue.numbers.retain(|other| *other != number);
        if !queue.is_held {
            self.active -= before - queue.numbers.len();
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
