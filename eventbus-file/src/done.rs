//! Which events have their result, as far as a worker knows.

use std::collections::BTreeMap;

/// The events that need not be looked at again: a result is for ever.
#[derive(Debug, Default)]
pub(crate) struct Done {
    through: u64,
    /// The runs that are done further on: the first of each and its last.
    beyond: BTreeMap<u64, u64>,
}

impl Done {
    /// The first event after one that is to be looked at.
    pub(crate) fn next_after(&self, id: u64) -> u64 {
        let next = id.max(self.through) + 1;
        match self.beyond.range(..=next).next_back() {
            Some((_, last)) if *last >= next => last + 1,
            _ => next,
        }
    }

    pub(crate) fn add(&mut self, id: u64) {
        let before = self.beyond.range(..=id).next_back().filter(|(_, last)| **last + 1 >= id);
        let (first, last) = before.map_or((id, id), |(first, last)| (*first, id.max(*last)));
        let last = self.beyond.remove(&(last + 1)).unwrap_or(last);
        self.beyond.insert(first, last);
        self.add_through(self.through);
    }

    pub(crate) fn add_through(&mut self, id: u64) {
        self.through = self.through.max(id);
        while let Some(run) = self.beyond.first_entry()
            && *run.key() <= self.through + 1
        {
            self.through = self.through.max(run.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_passed_over_wherever_it_is() {
        let mut done = Done::default();
        for id in [5, 2, 3, 7] {
            done.add(id);
        }
        assert_eq!([0, 1, 3, 4, 6, 9].map(|id| done.next_after(id)), [1, 4, 4, 6, 8, 10]);
        done.add(1);
        assert_eq!((done.through, done.next_after(0)), (3, 4));
        done.add_through(6);
        assert_eq!((done.through, done.beyond.len(), done.next_after(0)), (7, 0, 8));
    }

    #[test]
    fn while_the_first_takes_long_no_more_is_kept_however_many_are_done() {
        let mut done = Done::default();
        for id in (2..1_000).step_by(2).chain((3..1_000).step_by(2)).chain(2..1_000) {
            done.add(id);
        }
        assert_eq!((done.through, done.beyond.len()), (0, 1));
        assert_eq!([0, 1, 500].map(|id| done.next_after(id)), [1, 1_000, 1_000]);
        done.add(1);
        assert_eq!((done.through, done.beyond.len()), (999, 0));
    }
}
