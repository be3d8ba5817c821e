//! The state machine alone, without workers.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{super::state::*, *};
use crate::{delivery::Outcome, port::attempts::Failure};

struct Table {
    state: InFlightState,
    worker: Arc<Notify>,
    slots: WorkerSlots,
    now: Instant,
    bounds: Bounds,
}

impl Table {
    fn with(entries: impl IntoIterator<Item = InFlightEntry>) -> Self {
        let (mut state, now) = (InFlightState::new(SharedClock::SYSTEM, 100), Instant::now());
        for entry in entries {
            assert!(state.add(entry, now));
        }
        Self { state, worker: Arc::default(), slots: WorkerSlots::default(), now, bounds: BOUNDS }
    }

    fn next(&mut self) -> NextJob {
        self.state.next_job(&self.worker, self.slots.take(100), 2, self.now, self.bounds)
    }

    fn job(&mut self) -> Job {
        match self.next() {
            NextJob::Work(job, _) => job,
            idle => panic!("{idle:?}"),
        }
    }

    fn record_outcome(&mut self, number: u64, outcome: Outcome) -> bool {
        self.state.record_outcome(number, outcome, &RETRY, self.now)
    }

    fn due(&mut self) -> Vec<DueEntry> {
        self.state.take_due(self.now, self.bounds)
    }

    /// Starts with failed entries, each of its own aggregate, that are due now.
    fn with_due(numbers: std::ops::RangeInclusive<u64>) -> Self {
        let mut table = Self::with(numbers.clone().map(|number| entry(&number.to_string(), number)));
        for _ in numbers {
            let job = table.job();
            assert!(table.record_outcome(job.number, later()));
        }
        table.state.take_disposed();
        table.now += Duration::from_secs(5);
        table
    }

    /// Takes the skipped entry out of the outbox.
    fn skipped(&mut self) -> DisposedEntry {
        let is_skip = |disposed: &DisposedEntry| matches!(disposed.disposition, Disposition::Skip(_));
        self.state.take_disposed().into_iter().find(is_skip).unwrap()
    }

    /// Resumes the due entries, which all are of one aggregate; returns their ids.
    fn resume_of(&mut self, aggregate: &str) -> Vec<MessageId> {
        let due: Vec<_> = self.due().into_iter().map(|due| due.id).collect();
        for id in &due {
            let number = id.as_str().trim_end_matches("-0").parse().unwrap();
            assert!(self.state.resume(entry(aggregate, number), self.now));
        }
        due
    }

    /// Resumes the due entries; returns how many.
    fn resume(&mut self) -> usize {
        let due = self.due();
        for DueEntry { id, .. } in &due {
            let number = id.as_str().trim_end_matches("-0");
            let again = entry(number, number.parse().unwrap());
            assert!(self.state.resume(again, self.now));
        }
        due.len()
    }
}

const BOUNDS: Bounds = Bounds { entries: 100, bytes: 1_000_000 };

fn later() -> Outcome {
    let later = HandlerError::retry_after(Duration::from_secs(5), "later");
    let failure = Failure { handler: Name::from_static("a"), retries: None, error: later };
    Outcome::Failed { failures: vec![failure], succeeded: Vec::new() }
}

fn handled() -> Outcome {
    Outcome::Handled { succeeded: Vec::new() }
}

#[test]
fn an_entry_is_read_again_only_after_the_bus_has_taken_its_failure() {
    let mut table = Table::with([entry("a", 1), entry("b", 2)]);
    let job = table.job();
    assert!(table.record_outcome(job.number, later()));
    assert_eq!(table.state.take_disposed().len(), 1);
    let job = table.job();
    assert!(table.record_outcome(job.number, later()));
    table.now += Duration::from_secs(5);
    // the retry time of both is over while the bus still writes the first failure
    assert_eq!(table.due(), [DueEntry { id: id(1), has_waited: true }]);
    assert_eq!(table.due(), []);
    assert_eq!(table.state.take_disposed().len(), 1);
    assert_eq!(table.due(), [DueEntry { id: id(2), has_waited: true }]);
}

