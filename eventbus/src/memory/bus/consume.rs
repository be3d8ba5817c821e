//! The consumer of one group of the in-process bus.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
};

use tokio::sync::watch;

use super::inner::BusInner;
use crate::{
    delivery::{
        DEFAULT_IN_FLIGHT_BYTES, DisposedEntry, Disposition, InFlight, StopSignal, log_skipped_type, run_workers,
    },
    domain::name::Name,
    port::MessageId,
};

/// Consumes for a group until it is stopped.
pub(super) async fn consume_group(inner: Arc<BusInner>, group: Name, stop: StopSignal) {
    inner.log().begin_group(&group, inner.subscribers().start_now(&group));
    let context = inner.group_context(&group);
    let in_flight =
        InFlight::new(inner.settings().max_in_flight, DEFAULT_IN_FLIGHT_BYTES, inner.settings().clock.clone());
    let in_flight = Arc::new(in_flight.with_max_waiting(inner.settings().max_waiting));
    let mut working = pin!(run_workers(&in_flight, &context, &stop));
    let mut consumer = GroupConsumer {
        published: inner.watch_published(),
        inner,
        group,
        in_flight: Arc::clone(&in_flight),
        entry_numbers: HashMap::new(),
        skipped_types: HashSet::new(),
    };
    loop {
        tokio::select! {
            // a stop first, and entries in flight before new ones, so that a long backlog does not delay retries
            biased;
            () = &mut working => break,
            () = in_flight.disposed() => {}
            () = consumer.read_entries() => {}
        }
        consumer.apply_dispositions();
    }
    in_flight.nack_unfinished();
    consumer.apply_dispositions();
}

struct GroupConsumer {
    inner: Arc<BusInner>,
    group: Name,
    in_flight: Arc<InFlight>,
    published: watch::Receiver<()>,
    /// The numbers in the log of the entries that `in_flight` knows.
    entry_numbers: HashMap<MessageId, u64>,
    /// The event types that the group skipped since it began.
    skipped_types: HashSet<Name>,
}

impl GroupConsumer {
    /// Takes entries while there is room; if the log has no more, waits until there are more.
    async fn read_entries(&mut self) {
        'log: loop {
            for _ in 0..self.in_flight.room().await {
                let received = self.inner.log().take(&self.group);
                self.inner.notify_capacity_freed();
                let Some((number, entry)) = received else {
                    break 'log;
                };
                self.entry_numbers.insert(entry.id.clone(), number);
                self.in_flight.add([entry]);
                if self.in_flight.is_crowded() {
                    break;
                }
            }
        }
        // it does not fail: the bus, with the sender, lives as long as its consumers
        let _ = self.published.changed().await;
    }

    /// Applies the dispositions of entries, and releases the completed ones.
    fn apply_dispositions(&mut self) {
        let disposed = self.in_flight.take_disposed();
        if disposed.is_empty() {
            return;
        }
        let groups = self.inner.subscribers().groups();
        let completed: Vec<_> = disposed.into_iter().filter_map(|disposed| self.apply_disposition(disposed)).collect();
        self.inner.log().trim(&groups);
        self.in_flight.release(&completed);
    }

    /// Applies the disposition of an entry; returns its id if it is completed.
    fn apply_disposition(&mut self, disposed: DisposedEntry) -> Option<MessageId> {
        let DisposedEntry { id, record, disposition } = disposed;
        let number = self.entry_numbers.get(&id).copied()?;
        let mut log = self.inner.log();
        match disposition {
            Disposition::Acknowledge { .. } => log.cursor(&self.group).remove(number),
            Disposition::Skip => {
                log.cursor(&self.group).remove(number);
                self.inner.counters().events_skipped(1);
                if let Some(record) = record
                    && self.skipped_types.insert(record.event_type().clone())
                {
                    log_skipped_type(&self.group, record.event_type());
                }
            }
            Disposition::DeadLetter(attempts) => {
                self.inner.counters().messages_sent_to_dlq(1);
                log.move_to_dead_letters(&self.group, number, attempts);
            }
            Disposition::Retry { attempts, .. } => {
                log.cursor(&self.group).record_attempts(number, attempts);
                return None;
            }
            Disposition::Begin(attempts) => {
                log.cursor(&self.group).record_attempts(number, attempts);
                self.in_flight.begin([&id]);
                return None;
            }
        }
        drop(log);
        self.entry_numbers.remove(&id);
        Some(id)
    }
}
