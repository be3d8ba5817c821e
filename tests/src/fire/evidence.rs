//! The evidence for the auditor: stored events, the answers that appenders received, the effects of readers.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use eventbus::Uuid;

use super::history::{AppendRecord, History, HistoryEntry, StoredAt};

/// The whole evidence of a run.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The stored events in position order, read without the code under test.
    pub stored: Vec<Stored>,
    /// The records of all appenders.
    pub append_records: Vec<AppendRecord>,
    /// The readers.
    pub readers: Vec<Reader>,
}

/// An event as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id, version and position.
    pub stored_at: StoredAt,
    /// Its stream.
    pub stream: Arc<str>,
    /// The amount that it adds to the read model.
    pub amount: i64,
}

/// A reader of the feed or of a bus.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// Its name.
    pub name: String,
    /// Its promise.
    pub promise: Promise,
    /// Its effects, in the order in which they happened.
    pub effects: Vec<Effect>,
    /// Its dead letters.
    pub dead: Vec<Uuid>,
    /// Events that it can never handle. No other event may become a dead letter.
    pub poison: HashSet<Uuid>,
    /// Its read model, if it keeps one.
    pub model: Option<Model>,
    /// The position through which it claims to be finished, if it claims one.
    pub checkpoint: Option<u64>,
}

/// The promise of a reader. At least once is always promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promise {
    /// Set if no event has two effects.
    pub once: bool,
    /// The order in which events have their first effects.
    pub order: Order,
}

/// A promised order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// No order.
    #[default]
    None,
    /// By version within each stream.
    PerAggregate,
    /// By position.
    Total,
}

/// One effect of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// The event.
    pub event: Uuid,
    /// The epoch of the lease under which the reader worked, 0 without a lease.
    pub epoch: u64,
}

/// A read model: the fold of each stream.
pub type Model = BTreeMap<Arc<str>, Folded>;

/// The fold of a stream's events; it depends on their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// Number of events.
    pub events: i64,
    /// The sum of their amounts.
    pub total: i64,
    /// A digest that depends on the order.
    pub digest: i64,
}

impl Folded {
    /// The modulus that keeps the digest small; the SQL statements that fold use it too.
    pub const MODULUS: i64 = 1_000_003;

    /// Folds one more event.
    #[must_use]
    pub const fn plus(self, amount: i64) -> Self {
        Self {
            events: self.events + 1,
            total: self.total + amount,
            digest: (self.digest * 31 + amount) % Self::MODULUS,
        }
    }
}

impl Evidence {
    /// Adds a history: the records of appenders, and the handled events of the readers named in it.
    pub fn add(&mut self, history: History) {
        for note in history.entries {
            match note {
                HistoryEntry::Told(record) => self.append_records.push(record),
                HistoryEntry::Handled { reader, event, epoch } => {
                    if let Some(reader) = self.readers.iter_mut().find(|known| known.name == reader) {
                        reader.effects.push(Effect { event, epoch });
                    }
                }
            }
        }
    }

    /// Returns the number of leases under which a reader worked.
    #[must_use]
    pub fn owners(&self, reader: &str) -> usize {
        let seen = self.readers.iter().filter(|known| known.name == reader).flat_map(|reader| &reader.effects);
        seen.map(|seen| seen.epoch).collect::<HashSet<_>>().len()
    }

    /// Folds the stored events that `counts` accepts.
    #[must_use]
    pub fn fold(&self, counts: impl Fn(&Stored) -> bool) -> Model {
        let mut model = Model::new();
        for stored in self.stored.iter().filter(|stored| counts(stored)) {
            let folded = model.entry(Arc::clone(&stored.stream)).or_default();
            *folded = folded.plus(stored.amount);
        }
        model
    }
}
