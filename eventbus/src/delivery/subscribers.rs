//! The subscribers of a bus, by consumer group; shared by all buses.

use std::{
    collections::BTreeMap,
    iter,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::ActiveSubscriber;
use crate::{
    domain::{name::Name, shown::rfc3339},
    port::{
        Subscriber, SubscriberStatus, Subscription,
        health::{CrowdedGroup, Health, OldestUnfinished, RunningHandler},
        stats::InFlightCounts,
        subscriber::HandlerStart,
    },
};

/// The subscribers of a bus, by consumer group. Cloning shares them.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("Subscribers({:?})", self.groups())]
pub struct Subscribers {
    /// Each consumer reads them; subscribing and unsubscribing writes them.
    entries: Arc<RwLock<NumberedSubscribers>>,
    next_id: Arc<AtomicU64>,
    changed: watch::Sender<()>,
    /// Reports of health read them; the start of a consumer writes them.
    in_flight: Arc<RwLock<Vec<GroupInFlight>>>,
}

/// Subscribers by their numbers, in the order they were added.
type NumberedSubscribers = Vec<(u64, Arc<ActiveSubscriber>)>;

/// The unfinished entries of a consumer, for reports of health.
pub trait ConsumerReport: Send + Sync {
    /// Returns how many entries wait for a retry, and since when, if they are too many.
    fn crowded(&self) -> Option<(usize, OffsetDateTime)>;

    /// Returns the entry that has been unfinished for longest since it failed.
    fn oldest_unfinished(&self, group: &Name) -> Option<OldestUnfinished>;

    /// Counts the entries that it has in flight.
    fn counts(&self) -> InFlightCounts;
}

/// A group, and the report of one of its consumers.
type GroupInFlight = (Name, Weak<dyn ConsumerReport>);

impl Subscribers {
    /// Adds a subscriber to a group, from the next delivery on. If the group has a subscriber of that name, the new one
    /// gets a number behind its name (`name#2`), as attempts record successes and failures by name. If that subscriber is
    /// of an app that has ended, the new one takes its place and its name; runs of the former one still end.
    pub fn add(&self, group: Name, subscriber: Subscriber) -> Subscription {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.write();
        let is_named = |other: &ActiveSubscriber, name: &Name| *other.group() == group && other.name() == name;
        let is_taken = |name: &Name| entries.iter().any(|(_, other)| is_named(other, name) && !other.is_leaving());
        let numbered = (2..).map(|number| subscriber.name().numbered(number));
        let free = iter::once(subscriber.name().clone()).chain(numbered).find(|name| !is_taken(name));
        let subscriber = subscriber.joining(free);
        // at no time has the group no handler, nor do both get one delivery
        entries.retain(|(_, other)| !is_named(other, subscriber.name()));
        let subscriber = Arc::new(ActiveSubscriber::new(group.clone(), subscriber));
        entries.push((id, Arc::clone(&subscriber)));
        // the lock is free before receivers of the change read the list
        drop(entries);
        self.changed.send_replace(());
        let subscribers = self.clone();
        Subscription::new(group, move || subscribers.remove(id)).on_leave(move || subscriber.leave())
    }

    fn remove(&self, id: u64) -> bool {
        let mut entries = self.entries.write();
        let before = entries.len();
        entries.retain(|(other, _)| *other != id);
        let is_removed = entries.len() < before;
        drop(entries);
        self.changed.send_replace(());
        is_removed
    }

    /// The groups that have subscribers, sorted.
    #[must_use]
    pub fn groups(&self) -> Vec<Name> {
        let mut groups: Vec<_> = self.entries.read().iter().map(|(_, subscriber)| subscriber.group().clone()).collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// The subscribers of a group, in the order they subscribed.
    #[must_use]
    pub fn of_group(&self, group: &Name) -> Vec<Arc<ActiveSubscriber>> {
        of_group(&self.entries.read(), group).map(Arc::clone).collect()
    }

    /// Returns all subscribers, in the order they subscribed.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<dyn SubscriberStatus>> {
        self.entries.read().iter().map(|(_, subscriber)| Arc::clone(subscriber) as _).collect()
    }

    /// Returns the versions of an event type that the subscribers of a group were made for.
    #[must_use]
    pub fn versions(&self, group: &Name, event_type: &Name) -> Vec<u32> {
        let of_group = self.of_group(group);
        let events = of_group.iter().flat_map(|subscriber| subscriber.events().descriptors());
        events.filter(|event| event.is_named(event_type)).map(|event| event.schema_version).collect()
    }

    /// Returns `true` if every subscriber of a group begins with events from now on.
    #[must_use]
    pub fn start_now(&self, group: &Name) -> bool {
        let subscribers = self.of_group(group);
        let begins_now = |subscriber: &Arc<ActiveSubscriber>| subscriber.options().start == Some(HandlerStart::Now);
        !subscribers.is_empty() && subscribers.iter().all(begins_now)
    }

    /// Returns the highest concurrency that a subscriber of the group sets; 0 if none does.
    pub(super) fn most_concurrency(&self, group: &Name) -> usize {
        let entries = self.entries.read();
        let most = of_group(&entries, group).filter_map(|subscriber| subscriber.options().concurrency).max();
        most.unwrap_or_default() as usize
    }

    /// Adds to a report the long runs of the handlers, the database faults they wait for, and the unfinished deliveries
    /// of the consumers.
    pub fn report(&self, mut health: Health) -> Health {
        let entries = self.entries.read();
        health.in_flight.extend(entries.iter().filter_map(|(_, subscriber)| subscriber.long_run()));
        health.waiting.extend(entries.iter().filter_map(|(_, subscriber)| subscriber.waiting()));
        health.crowded.extend(self.crowded_groups());
        health.with_oldest_unfinished(self.oldest_unfinished())
    }

    /// Returns for each group the delivery of this process that has been unfinished for longest since it failed.
    fn oldest_unfinished(&self) -> Vec<OldestUnfinished> {
        let all_in_flight = self.in_flight.read();
        all_in_flight.iter().filter_map(|(group, in_flight)| in_flight.upgrade()?.oldest_unfinished(group)).collect()
    }

    /// Counts the entries that the consumers of each group have in flight.
    #[must_use]
    pub fn in_flight(&self) -> BTreeMap<Name, InFlightCounts> {
        let mut groups: BTreeMap<Name, InFlightCounts> = BTreeMap::new();
        for (group, in_flight) in &*self.in_flight.read() {
            if let Some(in_flight) = in_flight.upgrade() {
                *groups.entry(group.clone()).or_default() += in_flight.counts();
            }
        }
        groups
    }

    /// Includes in reports from now on the unfinished entries of a consumer, and whether too many of them wait.
    pub(crate) fn add_in_flight(&self, group: &Name, in_flight: Weak<dyn ConsumerReport>) {
        let mut all_in_flight = self.in_flight.write();
        all_in_flight.retain(|(_, weak)| weak.strong_count() > 0);
        all_in_flight.push((group.clone(), in_flight));
    }

    fn crowded_groups(&self) -> Vec<CrowdedGroup> {
        let all_in_flight = self.in_flight.read();
        let crowded = |(group, in_flight): &GroupInFlight| {
            let (waiting, since) = in_flight.upgrade()?.crowded()?;
            Some(CrowdedGroup { group: group.to_string(), waiting: waiting as u64, since: rfc3339(since) })
        };
        all_in_flight.iter().filter_map(crowded).collect()
    }

    /// Returns the longest run of a group's handlers, if it is long.
    #[must_use]
    pub fn long_run(&self, group: &Name) -> Option<RunningHandler> {
        let entries = self.entries.read();
        of_group(&entries, group).filter_map(|subscriber| subscriber.long_run()).max_by_key(|run| run.seconds)
    }

    /// Returns the number of runs of a group's handlers without a slot: they are long, or block their threads.
    pub(super) fn without_slot(&self, group: &Name) -> usize {
        of_group(&self.entries.read(), group).map(|subscriber| subscriber.without_slot()).sum()
    }

    /// Returns a receiver that changes when subscribers join or leave.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Returns the subscribers of a group, in the order they subscribed.
fn of_group<'e>(entries: &'e NumberedSubscribers, group: &Name) -> impl Iterator<Item = &'e Arc<ActiveSubscriber>> {
    entries.iter().map(|(_, subscriber)| subscriber).filter(move |subscriber| subscriber.group() == group)
}
