//! The JSON of every status of this crate: operators and dashboards read it, so each name in it is deliberate.
//!
//! Each status is built field by field, so a new field does not compile before this file has its JSON.

use std::borrow::Borrow;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{CoordinationStatus, FileQueueError, FileQueueMetrics, FolderProblem, RemovalReport};

fn is<T: Serialize>(status: &T, expected: impl Borrow<Value>) {
    assert_eq!(serde_json::to_value(status).unwrap(), *expected.borrow(), "{}", std::any::type_name::<T>());
}

#[test]
fn every_status() {
    is(&RemovalReport { events: 3, through: 7 }, json!({ "events": 3, "through": 7 }));
    is(&CoordinationStatus::Alone, json!({ "state": "alone" }));
    is(&CoordinationStatus::Connected, json!({ "state": "connected" }));
    is(&CoordinationStatus::Away { error: "no".into() }, json!({ "state": "away", "error": "no" }));
    is(&CoordinationStatus::Refused { error: "no".into() }, json!({ "state": "refused", "error": "no" }));
    let metrics = json!({
        "events_published": 0, "id_collisions": 0, "gaps_filled": 0, "payloads_compressed": 0, "claims_created": 0,
        "claims_refused": 0, "claims_renewed": 0, "claims_lost": 0, "claims_taken_over": 0, "results_written": 0,
        "results_refused": 0, "broadcasts_sent": 0, "broadcasts_received": 0, "redis_failures": 0,
        "redis_reconnections": 0, "resyncs": 0, "files_unseen": 0,
    });
    is(&FileQueueMetrics::default(), metrics);
}

#[test]
fn what_does_not_belong_in_the_folder() {
    is(&FolderProblem::Foreign { path: "a".into() }, json!({ "problem": "foreign", "path": "a" }));
    is(&FolderProblem::UnusedPayload { path: "a".into() }, json!({ "problem": "unused_payload", "path": "a" }));
    let error = FileQueueError::torn("event", "a", "it is cut off");
    let torn = json!({ "problem": "torn", "path": "a", "error": "`a` holds no event: it is cut off" });
    is(&FolderProblem::Torn { path: "a".into(), error }, torn);
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt as _;
        let path = std::ffi::OsString::from_vec(vec![b'a', 0xff]).into();
        is(&FolderProblem::Foreign { path }, json!({ "problem": "foreign", "path": "a\u{fffd}" }));
    }
}
