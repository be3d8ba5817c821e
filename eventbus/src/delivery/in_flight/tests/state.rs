//! The state machine alone, without workers.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{super::state::*, *};
use crate::{delivery::Outcome, port::attempts::Failure};

struct Table {
    state: InFlightState,
    released: CancellationToken,
    now: Instant,
}

impl Table {
    fn with(entries: impl IntoIterator<Item = InFlightEntry>) -> Self {
        Self::bounded(BOUNDS, entries)
    }

    fn bounded(bounds: Bounds, entries: impl IntoIterator<Item = InFlightEntry>) -> Self {
        let (mut state, now) = (InFlightState::new(SharedClock::SYSTEM, bounds), Instant::now());
        for entry in entries {
            assert!(state.add(entry, now));
        }
        Self { state, released: CancellationToken::new(), now }
    }

    fn next(&mut self) -> Option<Job> {
        self.state.next_job(2, &self.released, self.now)
    }

    fn job(&mut self) -> Job {
        self.next().unwrap()
    }

    /// Returns `true` if the state has a disposition more.
    fn record_outcome(&mut self, number: u64, outcome: Outcome) -> bool {
        let before = self.state.unwritten();
        self.state.record_outcome(number, outcome, &RETRY, self.now);
        self.state.unwritten() > before
    }

    /// Starts with failed entries, each of its own aggregate, that are due now.
    fn with_due(bounds: Bounds, numbers: std::ops::RangeInclusive<u64>) -> Self {
        let mut table = Self::bounded(bounds, []);
        for number in numbers {
            assert!(table.state.add(entry(&number.to_string(), number), table.now));
            let job = table.job();
            assert!(table.record_outcome(job.number, later()));
        }
        table.state.take_disposed();
        table.pass(5);
        table
    }

    /// Lets seconds pass.
    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.state.expire_waits(self.now);
    }
}

/// Retries without limit.
const FOR_EVER: RetryPolicy = RetryPolicy { max_retries: None, ..RETRY };

const BOUNDS: Bounds = Bounds { entries: 100, bytes: 1_000_000, delayed: 100 };

fn later() -> Outcome {
    let later = HandlerError::retry_after(Duration::from_secs(5), "later");
    let failure = Failure { handler: Name::from_static("a"), retries: None, error: later };
    Outcome::Failed { failures: vec![failure], succeeded: Vec::new() }
}

fn handled() -> Outcome {
    Outcome::Handled { succeeded: Vec::new() }
}

#[test]
fn what_a_worker_does_not_have_is_not_settled() {
    let mut table = Table::with([entry("a", 1), entry("a", 2)]);
    let job = table.job();
    assert!(table.record_outcome(job.number, handled()));
    assert!(!table.record_outcome(job.number, handled()), "twice");
    assert!(!table.record_outcome(job.number + 1, handled()), "too early");
    assert!(!table.record_outcome(99, handled()));
    assert_eq!(table.state.take_disposed().len(), 1);
    assert_eq!(table.state.unwritten(), 0, "the outbox returns each once");
}

#[test]
fn letting_go_says_whether_it_was_there() {
    let mut table = Table::with([entry("a", 1), entry("a", 2), entry("a", 3)]);
    assert!(table.state.release(&id(2), table.now), "a blocked one, and the first stays the first");
    assert_eq!((table.job().id, table.state.startable()), (id(1), 0));
    assert!(table.state.release(&id(1), table.now));
    assert!(!table.state.release(&id(1), table.now));
    assert_eq!(table.job().id, id(3));
    assert_eq!(table.state.len(), 1);
}

#[test]
fn one_retry_runs_for_twenty_that_are_new_as_long_as_there_are_both() {
    let mut table = Table::with_due(BOUNDS, 1..=4);
    for number in 101..=150 {
        assert!(table.state.add(entry(&number.to_string(), number), table.now));
    }
    let mut order = Vec::new();
    for _ in 0..54 {
        let job = table.job();
        order.push(job.id.as_str().trim_end_matches("-0").parse::<u64>().unwrap());
        assert!(table.record_outcome(job.number, handled()));
    }
    let again: Vec<usize> = (0..54).filter(|place| order[*place] <= 4).collect();
    assert_eq!(again, [0, 21, 42, 53], "{order:?}");
    assert!(order.iter().filter(|number| **number > 100).is_sorted());
}

#[test]
fn a_worker_takes_the_entry_that_was_due_first() {
    let mut table = Table::with([entry("a", 1), entry("b", 2)]);
    let (first, second) = (table.job(), table.job());
    assert!(table.record_outcome(second.number, later()));
    table.now += Duration::from_secs(1);
    assert!(table.record_outcome(first.number, later()));
    table.pass(9);
    assert_eq!([table.job().id, table.job().id], [id(2), id(1)]);
}

#[test]
fn a_delivery_that_nobody_attended_to_is_first_again() {
    let mut table = Table::with([entry("a", 1), entry("b", 2)]);
    let job = table.job();
    assert!(!table.record_outcome(job.number, Outcome::Unattended));
    assert_eq!((table.state.unwritten(), table.job().id), (0, id(1)));
}

