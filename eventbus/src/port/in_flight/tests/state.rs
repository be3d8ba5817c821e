//! What needs no workers.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{super::state::*, *};
use crate::port::{Failure, Outcome};

struct Table {
    state: InFlightState,
    worker: Arc<Notify>,
    places: WorkerSlots,
    now: Instant,
    bounds: Bounds,
}

impl Table {
    fn with(taken: impl IntoIterator<Item = InFlightEntry>) -> Self {
        let (mut state, now) = (InFlightState::new(SharedClock::SYSTEM, 100), Instant::now());
        for taken in taken {
            assert!(state.add(taken, now));
        }
        Self { state, worker: Arc::default(), places: WorkerSlots::default(), now, bounds: BOUNDS }
    }

    fn turn(&mut self) -> NextJob {
        self.state.next_job(&self.worker, self.places.take(100), 2, self.now, self.bounds)
    }

    fn job(&mut self) -> Job {
        match self.turn() {
            NextJob::Work(job, _) => job,
            idle => panic!("{idle:?}"),
        }
    }

    fn settle(&mut self, number: u64, outcome: Outcome) -> bool {
        self.state.record_outcome(number, outcome, &RETRY, self.now)
    }

    fn due(&mut self) -> Vec<DueEntry> {
        self.state.take_due(self.now, self.bounds)
    }

    /// Entries that have failed, each of an aggregate of its own, and are to be read again now.
    fn with_due(numbers: std::ops::RangeInclusive<u64>) -> Self {
        let mut table = Self::with(numbers.clone().map(|number| taken(&number.to_string(), number)));
        for _ in numbers {
            let job = table.job();
            assert!(table.settle(job.number, later()));
        }
        table.now += Duration::from_secs(5);
        table
    }