#[test]
fn a_delivery_that_nobody_attended_to_is_first_again() {
    let mut table = Table::with([entry("a", 1), entry("b", 2)]);
    let job = table.job();
    assert!(table.state.is_running(job.number));
    assert!(!table.record_outcome(job.number, Outcome::Unattended));
    assert!(!table.state.is_running(job.number));
    assert_eq!((table.state.unwritten(), table.job().id), (0, id(1)));
}

#[test]
fn a_delivery_without_handlers_waits_if_its_aggregate_was_blocked_meanwhile() {
    let mut table = Table::with([entry("a", 1), entry("a", 2)]);
    let job = table.job();
    let stream = StreamId::parse("Order", "a").unwrap();
    table.state.block_stream(&stream, table.now);
    assert!(!table.record_outcome(job.number, Outcome::Unattended));
    assert!(matches!(table.next(), NextJob::Idle(_)));
    table.state.unblock_stream(&stream, table.now);
    assert_eq!(table.resume(), 1);
    assert_eq!(table.job().id, id(1));
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
fn an_idle_worker_knows_how_long() {
    let mut table = Table::with([entry("a", 1)]);
    assert!(table.state.has_work() && table.state.startable() == 1);
    let job = table.job();
    assert!(!table.state.has_work());
    assert!(table.record_outcome(job.number, later()));
    assert!(table.state.has_work() && table.state.startable() == 0);
    assert!(matches!(table.next(), NextJob::Idle(Some(at)) if at == table.now + Duration::from_secs(5)));
    table.now += Duration::from_secs(5);
    assert!(matches!(table.next(), NextJob::Idle(None)), "it is due");
    table.state.take_disposed();
    assert_eq!(table.due(), [DueEntry { id: job.id.clone(), has_waited: true }]);
    assert!(table.state.resume(
        InFlightEntry { attempts: DeliveryAttempts { attempts: 1, ..DeliveryAttempts::default() }, ..entry("a", 1) },
        table.now
    ));
    assert_eq!(table.job().attempts.attempts, 1);
    assert!(matches!(table.next(), NextJob::Idle(None)));
}

#[test]
fn what_was_let_go_wakes_nobody_and_leaves_nothing() {
    let mut table = Table::with([redelivered("a", 1, DeliveryAttempts::default()), entry("b", 2)]);
    let later = DeliveryAttempts { next_at: Some(u64::MAX), last_failed_at: Some(0), ..DeliveryAttempts::default() };
    assert!(table.state.add(InFlightEntry { attempts: later, ..entry("c", 3) }, table.now));
    assert!(matches!(table.next(), NextJob::Work(Job { number: 1, .. }, _)));
    table.state.begin(&id(1));
    assert!(table.state.release(&id(1), table.now) && table.state.release(&id(3), table.now));
    assert!(table.state.add(entry("d", 4), table.now));
    assert_eq!(table.job().id, id(4), "not the one that was begun and released");
    assert!(matches!(table.next(), NextJob::Idle(None)), "not when the one that waited was due");
    assert!(table.state.release(&id(2), table.now) && table.state.release(&id(4), table.now));
    let left = format!("{:?}", table.state);
    assert!(left.contains("queues: {}") && left.contains("waiting: {}") && left.contains("suspects: {}"), "{left}");
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
fn one_that_was_read_again_runs_for_twenty_that_are_new_as_long_as_there_are_both() {
    let mut table = Table::with_due(1..=4);
    for number in 101..=150 {
        assert!(table.state.add(entry(&number.to_string(), number), table.now));
    }
    assert_eq!((table.resume(), table.resume()), (2, 0), "one per worker is read ahead");
    let mut order = Vec::new();
    for _ in 0..54 {
        let job = table.job();
        order.push(job.id.as_str().trim_end_matches("-0").parse::<u64>().unwrap());
        assert!(table.record_outcome(job.number, handled()));
        table.resume();
    }
    let again: Vec<usize> = (0..54).filter(|place| order[*place] <= 4).collect();
    assert_eq!(again, [0, 21, 42, 53], "{order:?}");
    assert!(order.iter().filter(|number| **number > 100).is_sorted());
}

#[test]
fn what_is_tried_again_all_the_time_leaves_room_for_what_is_new() {
    let mut table = Table { bounds: Bounds { entries: 3, ..BOUNDS }, ..Table::with_due(1..=20) };
    for _ in 0..9 {
        assert_eq!(table.resume(), 2);
        let jobs = [table.job(), table.job()];
        assert_eq!(table.state.room(0, table.bounds), 1, "both workers are busy with retries");
        for job in jobs {
            assert!(table.record_outcome(job.number, handled()) && table.state.release(&job.id, table.now));
        }
    }
}

#[test]
fn what_is_due_for_longest_is_read_again_first() {
    let mut table = Table::with([entry("a", 1), entry("b", 2)]);
    let (first, second) = (table.job(), table.job());
    assert!(table.record_outcome(second.number, later()));
    table.now += Duration::from_secs(1);
    assert!(table.record_outcome(first.number, later()));
    table.now += Duration::from_secs(9);
    table.state.take_disposed();
    let ids: Vec<_> = table.due().into_iter().map(|due| due.id).collect();
    assert_eq!(ids, [id(2), id(1)]);
}

#[test]
fn what_is_put_off_is_due_again_then_and_holds_up_its_aggregate() {
    let mut table = Table::with_due(1..=1);
    assert!(table.state.add(entry("1", 2), table.now), "of the same aggregate");
    assert_eq!(table.due().len(), 1);
    table.state.postpone(&id(1), table.now + Duration::from_secs(1));
    assert!(!table.state.resume(entry("1", 1), table.now), "the bus is not reading it any more");
    assert!(table.due().is_empty() && table.state.has_work());
    assert!(matches!(table.next(), NextJob::Idle(Some(at)) if at == table.now + Duration::from_secs(1)));
    table.now += Duration::from_secs(1);
    assert_eq!(table.due(), [DueEntry { id: id(1), has_waited: true }]);
    assert!(table.state.resume(entry("1", 1), table.now));
    let job = table.job();
    assert_eq!(job.id, id(1));
    assert!(table.record_outcome(job.number, handled()));
    assert_eq!(table.due(), [DueEntry { id: id(2), has_waited: false }], "it was blocked");
}

#[test]
fn a_worker_waits_for_what_is_new_as_long_as_it_follows_and_there_is_room_for_it() {
    let mut table = Table::with_due(1..=60);
    assert!(table.resume() > 3);
    assert!(table.state.set_has_more(true) && !table.state.set_has_more(true));
    let first = table.job();
    assert_eq!(first.id, id(1), "a retry may run at once");
    assert!(table.record_outcome(first.number, handled()));
    for number in 101..=120 {
        assert!(matches!(table.next(), NextJob::Idle(_)), "the bus is about to read a new one");
        assert!(table.state.add(entry(&number.to_string(), number), table.now));
        let job = table.job();
        assert_eq!(job.id, id(number));
        assert!(table.record_outcome(job.number, handled()));
    }
    let again = table.job();
    assert_eq!(again.id, id(2));
    assert!(table.record_outcome(again.number, handled()));
    table.bounds.entries = 1;
    assert!(matches!(table.next(), NextJob::Idle(_)), "there is room once the dispositions are persisted");
    for number in (1..=2).chain(101..=120) {
        assert!(table.state.release(&id(number), table.now));
    }
    let third = table.job();
    assert_eq!(third.id, id(3), "the bus reads no new one, as there is no room");
    table.bounds = BOUNDS;
    assert!(matches!(table.next(), NextJob::Idle(_)));
    assert!(table.state.set_has_more(false));
    assert_eq!(table.job().id, id(4));
}

/// An entry whose handler left is skipped after a retry; the later one of its aggregate lost its body meanwhile.
fn skipped_before_one_without_body() -> (Table, DisposedEntry) {
    let mut table = Table::with([entry("a", 1), entry("a", 2)]);
    let job = table.job();
    assert!(table.record_outcome(job.number, later()));
    table.state.take_disposed();
    table.now += Duration::from_secs(5);
    assert_eq!(table.resume(), 1);
    let job = table.job();
    assert!(table.record_outcome(job.number, Outcome::Skipped));
    let skipped = table.skipped();
    (table, skipped)
}

#[test]
fn a_skipped_entry_is_handled_before_a_later_one_that_is_to_be_read_again() {
    let (mut table, skipped) = skipped_before_one_without_body();
    table.state.handle_skipped(skipped, table.now);
    assert_eq!(table.job().id, id(1));
    assert_eq!(table.resume(), 0, "the later one waits");
}

#[test]
fn a_skipped_entry_is_handled_before_a_later_one_that_is_being_read() {
    let (mut table, skipped) = skipped_before_one_without_body();
    assert_eq!(table.due().len(), 1);
    table.state.handle_skipped(skipped, table.now);
    assert!(!table.state.resume(entry("a", 2), table.now), "it is read once more in its turn");
    let job = table.job();
    assert_eq!(job.id, id(1));
    assert!(table.record_outcome(job.number, handled()));
    assert_eq!(table.resume_of("a"), [id(2)]);
    assert_eq!(table.job().id, id(2));
}

#[test]
fn a_skipped_entry_is_handled_before_a_later_suspect() {
    let suspect = redelivered("a", 2, DeliveryAttempts { process_ends: 1, ..DeliveryAttempts::default() });
    let mut table = Table::with([entry("a", 1), suspect]);
    let job = table.job();
    assert!(table.record_outcome(job.number, Outcome::Skipped));
    let skipped = table.skipped();
    table.now += Duration::from_secs(120);
    assert_eq!(table.due().len(), 1);
    let attempts = DeliveryAttempts { process_ends: 2, ..DeliveryAttempts::default() };
    assert!(table.state.resume(redelivered("a", 2, attempts), table.now));
    assert!(matches!(table.state.next_suspect(table.now, BOUNDS), NextSuspect::Now { .. }));
    table.state.handle_skipped(skipped, table.now);
    assert_eq!(table.job().id, id(1));
    assert!(matches!(table.state.next_suspect(table.now, BOUNDS), NextSuspect::Later(_)), "the suspect waits");
}

#[test]
fn a_suspect_of_a_blocked_aggregate_does_not_start_before_it_is_unblocked() {
    let now = Some(SharedClock::SYSTEM.unix_millis());
    let ended = DeliveryAttempts { process_ends: 1, next_at: now, last_failed_at: now, ..DeliveryAttempts::default() };
    let mut table = Table::with([redelivered("a", 1, ended.clone()), entry("a", 2)]);
    let stream = StreamId::parse("Order", "a").unwrap();
    table.state.block_stream(&stream, table.now);
    assert!(matches!(table.state.next_suspect(table.now, BOUNDS), NextSuspect::Later(_)));
    assert_eq!(table.due(), []);
    table.state.unblock_stream(&stream, table.now);
    assert_eq!(table.due(), [DueEntry { id: id(1), has_waited: false }]);
    assert!(table.state.resume(entry("a", 1).with_attempts(ended), table.now));
    assert!(matches!(table.state.next_suspect(table.now, BOUNDS), NextSuspect::Now { .. }));
}

#[test]
fn a_suspect_that_was_not_attended_to_keeps_the_ends_alone_of_its_processes() {
    for (is_alone, noted) in [(true, 3), (false, 2)] {
        let now = Some(SharedClock::SYSTEM.unix_millis());
        let ended = DeliveryAttempts { process_ends: 3, ended_alone: 2, next_at: now, ..DeliveryAttempts::default() };
        let mut table = Table::with([redelivered("a", 1, ended)]);
        let NextSuspect::Now { number, .. } = table.state.next_suspect(table.now, BOUNDS) else { panic!("none") };
        for _ in 0..2 {
            assert!(table.state.note_start(number, is_alone));
            let begins = table.state.take_disposed();
            let [DisposedEntry { disposition: Disposition::Begin(attempts), .. }] = &begins[..] else {
                panic!("{begins:?}")
            };
            assert_eq!(attempts.ended_alone, noted, "alone: {is_alone}");
            table.state.begin(&id(1));
            assert!(matches!(table.state.take_started(number, &table.worker, table.now), StartNote::Started(_)));
            assert!(!table.record_outcome(number, Outcome::Unattended));
        }
    }
}
