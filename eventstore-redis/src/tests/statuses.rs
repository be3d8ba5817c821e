//! The JSON of every status of this crate: operators and dashboards read it, so each name in it is deliberate.
//!
//! Each test builds a status field by field: a new field does not compile before the test states its JSON.

use std::borrow::Borrow;

use eventbus::Position;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Durability, DurabilityWarning};

fn is<T: Serialize>(status: &T, expected: impl Borrow<Value>) {
    assert_eq!(serde_json::to_value(status).unwrap(), *expected.borrow(), "{}", std::any::type_name::<T>());
}

#[test]
fn durability() {
    use DurabilityWarning as Warning;
    let warnings = vec![
        Warning::Lost { told: Position::new(9), found: Position::new(5) },
        Warning::NoAppendOnlyFile,
        Warning::AppendOnlyFileFails,
        Warning::SyncedEverySecond,
        Warning::SyncedByTheSystem,
        Warning::NotSyncedInRewrites,
        Warning::Evicts { policy: "allkeys-lru".into() },
        Warning::NoReplica,
        Warning::AcknowledgedAlone,
        Warning::NotChecked { setting: "appendonly" },
    ];
    let expected = json!({ "warnings": [
        { "warning": "lost", "told": 9, "found": 5 },
        { "warning": "no_append_only_file" },
        { "warning": "append_only_file_fails" },
        { "warning": "synced_every_second" },
        { "warning": "synced_by_the_system" },
        { "warning": "not_synced_in_rewrites" },
        { "warning": "evicts", "policy": "allkeys-lru" },
        { "warning": "no_replica" },
        { "warning": "acknowledged_alone" },
        { "warning": "not_checked", "setting": "appendonly" },
    ] });
    is(&Durability { warnings }, expected);
}
