//! The subscribers of a bus, by consumer group; shared by all buses.

use std::sync::{
    Arc, PoisonError, RwLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

use super::{
    Announced, CrowdedGroup, HandlerStart, Health, InFlight, OldestUnfinished, RunningHandler, Subscriber,
    activity::Activity,
};
use crate::domain::{name::Name, shown::rfc3339};

/// The subscribers of a bus, by consumer group. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Subscribers {
    entries: Arc<RwLock<Vec<SubscriberEntry>>>,
    next_id: Arc<AtomicU64>,
    changed: watch::Sender<()>,
    in_flight: Arc<RwLock<Vec<GroupInFlight>>>,
}

/// A group, and the in-flight entries of one of its consumers.
type GroupInFlight = (Name, Weak<InFlight>);

#[derive(Debug)]
struct SubscriberEntry {
    id: u64,
    group: Name,
    subscriber: Subscriber,
}

impl Default for Subscribers {
    fn default() -> Self {
        let (entries, next_id, all_in_flight) = Default::default();
        Self { entries, next_id, changed: watch::Sender::new(()), in_flight: all_in_flight }
    }
}

impl Subscribers {
    /// Adds a subscriber to a group, from the next delivery on. If the group has one of that name, the new one gets a
    /// number behind it (`name#2`), as attempts record successes and failures by name.
    pub fn add(&self, group: Name, subscriber: Subscriber) -> Subscription {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.write();
        let is_taken = |name: &Name| entries.iter().any(|e| e.group == group && e.subscriber.name() == name);
        let subscriber = match is_taken(subscriber.name()) {
            true => {
                let mut names = (2..).map(|number| subscriber.name().numbered(number));
                let free = names.find(|name| !is_taken(name));
                subscriber.renamed(free)
            }
            false => subscriber,
        };
        entries.push(SubscriberEntry { id, group: group.clone(), subscriber });
        drop(entries);
        self.changed.send_replace(());
        Subscription { id, group, subscribers: self.clone() }
    }

    /// The groups that have subscribers, sorted.
    #[must_use]
    pub fn groups(&self) -> Vec<Name> {
        let mut groups: Vec<_> = self.read().iter().map(|entry| entry.group.clone()).collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// The subscribers of a group, in the order they subscribed.
    #[must_use]
    pub fn of_group(&self, group: &Name) -> Vec<Subscriber> {
        self.read().iter().filter(|entry| entry.group == *group).map(|entry| entry.subscriber.clone()).collect()
    }

    /// Returns `true` if a subscriber of a group handles this event type.
    #[must_use]
    pub fn handle(&self, group: &Name, event_type: &Name) -> bool {
        let of_group = |entry: &&SubscriberEntry| entry.group == *group;
        self.read().iter().filter(of_group).any(|entry| entry.subscriber.events().matches(event_type))
    }

    /// Returns the number of subscribers, counted as the tutorial does: a projection of two types is two.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().iter().map(|entry| entry.subscriber.events().descriptors().len()).sum()
    }

    /// Returns the number of subscribers that want this type by name.
    #[must_use]
    pub fn count_of(&self, event_type: &str) -> usize {
        let wants =
            |entry: &&SubscriberEntry| !entry.subscriber.is_wildcard() && entry.subscriber.events().matches(event_type);
        self.read().iter().filter(wants).count()
    }

    /// Returns the number of subscribers that want every event.
    #[must_use]
    pub fn wildcard_count(&self) -> usize {
        self.read().iter().filter(|entry| entry.subscriber.is_wildcard()).count()
    }

    /// Returns the types that the subscribers of a group handle, each type and version once; if several differ in where
    /// they begin, the one that wants more counts.
    #[must_use]
    pub fn announced(&self, group: &Name) -> Vec<Announced> {
        let of_group = self.of_group(group);
        let each = of_group.iter().map(|subscriber| (group, subscriber.events(), subscriber.options().start));
        Announced::all(each)
    }

    /// Returns the versions of an event type that the subscribers of a group were made for.
    #[must_use]
    pub fn versions(&self, group: &Name, event_type: &Name) -> Vec<u32> {
        let of_group = self.of_group(group);
        let events = of_group.iter().flat_map(|subscriber| subscriber.events().descriptors());
        events.filter(|event| event.event_type == event_type.as_str()).map(|event| event.schema_version).collect()
    }

