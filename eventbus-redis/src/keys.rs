//! Every name of a key or of an entry's field, and nowhere else.

/// The stream of all events.
pub(crate) fn stream(prefix: &str) -> String {
    format!("{prefix}:stream")
}

/// The stream of dead letters.
pub(crate) fn dead_letters(prefix: &str, suffix: &str) -> String {
    format!("{prefix}:stream{suffix}")
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
}
