//! What needs no workers.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{super::state::*, *};
use crate::port::{Failure, Outcome};

struct Table {
    state: State,
    worker: Arc<Notify>,
    places: Places,
    now: Instant,
}

impl Table {
    fn with(taken: impl IntoIterator<Item = Taken>) -> Self {
        let (mut state, now) = (State::new(SharedClock::SYSTEM, 100), Instant::now());
        for taken in taken {
            assert!(state.add(taken, now));
        }
        Self { state, worker: Arc::default(), places: Places::default(), now }
    }

    fn turn(&mut self) -> Turn {
        self.state.take(&self.worker, self.places.take(100), 2, self.now)
    }

    fn job(&mut self) -> Job {
        match self.turn() {
            Turn::Work(job, _) => job,
            idle => panic!("{idle:?}"),
        }
    }

    fn settle(&mut self, number: u64, outcome: Outcome) -> bool {
        self.state.settle(number, outcome, &RETRY, self.now)
    }
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
    let later = HandlerError::retry_after(Duration::from_secs(5), "later");
    let failure = Failure { handler: Name::from_static("a"), retries: None, error: later };
    let outcome = Outcome::Failed { failures: vec![failure], succeeded: Vec::new() };
    assert!(table.settle(job.number, outcome));
    assert!(table.state.has_work() && table.state.startable() == 0);
    assert!(matches!(table.turn(), Turn::Idle(Some(at)) if at == table.now + Duration::from_secs(5)));
    table.now += Duration::from_secs(5);
    assert!(matches!(table.turn(), Turn::Idle(None)), "it is to be read again");
    let [due] = &table.state.take_due(table.now, Bounds { entries: 9, bytes: 9_999 })[..] else {
        panic!("none is due")
    };
    assert_eq!(*due, DueAgain { id: job.id.clone(), has_waited: true });
    assert!(table.state.resume(Taken { tries: Tries { attempts: 1, ..Tries::default() }, ..taken("a", 1) }, table.now));
    assert_eq!(table.job().tries.attempts, 1);
    assert!(matches!(table.turn(), Turn::Idle(None)));
}

#[test]
fn what_was_let_go_wakes_nobody_and_leaves_nothing() {
    let mut table = Table::with([left_over("a", 1, Tries::default()), taken("b", 2)]);
    let later = Tries { next_at: Some(u64::MAX), last_failed_at: Some(0), ..Tries::default() };
    assert!(table.state.add(Taken { tries: later, ..taken("c", 3) }, table.now));
    assert!(matches!(table.turn(), Turn::Work(Job { number: 1, .. }, _)));
    table.state.begin(&id(1));
    assert!(table.state.remove(&id(1), table.now) && table.state.remove(&id(3), table.now));
    assert!(table.state.add(taken("d", 4), table.now));
    assert_eq!(table.job().id, id(4), "not the one that was begun and let go");
    assert!(matches!(table.turn(), Turn::Idle(None)), "not when the one that waited was due");
    assert!(table.state.remove(&id(2), table.now) && table.state.remove(&id(4), table.now));
    let left = format!("{:?}", table.state);
    assert!(left.contains("lanes: {}") && left.contains("waiting: {}") && left.contains("suspects: {}"), "{left}");
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
