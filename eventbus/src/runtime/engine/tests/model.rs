//! The model test of a handler's progress: random programs of appends, runs, saves, crashes and releases, by owners that
//! take different types, on the store in memory.
//!
//! The reference is the list of events with what happened to each. It says which events may start, and after everything
//! has run, that none is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{FutureExt as _, TryStreamExt as _};
use proptest::prelude::*;

use super::super::{
    feed_window::Page,
    handler_queue::{HandlerQueue, HandlerSpec, MAX_WAITING, Wanted},
    shard::{End, Restored, Taken},
    slots::Slots,
};
use crate::{
    InMemoryEventStore,
    delivery::{ActiveSubscriber, Limits},
    domain::{
        clock::SharedClock,
        event::{EventDescriptor, EventFilter, Source},
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, Position, StreamId},
    },
    port::{
        AppendEvents as _, HandlerProgress as _, ReadFeed as _,
        attempts::DeliveryAttempts,
        handler_progress::{Member, NotedHandler, Saved, ShardId},
        retry::RetryPolicy,
        subscriber::{HandlerOptions, HandlerStart, Subscriber},
    },
    testkit::ManualClock,
};

const HANDLER: Name = Name::from_static("mail");

const fn event(name: &'static str) -> EventDescriptor {
    EventDescriptor::new(name, "Order", 1, "", Source::new("", 0, ""))
}

static PLACED: [EventDescriptor; 1] = [event("Placed")];
static BOTH: [EventDescriptor; 2] = [event("Paid"), event("Placed")];
const TYPES: [&str; 2] = ["Placed", "Paid"];

/// A release of the program: the types that its handler takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    Placed,
    Both,
    All,
}

impl Release {
    const fn events(self) -> EventFilter {
        match self {
            Self::Placed => EventFilter::Only(&PLACED),
            Self::Both => EventFilter::Only(&BOTH),
            Self::All => EventFilter::All,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An event of a stream is appended.
    Append {
        stream: u8,
        of_type: usize,
    },
    /// The handler reads up to this many events.
    Feed(usize),
    /// A worker takes the next event.
    Take,
    TakeAlone,
    /// One of the runs ends.
    End {
        run: usize,
        outcome: Outcome,
    },
    Save,
    /// A save that the store makes or not, and whose answer is lost.
    UncertainSave {
        is_made: bool,
    },
    Advance(u64),
    /// The process dies, and one of a release starts.
    Crash(Release),
    /// The process ends in good order, and one of a release starts.
    Restart(Release),
    Replay,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Done,
    Retry,
    Dead,
    Held,
    Newer,
}

fn release() -> impl Strategy<Value = Release> {
    prop_oneof![Just(Release::Placed), Just(Release::Both), Just(Release::All)]
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Done), 2 => Just(Outcome::Retry), 1 => Just(Outcome::Dead), 1 => Just(Outcome::Held),
        1 => Just(Outcome::Newer),
    ];
    prop_oneof![
        6 => (0..4_u8, 0..2_usize).prop_map(|(stream, of_type)| Step::Append { stream, of_type }),
        4 => (1..9_usize).prop_map(Step::Feed),
        8 => Just(Step::Take),
        2 => Just(Step::TakeAlone),
        8 => (0..4_usize, outcome).prop_map(|(run, outcome)| Step::End { run, outcome }),
        4 => Just(Step::Save),
        1 => any::<bool>().prop_map(|is_made| Step::UncertainSave { is_made }),
        2 => (1..5_000_u64).prop_map(Step::Advance),
        1 => release().prop_map(Step::Crash),
        1 => release().prop_map(Step::Restart),
        1 => Just(Step::Replay),
    ]
}

/// An event, and what happened to it.
#[derive(Debug)]
struct Reference {
    stream: u8,
    event_type: &'static str,
    has_ended: bool,
    /// Set if it ended before the last save: it must not start again.
    is_saved: bool,
}

struct World {
    store: InMemoryEventStore,
    clock: ManualClock,
    events: BTreeMap<Position, Reference>,
    queue: HandlerQueue,
    member: Name,
    starts: usize,
    noted: NotedHandler,
    release: Release,
    runs: Vec<Taken>,
    /// The types that some owner did not take: their events may come late.
    left: BTreeSet<&'static str>,
}

fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("the store in memory answers at once")
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new();
        let store = InMemoryEventStore::with_clock(clock.clone());
        let release = Release::Both;
        let (queue, noted) = (new_queue(release, &clock), NotedHandler::created(HANDLER, HANDLER, Position::START));
        let mut world = Self {
            store,
            clock,
            events: BTreeMap::new(),
            queue,
            member: HANDLER,
            starts: 0,
            noted,
            release,
            runs: Vec::new(),
            left: BTreeSet::new(),
        };
        world.start(release, None);
        world
    }

    fn shared_clock(&self) -> SharedClock {
        SharedClock::new(self.clock.clone())
    }

    /// Starts a process of a release, whose guard is forgotten: only `leave` ends it.
    fn start(&mut self, release: Release, former: Option<Name>) {
        if let Some(former) = former {
            now(self.store.leave(&former)).unwrap();
        }
        self.starts += 1;
        self.member = Name::numbered(&HANDLER, self.starts);
        self.queue = new_queue(release, &self.clock);
        self.release = release;
        self.left.extend(TYPES.into_iter().filter(|name| !release.events().matches(name)));
        let head = now(self.store.head()).unwrap();
        let mut declared = now(self.store.declare_handlers(&[self.queue.spec.declared()], head)).unwrap();
        self.noted = declared.remove(0);
        self.queue.set_shard_count(self.noted.shards);
        let member = Member { name: self.member.clone(), handlers: BTreeMap::new() };
        std::mem::forget(now(self.store.join(&member)).unwrap());
        self.acquire();
    }

    fn acquire(&mut self) {
        let shard = ShardId { handler: HANDLER, number: 0 };
        let wanted = std::slice::from_ref(&shard);
        let acquired =
            now(self.store.acquire_shards(&self.member, wanted, std::time::Duration::MAX)).unwrap().remove(0);
        let rows = now(self.store.live_rows(&[shard])).unwrap().into_values().next().unwrap_or_default();
        let mut rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.position, row)).collect();
        let listed = acquired.waiting.iter().chain(&acquired.started).copied();
        let positions: BTreeSet<Position> = listed.chain(rows.keys().copied()).collect();
        let restored = positions.into_iter().map(|position| {
            let event = now(self.store.read_events_at(&[position])).remove(0).unwrap().unwrap();
            Restored { position, event, row: rows.remove(&position) }
        });
        let clock = self.shared_clock();
        let head = now(self.store.head()).unwrap();
        self.queue.acquire(&acquired, restored.collect(), (&self.noted.types, head), None, &clock);
        self.runs = Vec::new();
        // an event that has ended too many processes is a dead letter now
        self.save(true, true);
        for dead in now(self.store.dead_rows(None, usize::MAX)).unwrap() {
            if let Some(event) = self.events.get_mut(&dead.position).filter(|_| !dead.is_held) {
                (event.has_ended, event.is_saved) = (true, true);
            }
        }
    }

    fn append(&mut self, stream: u8, of_type: usize) {
        let id = StreamId::parse("Order", &stream.to_string()).unwrap();
        let event = NewEvent::new(Name::from_static(TYPES[of_type]), 1, "{}");
        let recorded = now(self.store.append(&id, ExpectedVersion::Any, vec![event])).unwrap();
        let reference = Reference { stream, event_type: TYPES[of_type], has_ended: false, is_saved: false };
        self.events.insert(recorded[0].position().unwrap(), reference);
    }

    fn feed(&mut self, most: usize) {
        let clock = self.shared_clock();
        let head = now(self.store.head()).unwrap();
        match self.queue.wanted() {
            None => {}
            Some(wanted @ Wanted::Left { after, through, .. }) => {
                let (events, through) = self.read(after, through, most);
                self.queue.offer_left(&wanted, through, events, &clock);
            }
            Some(Wanted::After(after)) => {
                let (events, through) = self.read(after, head, most);
                self.queue.offer(&Page { after, through, events, slots: Slots::ALL }, &clock);
            }
        }
    }

    fn read(&self, after: Position, through: Position, most: usize) -> (Vec<RecordedEvent>, Position) {
        let filter = crate::port::FeedFilter::all();
        let mut events: Vec<_> = now(self.store.read_feed(after, through, &filter).try_collect::<Vec<_>>()).unwrap();
        if events.len() > most {
            events.truncate(most);
            let last = events.last().and_then(RecordedEvent::position).unwrap();
            return (events, last);
        }
        (events, through)
    }

    /// Checks that an event may start.
    fn check_start(&self, taken: &Taken) {
        let started = &self.events[&taken.position];
        assert!(!started.is_saved, "{} starts again, though its end was saved", taken.position);
        assert!(self.release.events().matches(started.event_type), "{} is not taken", taken.position);
        let is_same = |run: &&Taken| self.events[&run.position].stream == started.stream;
        assert_eq!(self.runs.iter().find(is_same).map(|run| run.position), None, "one run of a stream at a time");
        let mut before = self.events.range(..taken.position).filter(|(_, event)| event.stream == started.stream);
        let overtaken = before.find(|(_, event)| !event.has_ended && !self.left.contains(event.event_type));
        assert_eq!(overtaken.map(|(position, _)| *position), None, "{} overtakes it", taken.position);
    }

    fn begin(&mut self, taken: Option<Taken>) {
        if let Some(taken) = taken {
            self.check_start(&taken);
            self.runs.push(taken);
        }
    }

    fn end(&mut self, run: usize, outcome: Outcome) {
        if self.runs.is_empty() {
            return;
        }
        let taken = self.runs.remove(run % self.runs.len());
        let clock = self.shared_clock();
        let mut attempts = taken.attempts.clone();
        let event = self.events.get_mut(&taken.position).unwrap();
        let end = match outcome {
            Outcome::Done => {
                event.has_ended = true;
                End::Done
            }
            Outcome::Retry => {
                attempts.reset_process_ends();
                End::Retry(attempts, clock.unix_millis() + 1_000)
            }
            Outcome::Dead | Outcome::Held => {
                let is_held = matches!(outcome, Outcome::Held);
                event.has_ended = !is_held;
                End::Dead { attempts: DeliveryAttempts::default(), since: clock.now(), is_held }
            }
            Outcome::Newer => End::Newer(DeliveryAttempts::default()),
        };
        if taken.is_alone {
            self.queue.end(&taken, end, &clock);
        } else {
            let next = self.queue.next(Some((taken, end)), &clock).taken;
            self.begin(next);
        }
    }

    /// Lets workers take what is ready.
    fn take(&mut self) -> bool {
        let clock = self.shared_clock();
        let claimed = self.queue.claim_workers(&clock);
        for _ in 0..claimed {
            let taken = self.queue.next(None, &clock).taken;
            self.begin(taken);
        }
        claimed > 0
    }

    fn save(&mut self, is_made: bool, is_answered: bool) {
        for save in self.queue.save(false) {
            assert!(save.waiting.len() <= 256, "{} events wait", save.waiting.len());
            if is_made {
                let answer = now(self.store.save_shards(&self.member, None, std::slice::from_ref(&save))).unwrap();
                assert_eq!(answer, Saved::Held(BTreeSet::from([save.shard.clone()])));
            }
            match is_made && is_answered {
                true => self.queue.saved(&save),
                false => self.queue.unsave(save),
            }
        }
        if is_made {
            // a dead letter that is replayed starts again
            self.events.values_mut().filter(|event| event.has_ended).for_each(|event| event.is_saved = true);
        }
    }

    fn restart(&mut self, release: Release, is_crash: bool) {
        if !is_crash {
            while !self.runs.is_empty() {
                self.end(0, Outcome::Done);
            }
            self.queue.begin_release(None);
            self.save(true, true);
            assert_eq!(self.queue.owned(), [], "the shard is released");
        }
        // what ended after the last save is not known any more
        self.events.values_mut().for_each(|event| event.has_ended &= event.is_saved);
        self.start(release, Some(self.member.clone()));
    }

    fn replay(&mut self) {
        self.save(true, true);
        let Some(dead) = now(self.store.dead_rows(None, 1)).unwrap().pop() else { return };
        assert!(now(self.store.replay_dead(&HANDLER, dead.position)).unwrap());
        let event = self.events.get_mut(&dead.position).unwrap();
        (event.has_ended, event.is_saved) = (false, false);
        // its stream has gone on without it
        self.left.insert(event.event_type);
        self.apply_changes();
    }

    fn apply_changes(&mut self) {
        let shard = ShardId { handler: HANDLER, number: 0 };
        let rows = now(self.store.live_rows(&[shard])).unwrap().into_values().next().unwrap_or_default();
        let live = rows.iter().map(|row| row.position).collect();
        let takes = |event: &RecordedEvent| self.release.events().matches(event.event_type());
        let missing = self.queue.missing_rows(0, rows).into_iter().map(|row| {
            let event = now(self.store.read_events_at(&[row.position])).remove(0).unwrap().unwrap();
            (event, row)
        });
        let replayed = missing.filter(|(event, _)| takes(event)).collect();
        self.queue.apply_changes((0, 1), replayed, &live, &self.shared_clock());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { stream, of_type } => self.append(stream, of_type),
            Step::Feed(most) => self.feed(most),
            Step::Take => {
                self.take();
            }
            Step::TakeAlone => {
                if self.runs.is_empty() && self.queue.wait_to_run_alone().is_some() {
                    let taken = self.queue.take_alone(true);
                    self.begin(taken);
                    self.save(true, true);
                }
            }
            Step::End { run, outcome } => self.end(run, outcome),
            Step::Save => self.save(true, true),
            Step::UncertainSave { is_made } => self.save(is_made, false),
            Step::Advance(millis) => self.clock.advance(std::time::Duration::from_millis(millis)),
            Step::Crash(release) => self.restart(release, true),
            Step::Restart(release) => self.restart(release, false),
            Step::Replay => self.replay(),
        }
    }

    /// Lets a process that takes all types run everything, and checks that no event is missing.
    fn finish(&mut self) {
        self.restart(Release::All, true);
        for dead in now(self.store.dead_rows(None, usize::MAX)).unwrap() {
            now(self.store.discard_dead(&HANDLER, dead.position)).unwrap();
            self.events.get_mut(&dead.position).unwrap().has_ended = true;
        }
        self.apply_changes();
        for _ in 0..10_000 {
            self.feed(100);
            if !self.take() {
                let taken = self.queue.take_alone(true);
                if taken.is_none() && self.queue.progress(now(self.store.head()).unwrap()).is_idle {
                    break;
                }
                if taken.is_none() {
                    self.clock.advance(std::time::Duration::from_secs(60));
                }
                self.begin(taken);
            }
            while !self.runs.is_empty() {
                self.end(0, Outcome::Done);
            }
        }
        let lost: Vec<_> =
            self.events.iter().filter(|(_, event)| !event.has_ended).map(|(position, _)| *position).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        self.save(true, true);
        let listed = now(self.store.list_handlers()).unwrap().remove(0);
        assert_eq!((listed.waiting_rows, listed.dead_rows), (0, 0), "no row is left");
        let shard = &listed.shards[0];
        assert_eq!((shard.checkpoint, shard.waiting, shard.started), (now(self.store.head()).unwrap(), 0, 0));
        assert!(shard.left.is_empty(), "{:?}", shard.left);
    }
}

pub(super) fn new_queue(release: Release, clock: &ManualClock) -> HandlerQueue {
    let spec = HandlerSpec {
        name: HANDLER,
        group: HANDLER,
        events: release.events(),
        shards: 1,
        start: HandlerStart::Oldest,
        crate_name: String::new(),
        retry: RetryPolicy::default(),
        limits: Limits::default(),
        max_waiting: MAX_WAITING,
        holds_dead: false,
    };
    let options = HandlerOptions { concurrency: Some(100), ..HandlerOptions::default() };
    let subscriber = Subscriber::new(HANDLER, release.events(), |_| Box::pin(async { Ok(()) })).with_options(options);
    HandlerQueue::new(spec, Arc::new(ActiveSubscriber::new(HANDLER, subscriber)), SharedClock::new(clock.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_event_is_lost_or_overtaken_by_one_of_its_stream_or_repeated_after_its_save(
        steps in proptest::collection::vec(step(), 0..200)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
    }
}
