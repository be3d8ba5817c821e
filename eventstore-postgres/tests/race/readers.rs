//! The readers: the feed, and readers that are known to be wrong.

use std::time::Duration;

use eventbus::{Position, RecordedEvent, port::ReadFeed as _};
use futures_util::StreamExt as _;
use sqlx::Connection as _;

use crate::{
    Race,
    common::{connect, run},
};

/// Time that a reader waits after an empty read before it polls again.
const POLL: Duration = Duration::from_millis(2);

/// Follows the feed, resuming when its backend is killed, until the race is over and no event remains.
pub(crate) async fn follow(race: Race) -> Vec<RecordedEvent> {
    let store = race.store("follower").await;
    let mut seen: Vec<RecordedEvent> = Vec::new();
    loop {
        let was_over = race.is_over();
        let before = seen.len();
        let after = seen.last().and_then(RecordedEvent::position);
        let mut feed = store.read_all(after.unwrap_or(Position::START));
        let mut is_whole = true;
        while let Some(event) = feed.next().await {
            match event {
                Ok(event) => seen.push(event),
                Err(_) => is_whole = false,
            }
        }
        if seen.len() == before && is_whole {
            if was_over {
                return seen;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Ways to follow the table of events that look right, but are wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WrongReader {
    /// Reads all events after the last position seen.
    AfterPosition,
    /// The same, but only events of transactions older than all running ones.
    BelowOldestTransaction,
    /// The safe bound and the page in one statement, hence in one snapshot, which is older than the bound.
    BoundInSnapshot,
}

impl WrongReader {
    pub(crate) const ALL: [Self; 3] = [Self::AfterPosition, Self::BelowOldestTransaction, Self::BoundInSnapshot];

    const fn sql(self) -> &'static str {
        match self {
            Self::AfterPosition => "SELECT position FROM events WHERE position > $1 ORDER BY position",
            Self::BelowOldestTransaction => {
                "SELECT position FROM events
                 WHERE position > $1
                   AND xmin::text::bigint < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                 ORDER BY position"
            }
            // 341769 is the lock namespace of the schema `eventbus`. The nap stands for a backend that has to wait for
            // a processor: without it events are lost too, but not in every run.
            Self::BoundInSnapshot => {
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
                 SELECT position FROM events, bound WHERE position > $1 AND position <= upto ORDER BY position"
            }
        }
    }

    /// Follows until the race is over and no event remains, and returns how many events it saw.
    pub(crate) async fn follow(self, race: Race) -> usize {
        let mut connection = connect(race.url()).await;
        run(&mut connection, "SET search_path TO eventbus").await;
        let (mut cursor, mut seen) = (0_i64, 0);
        loop {
            let was_over = race.is_over();
            let query = sqlx::query_scalar(self.sql()).bind(cursor);
            let page: Vec<i64> = query.fetch_all(&mut connection).await.unwrap();
            seen += page.len();
            match page.last() {
                Some(last) => cursor = *last,
                None if was_over => break,
                None => tokio::time::sleep(POLL).await,
            }
        }
        connection.close().await.unwrap();
        seen
    }
}
