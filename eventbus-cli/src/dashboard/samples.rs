//! Samples of throughput and lag, in a bounded ring in memory.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::source::{DashboardSource, KnownRows};
use crate::{
    error::CommandError,
    query::{LagRow, ReaderSort},
};

/// The number of samples that are kept: an hour, at one every five seconds.
const SAMPLES_MAX: usize = 720;
/// The shortest interval of samples: each one reads store and bus.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The longest interval of samples.
const INTERVAL_MAX: Duration = Duration::from_hours(24);
/// The longest age of a sample from which pages show the lag of the readers.
const LATEST_AGE_MAX: Duration = Duration::from_secs(10);
/// The most readers in a sample; the rest is left out.
const READERS_MAX: usize = 100;

/// The most recent samples.
#[derive(Debug)]
pub(super) struct Samples {
    /// Locked to add a sample, or to copy all for a page.
    ring: Mutex<VecDeque<Sample>>,
    /// The lags of all readers at the last sample, which all pages show until the next one.
    latest: Mutex<Option<(OffsetDateTime, KnownRows<LagRow>)>>,
    interval: Duration,
    has_begun: AtomicBool,
}

/// The state of store and readers at one time.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    at: OffsetDateTime,
    head: Option<u64>,
    readers: Vec<(ReaderSort, String, f64)>,
}

impl Samples {
    /// Prepares samples at this interval, or at the nearest one that is allowed.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            ring: Mutex::new(VecDeque::new()),
            latest: Mutex::new(None),
            interval: interval.clamp(INTERVAL_MIN, INTERVAL_MAX),
            has_begun: AtomicBool::new(false),
        }
    }

    pub(super) const fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns `true` once: the caller then takes the samples.
    pub(super) fn begin(&self) -> bool {
        !self.has_begun.swap(true, Ordering::Relaxed)
    }

    /// Takes a sample; while the store is away, takes none. The head is read first: a bus that is away delays the lags.
    pub(super) async fn take(&self, source: &DashboardSource) {
        let at = source.clock().now();
        let head = match source.optional_store() {
            Some(store) => store.head().await.ok().map(|head| head.get()),
            None => None,
        };
        let Ok(mut lags) = source.lags().await else { return };
        *self.latest.lock() = Some((source.clock().now(), lags.clone()));
        lags.rows.truncate(READERS_MAX);
        let readers = lags.rows.into_iter().filter_map(|row: LagRow| Some((row.kind, row.name, row.seconds?)));
        self.add(Sample { at, head, readers: readers.collect() });
    }

    /// Returns the lags of the readers with their time: from the last sample, or read now if that is too old.
    pub(super) async fn latest_lags(
        &self,
        source: &DashboardSource,
    ) -> Result<(OffsetDateTime, KnownRows<LagRow>), CommandError> {
        let now = source.clock().now();
        let latest = self.latest.lock().clone();
        let age_max = (2 * self.interval).min(LATEST_AGE_MAX);
        match latest.filter(|(at, _)| now - *at < age_max) {
            Some(latest) => Ok(latest),
            None => Ok((now, source.lags().await?)),
        }
    }

    fn add(&self, sample: Sample) {
        let mut ring = self.ring.lock();
        if ring.len() >= SAMPLES_MAX {
            ring.pop_front();
        }
        ring.push_back(sample);
    }

    /// Returns events per second between each two samples, with the seconds before `now`. The real rate may be lower,
    /// because positions have gaps.
    pub(super) fn throughput(&self, now: OffsetDateTime) -> Vec<(f64, f64)> {
        let ring = self.ring.lock();
        let pairs = ring.iter().zip(ring.iter().skip(1));
        let rate = |(before, after): (&Sample, &Sample)| {
            let seconds = (after.at - before.at).as_seconds_f64();
            let events = after.head?.saturating_sub(before.head?);
            (seconds > 0.0).then(|| ((after.at - now).as_seconds_f64(), events as f64 / seconds))
        };
        pairs.filter_map(rate).collect()
    }

    /// Returns the lag of a reader in seconds at each sample, with the seconds before `now`.
    pub(super) fn lag(&self, sort: ReaderSort, name: &str, now: OffsetDateTime) -> Vec<(f64, f64)> {
        let ring = self.ring.lock();
        let lag = |sample: &Sample| {
            let found = sample.readers.iter().find(|(kind, reader, _)| *kind == sort && reader == name)?;
            Some(((sample.at - now).as_seconds_f64(), found.2))
        };
        ring.iter().filter_map(lag).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eventbus::{InMemoryEventBus, InMemoryEventStore, Name, Position, port::Checkpoints as _};

    use super::*;
    use crate::connection::OpenBus;

    #[tokio::test]
    async fn rare_samples_are_no_answer_for_long() {
        let store = InMemoryEventStore::new();
        store.save_checkpoint(&Name::from_static("projection:totals"), Position::START).await.unwrap();
        let source = DashboardSource::new(Some(Arc::new(store)), OpenBus::Other(Arc::new(InMemoryEventBus::new())));
        let samples = Samples::new(Duration::from_secs(3_600));
        for (age, is_shown) in [(1, true), (60, false)] {
            let sampled = KnownRows { rows: Vec::new(), bus_problem: None };
            *samples.latest.lock() = Some((source.clock().now() - Duration::from_secs(age), sampled));
            let (_, lags) = samples.latest_lags(&source).await.unwrap();
            assert_eq!(lags.rows.is_empty(), is_shown, "a sample of {age} s ago");
        }
    }

    #[test]
    fn the_ring_is_bounded_and_rates_are_between_samples() {
        let samples = Samples::new(Duration::from_secs(5));
        for number in 0..1_000_u64 {
            let at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(5 * number);
            let readers = vec![(ReaderSort::Relay, "bus".into(), number as f64)];
            samples.add(Sample { at, head: Some(10 * number), readers });
        }
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(5 * 999);
        let rates = samples.throughput(now);
        assert_eq!((rates.len(), rates[0], rates[718]), (719, (-3_590.0, 2.0), (0.0, 2.0)));
        let lag = samples.lag(ReaderSort::Relay, "bus", now);
        assert_eq!((lag.len(), lag[719]), (720, (0.0, 999.0)));
        assert_eq!(samples.lag(ReaderSort::Group, "bus", now), []);
    }

    #[test]
    fn samples_are_at_least_a_tenth_of_a_second_apart_and_at_most_a_day() {
        let intervals = [Duration::ZERO, Duration::from_secs(5), Duration::MAX].map(|of| Samples::new(of).interval());
        assert_eq!(intervals, [INTERVAL_MIN, Duration::from_secs(5), INTERVAL_MAX]);
    }
}
