//! Every name of a key or of an entry's field, and nowhere else.

/// The stream of all events.
pub(crate) fn stream(prefix: &str) -> String {
    format!("{prefix}:stream")
}

/// The stream of dead letters.
pub(crate) fn dead_letters(prefix: &str, suffix: &str) -> String {
    format!("{prefix}:stream{suffix}")
}

/// What was noted about the tries of a group's entries.
pub(crate) fn retry(stream: &str, prefix: &str, group: &str) -> String {
    beside(stream, &format!("{prefix}:{group}"))
}

/// The members of a group, and the types they handle.
pub(crate) fn members(stream: &str, group: &str) -> String {
    beside(stream, &format!("members:{group}"))
}

/// The first entry that each group has not finished.
pub(crate) fn floors(stream: &str) -> String {
    beside(stream, "floors")
}

/// A key in the hash slot of the stream.
fn beside(stream: &str, what: &str) -> String {
    format!("{{{stream}}}:{what}")
}

/// The fields of an entry: the seven of the shared wire format in their order, then our own.
pub(crate) mod field {
    pub(crate) const EVENT_ID: &str = "event_id";
    pub(crate) const EVENT_TYPE: &str = "event_type";
    pub(crate) const AGGREGATE_ID: &str = "aggregate_id";
    pub(crate) const AGGREGATE_TYPE: &str = "aggregate_type";
    pub(crate) const TENANT_ID: &str = "tenant_id";
    pub(crate) const OCCURRED_AT: &str = "occurred_at";
    pub(crate) const PAYLOAD: &str = "payload";
    /// The place in the store's total order; ours.
    pub(crate) const POSITION: &str = "position";
    /// The one group that a replayed dead letter is for; ours.
    pub(crate) const REPLAY_GROUP: &str = "replay_group";
    /// The handlers of that group that had succeeded, as a JSON array; ours.
    pub(crate) const REPLAY_DONE: &str = "replay_done";
    /// What a dead letter has beside the fields of its entry: the shared wire format's three, then ours.
    pub(crate) const ORIGINAL_MESSAGE_ID: &str = "original_message_id";
    pub(crate) const RETRY_COUNT: &str = "retry_count";
    pub(crate) const DLQ_TIMESTAMP: &str = "dlq_timestamp";
    pub(crate) const ERROR: &str = "error";
    pub(crate) const HANDLER: &str = "handler";
    pub(crate) const GROUP: &str = "group";
    pub(crate) const ATTEMPTS: &str = "attempts";
    pub(crate) const FIRST_FAILED_AT: &str = "first_failed_at";
    pub(crate) const LAST_FAILED_AT: &str = "last_failed_at";
    pub(crate) const DONE_HANDLERS: &str = "done_handlers";
}