    /// Reads entries again, and says how many.
    fn resume(&mut self) -> usize {
        let due = self.due();
        for DueEntry { id, .. } in &due {
            let number = id.as_str().trim_end_matches("-0");
            let again = taken(number, number.parse().unwrap());
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
fn a_delivery_that_nobody_attended_to_is_first_again() {
    let mut table = Table::with([taken("a", 1), taken("b", 2)]);
    let job = table.job();
    assert!(table.state.is_running(job.number));
    assert!(!table.settle(job.number, Outcome::Unattended));
    assert!(!table.state.is_running(job.number));
    assert_eq!((table.state.unwritten(), table.job().id), (0, id(1)));
}

#[test]
fn what_a_worker_does_not_have_is_not_settled() {
    let mut table = Table::with([taken("a", 1), taken("a", 2)]);
    let job = table.job();
    assert!(table.settle(job.number, handled()));
    assert!(!table.settle(job.number, handled()), "twice");
    assert!(!table.settle(job.number + 1, handled()), "too early");
    assert!(!table.settle(99, handled()));
    assert_eq!(table.state.drain().len(), 1);
    assert_eq!(table.state.unwritten(), 0, "it is handed out once");
}

#[test]
fn an_idle_worker_knows_how_long() {
    let mut table = Table::with([taken("a", 1)]);
    assert!(table.state.has_work() && table.state.startable() == 1);
    let job = table.job();
    assert!(!table.state.has_work());
    assert!(table.settle(job.number, later()));
    assert!(table.state.has_work() && table.state.startable() == 0);
    assert!(matches!(table.turn(), NextJob::Idle(Some(at)) if at == table.now + Duration::from_secs(5)));
    table.now += Duration::from_secs(5);
    assert!(matches!(table.turn(), NextJob::Idle(None)), "it is to be read again");
    assert_eq!(table.due(), [DueEntry { id: job.id.clone(), has_waited: true }]);
    assert!(table.state.resume(
        InFlightEntry { attempts: DeliveryAttempts { attempts: 1, ..DeliveryAttempts::default() }, ..taken("a", 1) },
        table.now
    ));
    assert_eq!(table.job().attempts.attempts, 1);
    assert!(matches!(table.turn(), NextJob::Idle(None)));
}

#[test]
fn what_was_let_go_wakes_nobody_and_leaves_nothing() {
    let mut table = Table::with([left_over("a", 1, DeliveryAttempts::default()), taken("b", 2)]);
    let later = DeliveryAttempts { next_at: Some(u64::MAX), last_failed_at: Some(0), ..DeliveryAttempts::default() };
    assert!(table.state.add(InFlightEntry { attempts: later, ..taken("c", 3) }, table.now));
    assert!(matches!(table.turn(), NextJob::Work(Job { number: 1, .. }, _)));
    table.state.begin(&id(1));
    assert!(table.state.remove(&id(1), table.now) && table.state.remove(&id(3), table.now));
    assert!(table.state.add(taken("d", 4), table.now));
    assert_eq!(table.job().id, id(4), "not the one that was begun and let go");
    assert!(matches!(table.turn(), NextJob::Idle(None)), "not when the one that waited was due");
    assert!(table.state.remove(&id(2), table.now) && table.state.remove(&id(4), table.now));
    let left = format!("{:?}", table.state);
    assert!(left.contains("queues: {}") && left.contains("waiting: {}") && left.contains("suspects: {}"), "{left}");
}

#[test]
fn letting_go_says_whether_it_was_there() {
    let mut table = Table::with([taken("a", 1), taken("a", 2), taken("a", 3)]);
    assert!(table.state.remove(&id(2), table.now), "a parked one, and the first stays the first");
    assert_eq!((table.job().id, table.state.startable()), (id(1), 0));
    assert!(table.state.remove(&id(1), table.now));
    assert!(!table.state.remove(&id(1), table.now));
    assert_eq!(table.job().id, id(3));
    assert_eq!(table.state.len(), 1);
}

#[test]
fn one_that_was_read_again_runs_for_twenty_that_are_new_as_long_as_there_are_both() {
    let mut table = Table::with_due(1..=4);
    for number in 101..=150 {
        assert!(table.state.add(taken(&number.to_string(), number), table.now));
    }
    assert_eq!((table.resume(), table.resume()), (2, 0), "as many as there are workers are read ahead");
    let mut order = Vec::new();
    for _ in 0..54 {
        let job = table.job();
        order.push(job.id.as_str().trim_end_matches("-0").parse::<u64>().unwrap());
        assert!(table.settle(job.number, handled()));
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
        assert_eq!(table.state.room(0, table.bounds), 1, "both workers are busy with what is tried again");
        for job in jobs {
            assert!(table.settle(job.number, handled()) && table.state.remove(&job.id, table.now));
        }
    }
}

#[test]
fn what_is_due_for_longest_is_read_again_first() {
    let mut table = Table::with([taken("a", 1), taken("b", 2)]);
    let (first, second) = (table.job(), table.job());
    assert!(table.settle(second.number, later()));
    table.now += Duration::from_secs(1);
    assert!(table.settle(first.number, later()));
    table.now += Duration::from_secs(9);
    let ids: Vec<_> = table.due().into_iter().map(|due| due.id).collect();
    assert_eq!(ids, [id(2), id(1)]);
}

#[test]
fn what_is_put_off_is_due_again_then_and_holds_up_its_aggregate() {
    let mut table = Table::with_due(1..=1);
    assert!(table.state.add(taken("1", 2), table.now), "of the same aggregate");
    assert_eq!(table.due().len(), 1);
    table.state.put_off(&id(1), table.now + Duration::from_secs(1));
    assert!(!table.state.resume(taken("1", 1), table.now), "it is being read no more");
    assert!(table.due().is_empty() && table.state.has_work());
    assert!(matches!(table.turn(), NextJob::Idle(Some(at)) if at == table.now + Duration::from_secs(1)));
    table.now += Duration::from_secs(1);
    assert_eq!(table.due(), [DueEntry { id: id(1), has_waited: true }]);
    assert!(table.state.resume(taken("1", 1), table.now));
    let job = table.job();
    assert_eq!(job.id, id(1));
    assert!(table.settle(job.number, handled()));
    assert_eq!(table.due(), [DueEntry { id: id(2), has_waited: false }], "it was parked");
}

#[test]
fn a_worker_waits_for_what_is_new_as_long_as_it_follows_and_there_is_room_for_it() {
    let mut table = Table::with_due(1..=60);
    assert!(table.resume() > 3);
    assert!(table.state.set_has_more(true) && !table.state.set_has_more(true));
    let first = table.job();
    assert_eq!(first.id, id(1), "its turn has come");
    assert!(table.settle(first.number, handled()));
    for number in 101..=120 {
        assert!(matches!(table.turn(), NextJob::Idle(_)), "a new one is about to be read");
        assert!(table.state.add(taken(&number.to_string(), number), table.now));
        let job = table.job();
        assert_eq!(job.id, id(number));
        assert!(table.settle(job.number, handled()));
    }
    let again = table.job();
    assert_eq!(again.id, id(2));
    assert!(table.settle(again.number, handled()));
    table.bounds.entries = 1;
    assert!(matches!(table.turn(), NextJob::Idle(_)), "there is room once it is written down what is done with");
    for number in (1..=2).chain(101..=120) {
        assert!(table.state.remove(&id(number), table.now));
    }
    let third = table.job();
    assert_eq!(third.id, id(3), "nothing is read, as there is no room");
    table.bounds = BOUNDS;
    assert!(matches!(table.turn(), NextJob::Idle(_)));
    assert!(table.state.set_has_more(false));
    assert_eq!(table.job().id, id(4));
}