    /// Returns `true` if every subscriber of a group begins with events from now on.
    #[must_use]
    pub fn start_now(&self, group: &Name) -> bool {
        let subscribers = self.of_group(group);
        let begins_now = |subscriber: &Subscriber| subscriber.options().start == Some(HandlerStart::Now);
        !subscribers.is_empty() && subscribers.iter().all(begins_now)
    }

    /// Returns the highest concurrency that a subscriber of the group sets; 0 if none does.
    pub(super) fn most_concurrency(&self, group: &Name) -> usize {
        let entries = self.read();
        let of_group = entries.iter().filter(|entry| entry.group == *group);
        let most = of_group.filter_map(|entry| entry.subscriber.options().concurrency).max();
        most.unwrap_or_default() as usize
    }

    /// Adds to a report the long runs of the handlers, the database faults they wait for, and the unfinished deliveries
    /// of the consumers.
    #[must_use]
    pub fn report(&self, health: Health) -> Health {
        let entries = self.read();
        let in_flight = entries.iter().filter_map(|entry| entry.subscriber.long_run()).collect();
        let waiting = entries.iter().filter_map(|entry| entry.subscriber.waiting()).collect();
        let health =
            health.with_running_handlers(in_flight).with_waiting(waiting).with_crowded_groups(self.crowded_groups());
        health.with_oldest_unfinished(self.oldest_unfinished())
    }

    /// Returns for each group the delivery of this process that has been unfinished for longest since it failed.
    fn oldest_unfinished(&self) -> Vec<OldestUnfinished> {
        let all_in_flight = self.in_flight.read().unwrap_or_else(PoisonError::into_inner);
        all_in_flight.iter().filter_map(|(group, in_flight)| in_flight.upgrade()?.oldest_unfinished(group)).collect()
    }

    /// Reports from now on the unfinished entries of a consumer, and if too many of them wait.
    pub(super) fn add_in_flight(&self, group: &Name, in_flight: &Arc<InFlight>) {
        let mut all_in_flight = self.in_flight.write().unwrap_or_else(PoisonError::into_inner);
        all_in_flight.retain(|(_, weak)| weak.strong_count() > 0);
        all_in_flight.push((group.clone(), Arc::downgrade(in_flight)));
    }

    fn crowded_groups(&self) -> Vec<CrowdedGroup> {
        let all_in_flight = self.in_flight.read().unwrap_or_else(PoisonError::into_inner);
        let crowded = |(group, in_flight): &GroupInFlight| {
            let (waiting, since) = in_flight.upgrade()?.crowded()?;
            Some(CrowdedGroup { group: group.to_string(), waiting: waiting as u64, since: rfc3339(since) })
        };
        all_in_flight.iter().filter_map(crowded).collect()
    }

    /// Returns the longest run of a group's handlers, if it is long.
    #[must_use]
    pub fn long_run(&self, group: &Name) -> Option<RunningHandler> {
        let entries = self.read();
        let of_group = entries.iter().filter(|entry| entry.group == *group);
        of_group.filter_map(|entry| entry.subscriber.long_run()).max_by_key(|run| run.seconds)
    }

    /// Returns the activity of each subscriber.
    pub(crate) fn activities(&self) -> Vec<Arc<Activity>> {
        self.read().iter().map(|entry| Arc::clone(entry.subscriber.activity())).collect()
    }

    /// Returns the number of runs of a group's handlers without a slot: they are long, or block their threads.
    pub(super) fn without_slot(&self, group: &Name) -> usize {
        let entries = self.read();
        let of_group = entries.iter().filter(|entry| entry.group == *group);
        of_group.map(|entry| entry.subscriber.activity().without_slot()).sum()
    }

    /// Returns a receiver that changes when subscribers join or leave.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<SubscriberEntry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<SubscriberEntry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subscription of one subscriber. It outlives this value; only [`cancel`](Self::cancel) ends it.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    group: Name,
    subscribers: Subscribers,
}

impl Subscription {
    /// The consumer group it belongs to.
    #[must_use]
    pub const fn group(&self) -> &Name {
        &self.group
    }

    /// Ends the subscription: no delivery begun from now on reaches the subscriber. Returns `true` if it was still
    /// there.
    pub fn cancel(&self) -> bool {
        let mut entries = self.subscribers.write();
        let before = entries.len();
        entries.retain(|entry| entry.id != self.id);
        let cancelled = entries.len() < before;
        drop(entries);
        self.subscribers.changed.send_replace(());
        cancelled
    }
}
