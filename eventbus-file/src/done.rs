//! Which events have their result, as far as a worker knows.

use std::collections::BTreeSet;

/// The events that need not be looked at again: a result is for ever.
#[derive(Debug, Default)]
pub(crate) struct Done {
    through: u64,
    beyond: BTreeSet<u64>,
}

impl Done {
    /// The first event after one that is to be looked at.
    pub(crate) fn next_after(&self, id: u64) -> u64 {
        let mut next = id.max(self.through) + 1;
        for done in self.beyond.range(next..) {
            if *done != next {
                break;
            }
            next += 1;
        }
        next
    }

    pub(crate) fn add(&mut self, id: u64) {
        self.beyond.insert(id);
        self.add_through(self.through);
    }

    pub(crate) fn add_through(&mut self, id: u64) {
        self.through = self.through.max(id);
        while let Some(first) = self.beyond.first()
            && *first <= self.through + 1
        {
            self.through = self.through.max(*first);
            self.beyond.pop_first();
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
}
