//! The JSON of every status of this crate: operators and dashboards read it, so each name in it is deliberate.
//!
//! Each test builds a status field by field: a new field does not compile before the test states its JSON.

use std::{borrow::Borrow, collections::BTreeMap, time::Duration};

use eventbus::port::MessageId;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    RecoveryStats, RetiredGroup, TrimBlockReason, TrimBlocker, Trimmed,
    reply::Entry,
    streams::{Applied, GroupHealth, ProjectionProgress, StreamHealth},
};

fn is<T: Serialize>(status: &T, expected: impl Borrow<Value>) {
    assert_eq!(serde_json::to_value(status).unwrap(), *expected.borrow(), "{}", std::any::type_name::<T>());
}

#[test]
fn trimming_and_groups() {
    let held = |reason| TrimBlocker {
        group: "billing".into(),
        reason,
        oldest: MessageId::new("1-0"),
        age: Duration::from_millis(1_500),
    };
    let trimmed = Trimmed { removed: 3, held_by: Some(held(TrimBlockReason::Unread)) };
    let expected = json!({
        "removed": 3, "held_by": { "group": "billing", "reason": "unread", "oldest": "1-0", "age": 1.5 },
    });
    is(&trimmed, expected);
    is(&Trimmed::default(), json!({ "removed": 0, "held_by": null }));
    is(&[TrimBlockReason::Pending, TrimBlockReason::Projection], json!(["pending", "projection"]));
    is(&RetiredGroup { pending: 1, unread: 2 }, json!({ "pending": 1, "unread": 2 }));
    let recovery = RecoveryStats { checked: 5, claimed: 4, reprocessed: 3, dlq: 2, failed: 1 };
    is(&recovery, json!({ "checked": 5, "claimed": 4, "reprocessed": 3, "dlq": 2, "failed": 1 }));
}

/// No status shows the contents of a stream: a health route may show the status.
#[test]
fn the_health_of_a_stream_names_entries_by_their_ids() {
    let entry = |id: &str| Entry { id: id.into(), fields: Some(vec![("data".into(), b"secret".to_vec())]) };
    let group = GroupHealth {
        name: "billing".into(),
        consumers: 2,
        pending: 3,
        last_delivered_id: MessageId::new("4-0"),
        lag: Some(5),
    };
    let health = StreamHealth {
        length: 8,
        first_entry: Some(entry("1-0").into()),
        last_entry: Some(entry("8-0").into()),
        consumer_groups: vec![group],
        projections: BTreeMap::from([("events:order-stats".into(), MessageId::new("6-0"))]),
    };
    let expected = json!({
        "length": 8, "first_entry": "1-0", "last_entry": "8-0",
        "consumer_groups": [
            { "name": "billing", "consumers": 2, "pending": 3, "last_delivered_id": "4-0", "lag": 5 },
        ],
        "projections": { "events:order-stats": "6-0" },
    });
    is(&health, expected);
}

#[test]
fn projections_over_plain_streams() {
    let applied = Applied {
        processed: 5,
        unknown: BTreeMap::from([("order.lost".into(), 1)]),
        skipped: 2,
        position: Some(MessageId::new("6-0")),
    };
    let expected = json!({ "processed": 5, "unknown": { "order.lost": 1 }, "skipped": 2, "position": "6-0" });
    is(&applied, expected);
    let progress = ProjectionProgress { done: 500, of: 2_000, took: Duration::from_millis(1_500) };
    is(&progress, json!({ "done": 500, "of": 2_000, "took": 1.5 }));
}
