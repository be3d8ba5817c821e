//! The events that have a result, as far as a worker knows.

use std::collections::BTreeMap;

/// The events that a worker need not check again: a result is final.
#[derive(Debug, Default)]
pub(crate) struct FinishedEvents {
    finished_through: u64,
    /// Runs of finished events after that: the first id of each and its last.
    later_runs: BTreeMap<u64, u64>,
}

impl FinishedEvents {
    /// Returns the first event after an id that is not known to be finished.
    pub(crate) fn next_unfinished(&self, id: u64) -> u64 {
        let next = id.max(self.finished_through) + 1;
        match self.later_runs.range(..=next).next_back() {
            Some((_, last)) if *last >= next => last + 1,
            _ => next,
        }
    }

    /// Returns the number of ids from one to another that are not known to be finished.
    pub(crate) fn count_unfinished(&self, first: u64, last: u64) -> u64 {
        let first = first.max(self.finished_through + 1);
        let finished = self
            .later_runs
            .iter()
            .map(|(run_first, run_last)| (run_last.min(&last) + 1).saturating_sub(*run_first.max(&first)));
        (last + 1).saturating_sub(first).saturating_sub(finished.sum())
    }

    pub(crate) fn insert(&mut self, id: u64) {
        let before = self.later_runs.range(..=id).next_back().filter(|(_, last)| **last + 1 >= id);
        let (first, last) = before.map_or((id, id), |(first, last)| (*first, id.max(*last)));
        let last = self.later_runs.remove(&(last + 1)).unwrap_or(last);
        self.later_runs.insert(first, last);
        self.insert_through(self.finished_through);
    }

    pub(crate) fn insert_through(&mut self, id: u64) {
        self.finished_through = self.finished_through.max(id);
        while let Some(run) = self.later_runs.first_entry()
            && *run.key() <= self.finished_through + 1
        {
            self.finished_through = self.finished_through.max(run.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_passed_over_wherever_it_is() {
        let mut done = FinishedEvents::default();
        for id in [5, 2, 3, 7] {
            done.insert(id);
        }
        assert_eq!([0, 1, 3, 4, 6, 9].map(|id| done.next_unfinished(id)), [1, 4, 4, 6, 8, 10]);
        assert_eq!(
            [(1, 9), (3, 5), (4, 4), (8, 7)].map(|(first, last)| done.count_unfinished(first, last)),
            [5, 1, 1, 0]
        );
        done.insert(1);
        assert_eq!((done.finished_through, done.next_unfinished(0)), (3, 4));
        done.insert_through(6);
        assert_eq!((done.finished_through, done.later_runs.len(), done.next_unfinished(0)), (7, 0, 8));
    }

    #[test]
    fn while_the_first_takes_long_no_more_is_kept_however_many_are_done() {
        let mut done = FinishedEvents::default();
        for id in (2..1_000).step_by(2).chain((3..1_000).step_by(2)).chain(2..1_000) {
            done.insert(id);
        }
        assert_eq!((done.finished_through, done.later_runs.len()), (0, 1));
        assert_eq!([0, 1, 500].map(|id| done.next_unfinished(id)), [1, 1_000, 1_000]);
        done.insert(1);
        assert_eq!((done.finished_through, done.later_runs.len()), (999, 0));
    }
}
