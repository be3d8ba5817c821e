//! The counts of a bus that one app reports.
//!
//! Invariant: of the apps with handlers on a bus only one reports its growth, so that the sum over their metrics counts each
//! delivery once.

use parking_lot::Mutex;

use crate::port::{EventBus, app_number::AppNumber, stats::BusStats};

/// What an app has reported of the counts of its bus: their growth while the app was the first one with handlers there.
pub(super) struct BusShare {
    app: AppNumber,
    /// Locked for each report: reports of several readers must not count the same growth.
    counts: Mutex<Counts>,
}

struct Counts {
    /// The counts of the bus at the last report, or at the start of the app.
    last: BusStats,
    reported: BusStats,
}

impl BusShare {
    /// Creates the share of an app; `stats` are the counts of the bus before the app had subscribers there.
    pub(super) fn new(app: AppNumber, stats: BusStats) -> Self {
        Self { app, counts: Mutex::new(Counts { last: stats, reported: BusStats::default() }) }
    }

    /// Returns what the app has to report, with the growth since the last report if it is the first app.
    pub(super) fn report(&self, bus: &dyn EventBus) -> BusStats {
        let first = bus.subscribers().iter().find_map(|status| status.subscriber().app());
        let mut counts = self.counts.lock();
        let now = bus.stats();
        // without an app's subscribers only the program itself consumes: a bus of one app, usually
        if first.is_none_or(|first| first == self.app) {
            let last = counts.last;
            counts.reported.add_growth(&last, &now);
        }
        counts.last = now;
        counts.reported
    }
}
