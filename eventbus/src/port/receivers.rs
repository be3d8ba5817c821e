//! Receivers of a value that a store records for as long as it lives: one app after the other exports it.
//!
//! Invariant: only the first receiver gets the values, so that no value is exported twice.

use std::{fmt, sync::Arc};

use parking_lot::RwLock;

/// Takes a recorded value.
type ReceiveFn = Box<dyn Fn(u64) + Send + Sync>;

/// The receivers of a value. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Receivers {
    /// In the order in which they were added, by number. Locked for reading by each recording of a value, for writing when
    /// an app starts or stops.
    receivers: Arc<RwLock<Vec<(u64, ReceiveFn)>>>,
}

impl fmt::Debug for Receivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receivers({})", self.receivers.read().len())
    }
}

impl Receivers {
    /// Adds a receiver, until the returned value is dropped. It gets the values once the receivers before it are gone.
    pub(crate) fn add(&self, receive: impl Fn(u64) + Send + Sync + 'static) -> Receiving {
        let mut receivers = self.receivers.write();
        let number = receivers.last().map_or(0, |(last, _)| last + 1);
        receivers.push((number, Box::new(receive)));
        Receiving { receivers: self.clone(), number }
    }

    /// Passes a value to the first receiver.
    pub(crate) fn receive(&self, value: u64) {
        if let Some((_, receive)) = self.receivers.read().first() {
            receive(value);
        }
    }
}

/// A receiver among [`Receivers`], until it is dropped.
#[derive(Debug)]
#[must_use = "the receiver is removed when this is dropped"]
pub(crate) struct Receiving {
    receivers: Receivers,
    number: u64,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.receivers.receivers.write().retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn one_receiver_at_a_time_gets_the_values() {
        let (receivers, sums) = (Receivers::default(), [0; 3].map(|_| Arc::new(AtomicU64::new(0))));
        let add = |sum: &Arc<AtomicU64>| {
            let sum = Arc::clone(sum);
            receivers.add(move |value| {
                sum.fetch_add(value, Ordering::Relaxed);
            })
        };
        receivers.receive(1);
        let [first, second, third] = sums.each_ref().map(add);
        receivers.receive(10);
        drop(second);
        receivers.receive(100);
        drop(first);
        receivers.receive(1_000);
        drop(third);
        receivers.receive(10_000);
        assert_eq!(sums.map(|sum| sum.load(Ordering::Relaxed)), [110, 0, 1_000]);
    }
}
