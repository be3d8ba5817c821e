//! Readers of the feed that are known to be wrong.

use std::time::Duration;

use eventbus::Uuid;
use sqlx::PgConnection;

use super::Race;
use crate::fire::{
    HarnessError,
    auditor::Violation,
    evidence::{Effect, Order, Promise, Reader},
};

/// Time that a reader waits after an empty read before it polls again.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Ways to follow the table of events that look right, but are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultyReader {
    /// Reads all events after the last position seen.
    Naive,
    /// As `Naive`, but only events of transactions older than all running ones.
    BelowOldest,
    /// By transaction and position, of transactions older than all running ones.
    ByTransaction,
    /// Reads the safe bound and the page in one statement, hence in one snapshot, which is older than the bound.
    OneStatement,
}

/// The cursor of a wrong reader, and the events it has seen.
#[derive(Debug, Clone, Default)]
pub(super) struct ReaderCursor {
    pub(super) xid: i64,
    pub(super) position: i64,
    pub(super) seen: Vec<Effect>,
}

impl FaultyReader {
    pub(super) const ALL: [Self; 4] = [Self::Naive, Self::BelowOldest, Self::ByTransaction, Self::OneStatement];

    /// The violations of which a wrong reader must commit one.
    pub(super) const EXPECTED_VIOLATIONS: [Violation; 3] =
        [Violation::Skipped, Violation::Repeated, Violation::Reordered];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::BelowOldest => "position below xmin",
            Self::ByTransaction => "(xid, position)",
            Self::OneStatement => "one statement",
        }
    }

    const fn sql(self) -> &'static str {
        match self {
            Self::Naive => {
                "SELECT xid, position, event_id FROM events
                 WHERE position > $1 AND $2 >= 0 ORDER BY position LIMIT 5000"
            }
            Self::BelowOldest => {
                "SELECT xid, position, event_id FROM events
                 WHERE position > $1 AND $2 >= 0
                   AND xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                 ORDER BY position LIMIT 5000"
            }
            Self::ByTransaction => {
                "SELECT xid, position, event_id FROM events
                 WHERE (xid, position) > ($2, $1) AND xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                 ORDER BY xid, position LIMIT 5000"
            }
            // the nap stands for a backend that waits for a processor
            Self::OneStatement => {
                "WITH nap AS MATERIALIZED (SELECT pg_sleep(0.01)::text AS done),
                 bound AS MATERIALIZED (
                     SELECT least(r.drawn, (
                         SELECT min(((l.classid::bigint << 32) | l.objid::bigint) & ((1::bigint << 44) - 1))
                         FROM pg_locks l
                         WHERE r.drawn IS NOT NULL AND l.locktype = 'advisory' AND l.objsubid = 1
                           AND (l.classid::bigint >> 12) = 341769
                           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))) AS upto
                     FROM (
                         SELECT (SELECT last_value FROM events_position_seq WHERE nap.done = '') AS drawn
                         FROM nap OFFSET 0) r)
                 SELECT xid, position, event_id FROM events, bound
                 WHERE position > $1 AND $2 >= 0 AND position <= upto ORDER BY position LIMIT 5000"
            }
        }
    }

    /// Reads a page; returns `false` if it is empty.
    async fn page(self, connection: &mut PgConnection, cursor: &mut ReaderCursor) -> Result<bool, HarnessError> {
        let query = sqlx::query_as::<_, (i64, i64, Uuid)>(self.sql()).bind(cursor.position).bind(cursor.xid);
        let page = query.fetch_all(connection).await?;
        cursor.seen.extend(page.iter().map(|(.., event)| Effect { event: *event, epoch: 0 }));
        if let Some((xid, position, _)) = page.last() {
            (cursor.xid, cursor.position) = (*xid, *position);
        }
        Ok(!page.is_empty())
    }

    /// Follows until the race is over and no event remains.
    pub(super) async fn follow(self, race: Race, mut cursor: ReaderCursor) -> Result<Reader, HarnessError> {
        let mut connection = race.database().connection("wrong").await?;
        loop {
            let was_over = race.is_over();
            if !self.page(&mut connection, &mut cursor).await? {
                if was_over {
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        let promise = Promise { once: true, order: Order::PerAggregate };
        Ok(Reader { name: self.name().into(), promise, effects: cursor.seen, ..Reader::default() })
    }
}