#[test]
fn a_retry_is_due_after_its_delay_and_keeps_its_attempts() {
    let mut table = Table::with([entry("a", 1)]);
    let job = table.job();
    assert!(table.record_outcome(job.number, later()));
    assert_eq!((table.state.startable(), table.state.next_wait()), (0, Some(table.now + Duration::from_secs(5))));
    table.pass(5);
    assert_eq!(table.job().attempts.attempts, 1);
    assert!(table.next().is_none());
}

#[test]
fn released_entries_leave_nothing() {
    let mut table = Table::with([redelivered("a", 1, DeliveryAttempts::default()), entry("b", 2)]);
    let later = DeliveryAttempts { next_at: Some(u64::MAX), last_failed_at: Some(0), ..DeliveryAttempts::default() };
    assert!(table.state.add(entry("c", 3).with_attempts(later), table.now));
    assert_eq!(table.job().id, id(2));
    for number in [1, 3, 2] {
        assert!(table.state.release(&id(number), table.now));
    }
    assert!(table.released.is_cancelled());
    let left = format!("{:?}", table.state);
    for empty in ["items", "numbers", "queues"] {
        assert!(left.contains(&format!("{empty}: {{}}")), "{left}");
    }
    for zero in ["running: 0", "held: Load { count: 0, bytes: 0 }", "delayed: Load { count: 0, bytes: 0 }"] {
        assert!(left.contains(&format!(" {zero},")), "{zero}: {left}");
    }
    assert_eq!((table.state.next_wait(), table.state.startable()), (None, 0));
}

#[test]
fn what_is_tried_again_all_the_time_leaves_room_for_what_is_new() {
    let mut table = Table::with_due(Bounds { entries: 3, ..BOUNDS }, 1..=20);
    for _ in 0..9 {
        let jobs = [table.job(), table.job()];
        assert_eq!(table.state.room(0), 3, "retries take no room");
        for job in jobs {
            assert!(table.record_outcome(job.number, handled()) && table.state.release(&job.id, table.now));
        }
    }
}

#[tokio::test]
async fn a_suspect_that_was_not_attended_to_is_counted_once() {
    let now = Some(SharedClock::SYSTEM.unix_millis());
    let ended = DeliveryAttempts { process_ends: 3, ended_alone: 2, next_at: now, ..DeliveryAttempts::default() };
    let mut table = Table::with([redelivered("a", 1, ended.clone())]);
    let lock = SuspectLock::default();
    for _ in 0..2 {
        assert!(table.next().is_none() && table.state.wants_permit());
        table.state.take_permit(lock.acquire().await);
        let begun = table.state.take_disposed();
        assert!(
            matches!(&begun[..], [one] if matches!(&one.disposition, Disposition::Begin(begun) if begun.ended_alone == 3))
        );
        assert!(table.next().is_none(), "the count of the run is not yet persisted");
        table.state.begin(&id(1));
        let job = table.job();
        assert!(job.is_suspect && !table.record_outcome(job.number, Outcome::Unattended));
    }
}

/// A generator of numbers, for tests that can be repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Random steps, checked against what each aggregate must see: its entries in order, the next one only after the one
/// before is finished, each finished once, and no more bodies than there is room for.
#[test]
fn random_steps_keep_the_order_of_each_aggregate_and_lose_nothing() {
    for seed in 0..300 {
        let mut numbers = Numbers(seed);
        let bounds = Bounds { entries: 8, bytes: 1_000_000, delayed: 30 };
        let mut table = Table::bounded(bounds, []);
        let (mut added, mut running, mut finished) = (0, Vec::<Job>::new(), HashMap::<String, u64>::new());
        while added < 60 || table.state.len() > 0 {
            match numbers.below(7) {
                0 | 1 if added < 60 && table.state.room(0) > 0 => {
                    added += 1;
                    let aggregate = numbers.below(6).to_string();
                    assert!(table.state.add(entry(&aggregate, added), table.now));
                }
                2 => {
                    if let Some(job) = table.next() {
                        let of = |job: &Job| job.record.metadata().aggregate_id().to_string();
                        assert!(running.iter().all(|other| of(other) != of(&job)), "seed {seed}: two at once");
                        let before = finished.get(&of(&job)).copied().unwrap_or_default();
                        assert!(before < job.record.version().get(), "seed {seed}: out of order, or twice");
                        running.push(job);
                    }
                }
                3 | 4 if !running.is_empty() => {
                    let job = running.swap_remove(numbers.below(running.len() as u64) as usize);
                    let outcome = match numbers.below(8) {
                        0 | 1 => later(),
                        2 => Outcome::Unattended,
                        3 => Outcome::Skipped,
                        _ => handled(),
                    };
                    if !matches!(outcome, Outcome::Failed { .. } | Outcome::Unattended) {
                        let version = job.record.version().get();
                        finished.insert(job.record.metadata().aggregate_id().to_string(), version);
                    }
                    table.state.record_outcome(job.number, outcome, &FOR_EVER, table.now);
                }
                5 => {
                    for disposed in table.state.take_disposed() {
                        if matches!(disposed.disposition, Disposition::Acknowledge { .. } | Disposition::Skip) {
                            assert!(table.state.release(&disposed.id, table.now));
                        }
                    }
                }
                _ => {
                    let seconds = numbers.below(4);
                    table.pass(seconds);
                }
            }
        }
        assert!(running.is_empty() && table.state.unwritten() == 0, "seed {seed}");
    }
}
