//! Every name of a key or of an entry's field, and nowhere else.

/// The stream of all events.
pub(crate) fn stream(prefix: &str) -> String {
    format!("{prefix}:stream")
}

/// The stream of dead letters.
pub(crate) fn dead_letters(prefix: &str, suffix: &str) -> String {
    format!("{prefix}:stream{suffix}")
}

/// Where each known group has yet to read or acknowledge: a hash from group to the lowest such entry id.
pub(crate) fn floors(stream: &str) -> String {
    beside(stream, "floors")
}

/// What is kept about the failed entries of a group: a hash from entry id to record.
pub(crate) fn retry(stream: &str, prefix: &str, group: &str) -> String {
    beside(stream, &format!("{prefix}:{group}"))
}

/// The consumers of a group that show life: a hash from consumer name to when, and for how long.
pub(crate) fn members(stream: &str, group: &str) -> String {
    beside(stream, &format!("members:{group}"))
}

/// The name of a helper key, in the cluster slot of its stream.
fn beside(stream: &str, name: &str) -> String {
    match has_hash_tag(stream) {
        true => format!("{stream}:{name}"),
        false => format!("{{{stream}}}:{name}"),
    }
}

/// Whether a part of the name decides about its cluster slot.
fn has_hash_tag(key: &str) -> bool {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
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

    /// The id that a dead letter had in the stream; what follows it is about the dead letter, not part of the event.
    pub(crate) const ORIGINAL_MESSAGE_ID: &str = "original_message_id";
    /// How often a dead letter was tried again.
    pub(crate) const RETRY_COUNT: &str = "retry_count";
    /// When a delivery became a dead letter.
    pub(crate) const DLQ_TIMESTAMP: &str = "dlq_timestamp";
    /// Why a dead letter failed; ours, like all that follow.
    pub(crate) const ERROR: &str = "error";
    pub(crate) const HANDLER: &str = "handler";
    pub(crate) const GROUP: &str = "group";
    pub(crate) const ATTEMPTS: &str = "attempts";
    pub(crate) const FIRST_FAILED_AT: &str = "first_failed_at";
    pub(crate) const LAST_FAILED_AT: &str = "last_failed_at";
    /// The handlers that had succeeded, as a JSON array.
    pub(crate) const DONE_HANDLERS: &str = "done_handlers";
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_helper_key_shares_the_slot_of_its_stream() {
        assert_eq!(super::floors("orders:stream"), "{orders:stream}:floors");
        assert_eq!(super::floors("{orders}:stream"), "{orders}:stream:floors");
        assert_eq!(super::retry("orders:stream", "retry", "g"), "{orders:stream}:retry:g");
        assert_eq!(super::members("a}{b}:stream", "g"), "a}{b}:stream:members:g");
    }
}
