//! The auditor of the transfers and reactions: reads the store's events and finds what breaks a promise.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::{
    Metadata, Position, Uuid,
    port::{EventStore, FeedFilter},
};
use futures_util::TryStreamExt as _;

use super::workload::{Counted, LimitChanged, Moved, Transferred, limit_of, tallies, tenant_of};
use crate::fire::HarnessError;

/// What the auditor found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) events: u64,
    /// The first failures of each kind, and how many more there are.
    pub(super) failures: Vec<String>,
}

/// The events so far, in the order of the feed.
#[derive(Debug, Default)]
struct Audit {
    events: u64,
    causes: BTreeMap<u64, Metadata>,
    /// The cents of the halves of each transfer.
    moved: BTreeMap<u64, Vec<i64>>,
    /// How often each limit of a tenant has changed.
    limits: BTreeMap<(Option<Uuid>, String), u64>,
    counted: BTreeSet<(u64, String)>,
    /// The number of transfers that each tally of a tenant has counted.
    seen: BTreeMap<(Option<Uuid>, String), u64>,
    failures: BTreeMap<&'static str, Vec<String>>,
}

/// Checks the events of a store in which these transfers were made.
pub(super) async fn audit(store: &dyn EventStore, transfers: u64) -> Result<Findings, HarnessError> {
    let mut audit = Audit::default();
    let head = store.head().await?;
    let filter = FeedFilter::all();
    let mut feed = store.read_feed(Position::START, head, &filter);
    while let Some(event) = feed.try_next().await? {
        audit.events += 1;
        let meta = event.metadata();
        if let Ok(event) = event.decode::<Transferred>() {
            audit.transferred(event.number, meta);
        } else if let Ok(event) = event.decode::<Moved>() {
            audit.moved(&event, meta);
        } else if let Ok(event) = event.decode::<Counted>() {
            audit.counted(&event, meta);
        } else if event.decode::<LimitChanged>().is_ok() {
            *audit.limits.entry((meta.tenant_id(), meta.aggregate_id().to_string())).or_default() += 1;
        }
    }
    audit.ended(transfers);
    let shown = |(kind, found): (&str, Vec<String>)| {
        let first: Vec<_> = found.iter().take(3).map(String::as_str).collect();
        format!("{kind}: {} times, as {}", found.len(), first.join("; "))
    };
    Ok(Findings { events: audit.events, failures: audit.failures.into_iter().map(shown).collect() })
}

impl Audit {
    fn fail(&mut self, kind: &'static str, what: impl Into<String>) {
        self.failures.entry(kind).or_default().push(what.into());
    }

    fn of_tenant(&mut self, number: u64, meta: &Metadata) {
        if meta.tenant_id() != tenant_of(number) {
            self.fail("two tenants mix", format!("transfer {number} has an event of `{}`", meta.stream()));
        }
    }

    fn transferred(&mut self, number: u64, meta: &Metadata) {
        self.of_tenant(number, meta);
        if self.causes.insert(number, meta.clone()).is_some() {
            self.fail("a transfer was made twice", number.to_string());
        }
    }

    fn moved(&mut self, event: &Moved, meta: &Metadata) {
        self.of_tenant(event.number, meta);
        self.moved.entry(event.number).or_default().push(event.cents);
        let limit = self.limits.get(&(meta.tenant_id(), limit_of(event.number))).copied().unwrap_or_default();
        if event.limit != limit {
            let what = format!("transfer {} read the limit after {} of {limit} changes", event.number, event.limit);
            self.fail("a checked stream changed before the append", what);
        }
    }

    fn counted(&mut self, event: &Counted, meta: &Metadata) {
        let Counted { number, seen } = *event;
        self.of_tenant(number, meta);
        let tally = meta.aggregate_id().to_string();
        if !self.counted.insert((number, tally.clone())) {
            self.fail("a transfer was counted twice", format!("{number} by {tally}"));
        }
        let before = self.seen.entry((meta.tenant_id(), tally.clone())).or_default();
        let is_current = seen == *before;
        *before += 1;
        if !is_current {
            self.fail("a reaction decided on another state than that before it", format!("{number} at {tally}"));
        }
        let continues = self.causes.get(&number).is_some_and(|cause| {
            meta.causation_id() == Some(cause.event_id().as_uuid()) && meta.correlation_id() == cause.correlation_id()
        });
        if !continues {
            self.fail("a reaction does not name its cause", format!("{number} at {tally}"));
        }
    }

    fn ended(&mut self, transfers: u64) {
        for number in 0..transfers {
            let moved = self.moved.remove(&number).unwrap_or_default();
            if !self.causes.contains_key(&number) || moved.len() != 2 || moved.iter().sum::<i64>() != 0 {
                self.fail("a transfer is in parts", format!("{number}: {moved:?}"));
            }
            for tally in tallies(number) {
                if !self.counted.contains(&(number, tally.clone())) {
                    self.fail("a transfer was not counted", format!("{number} by {tally}"));
                }
            }
        }
    }
}
