//! What the auditor is shown: what the store holds, what appenders were told, what readers did.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use eventbus::Uuid;

use super::history::{AppendRecord, History, HistoryEntry, StoredAt};

/// Everything that is known of a run.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What the store holds, in position order; read without the code under test.
    pub stored: Vec<Stored>,
    /// What those who appended did and were told.
    pub append_records: Vec<AppendRecord>,
    /// Those who read.
    pub readers: Vec<Reader>,
}

/// An event as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which, and where.
    pub stored_at: StoredAt,
    /// Its stream.
    pub stream: Arc<str>,
    /// What it adds to the read model.
    pub amount: i64,
}

/// Somebody who reads the feed or a bus.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// Who it is.
    pub name: String,
    /// What is promised of it.
    pub promise: Promise,
    /// What had an effect, in that order.
    pub effects: Vec<Effect>,
    /// What became dead letters.
    pub dead: Vec<Uuid>,
    /// What it can never handle, and nothing else may become a dead letter.
    pub poison: HashSet<Uuid>,
    /// The read model, if it keeps one.
    pub model: Option<Model>,
    /// The position up to which it says that it has done everything, if it says so.
    pub checkpoint: Option<u64>,
}

/// What is promised of a reader. At least once is always promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promise {
    /// Nothing has an effect twice.
    pub once: bool,
    /// In which order events have an effect for the first time.
    pub order: Order,
}

/// An order that is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// None.
    #[default]
    None,
    /// By version in each stream.
    PerAggregate,
    /// By position.
    Total,
}

/// An effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// Of which event.
    pub event: Uuid,
    /// The epoch of the lease under which it was made, 0 if there is none.
    pub epoch: u64,
}

/// A read model: what was folded, by stream.
pub type Model = BTreeMap<Arc<str>, Folded>;

/// What has become of the events of a stream; it depends on their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// How many there were.
    pub events: i64,
    /// The sum of their amounts.
    pub total: i64,
    /// Depends on the order too.
    pub digest: i64,
}

impl Folded {
    /// What keeps the digest small; SQL statements that fold use it too.
    pub const MODULUS: i64 = 1_000_003;

    /// Folds one more.
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
    /// Adds what was noted: what appenders were told, and what the readers it names have handled.
    pub fn add(&mut self, history: History) {
        for note in history.entries {
            match note {
                HistoryEntry::Told(told) => self.append_records.push(told),
                HistoryEntry::Handled { reader, event, epoch } => {
                    if let Some(reader) = self.readers.iter_mut().find(|known| known.name == reader) {
                        reader.effects.push(Effect { event, epoch });
                    }
                }
            }
        }
    }

    /// Under how many leases a reader worked.
    #[must_use]
    pub fn owners(&self, reader: &str) -> usize {
        let seen = self.readers.iter().filter(|known| known.name == reader).flat_map(|reader| &reader.effects);
        seen.map(|seen| seen.epoch).collect::<HashSet<_>>().len()
    }

    /// What the read model of everything stored is, but for some events.
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
