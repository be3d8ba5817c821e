use std::{collections::HashSet, sync::Arc};

use eventbus::Result;
use sqlx::{PgConnection, query_scalar};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::StoredOrder;
use crate::order::{AGGREGATE_TYPE, EVENT_TYPE, ItemAdded};

/// Stores the events of the streams in `ok`, and returns the orders that are not among them.
macro_rules! store {
    ($claim:literal) => {
        concat!(
            "WITH ",
            $claim,
            ", event AS (
                INSERT INTO events (event_id, aggregate_type, aggregate_id, version, event_type, schema_version,
                    occurred_at, correlation_id, data)
                SELECT event_id, $1, e.id, e.version, $4, 1, occurred_at, correlation_id, data::json
                FROM unnest($5::text[], $6::bigint[], $7::uuid[], $8::timestamptz[], $9::uuid[], $10::text[])
                    WITH ORDINALITY AS e (id, version, event_id, occurred_at, correlation_id, data, place)
                JOIN ok ON ok.aggregate_id = e.id
                ORDER BY e.place)
            SELECT id FROM save WHERE id NOT IN (SELECT aggregate_id FROM ok)"
        )
    };
}

const STORE_NEW: &str = store!(
    "save AS (SELECT * FROM unnest($2::text[], $3::bigint[]) AS save (id, version)),
    ok AS (
        INSERT INTO streams SELECT $1, id, version FROM save ORDER BY id COLLATE \"C\"
        ON CONFLICT DO NOTHING
        RETURNING aggregate_id)"
);

/// `ON CONFLICT` finds each row by its key, where an `UPDATE` may be planned as a join with all rows.
const STORE: &str = store!(
    "save AS (SELECT * FROM unnest($2::text[], $3::bigint[], $11::bigint[]) AS save (id, version, expected)),
    new AS (
        INSERT INTO streams SELECT $1, id, version FROM save WHERE expected = 0 ORDER BY id COLLATE \"C\"
        ON CONFLICT DO NOTHING
        RETURNING aggregate_id),
    held AS (
        SELECT save.id, save.version
        FROM (SELECT * FROM save WHERE expected > 0 ORDER BY id COLLATE \"C\") AS save
        CROSS JOIN LATERAL (
            SELECT FROM streams s
            WHERE s.aggregate_type = $1 AND s.aggregate_id = save.id AND s.version = save.expected
            FOR UPDATE) AS stream),
    changed AS (
        INSERT INTO streams SELECT $1, id, version FROM held
        ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET version = excluded.version
        RETURNING aggregate_id),
    ok AS (SELECT * FROM new UNION ALL SELECT * FROM changed)"
);

/// Items that wait to be saved to an order with others.
pub struct GroupedSave {
    order: Uuid,
    id: String,
    /// The number of stored events that the caller knows.
    expected: i64,
    occurred_at: OffsetDateTime,
    correlation_id: Uuid,
    /// The id and the data of each event.
    events: Vec<(Uuid, String)>,
    answer: oneshot::Sender<Answer>,
}

/// `false` if the order has other events than its caller knows.
pub type Answer = Result<bool, Arc<sqlx::Error>>;

impl GroupedSave {
    pub fn new(held: &StoredOrder, items: &[ItemAdded], answer: oneshot::Sender<Answer>) -> Result<Self> {
        let events = items.iter().map(|item| Ok((Uuid::now_v7(), serde_json::to_string(item)?)));
        Ok(Self {
            order: held.id,
            id: held.id.to_string(),
            expected: held.version,
            occurred_at: OffsetDateTime::now_utc(),
            correlation_id: Uuid::now_v7(),
            events: events.collect::<Result<_>>()?,
            answer,
        })
    }

    pub fn order(&self) -> Uuid {
        self.order
    }

    /// Executes saves of different orders in one statement, and answers each.
    pub async fn execute(saves: Vec<Self>, connection: &mut PgConnection) {
        let stored = Self::store(&saves, connection).await.map_err(Arc::new);
        for save in saves {
            let answer = stored.as_ref().map(|conflicts| !conflicts.contains(&save.id)).map_err(Arc::clone);
            // a caller that went away needs no answer
            let _ = save.answer.send(answer);
        }
    }

    /// Returns the ids of the orders with other events than their callers know.
    async fn store(saves: &[Self], connection: &mut PgConnection) -> Result<HashSet<String>, sqlx::Error> {
        let ids: Vec<_> = saves.iter().map(|save| save.id.as_str()).collect();
        let versions: Vec<_> = saves.iter().map(|save| save.expected + save.events.len() as i64).collect();
        let expected: Vec<_> = saves.iter().map(|save| save.expected).collect();
        let is_new = expected.iter().all(|&expected| expected == 0);
        let (mut orders, mut numbers, mut event_ids) = (Vec::new(), Vec::new(), Vec::new());
        let (mut times, mut correlations, mut data) = (Vec::new(), Vec::new(), Vec::new());
        for save in saves {
            for (number, (event_id, json)) in (save.expected + 1..).zip(&save.events) {
                orders.push(save.id.as_str());
                numbers.push(number);
                event_ids.push(*event_id);
                times.push(save.occurred_at);
                correlations.push(save.correlation_id);
                data.push(json.as_str());
            }
        }
        let store = query_scalar(if is_new { STORE_NEW } else { STORE });
        let store = store.bind(AGGREGATE_TYPE).bind(ids).bind(versions).bind(EVENT_TYPE).bind(orders).bind(numbers);
        let store = store.bind(event_ids).bind(times).bind(correlations).bind(data);
        let store = if is_new { store } else { store.bind(expected) };
        Ok(store.fetch_all(connection).await?.into_iter().collect())
    }
}
