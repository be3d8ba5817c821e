//! The names of all keys, and of all fields of entries; no other module spells one.

use eventbus_redis_core::format::KeyFormat;

use crate::hash_tag::has_hash_tag;

/// The format of keys and entries that this release writes, beside the fields of the wire format that Python shares.
pub const FORMAT: KeyFormat = KeyFormat { format: 1, min_reader: 1 };

/// Names the stream of all events.
#[must_use]
pub fn stream(prefix: &str) -> String {
    format!("{prefix}:stream")
}

/// Names the stream of dead letters.
#[must_use]
pub fn dead_letters(prefix: &str, suffix: &str) -> String {
    format!("{prefix}:stream{suffix}")
}

/// Names the hash with the format of a bus's keys and entries.
#[must_use]
pub fn meta(bus_stream: &str) -> String {
    same_slot_key(bus_stream, "meta")
}

/// Names the hash with the attempts of a group.
pub(crate) fn retry(stream: &str, prefix: &str, group: &str) -> String {
    same_slot_key(stream, &format!("{prefix}:{group}"))
}

/// Names the hash with the members of a group.
#[must_use]
pub fn members(stream: &str, group: &str) -> String {
    same_slot_key(stream, &format!("members:{group}"))
}

/// Names the hash with the records of the stores: how far each is published.
#[must_use]
pub fn relay(stream: &str) -> String {
    same_slot_key(stream, "relay")
}

/// Names the hash with the checkpoints of the projections over a stream.
pub(crate) fn projections(stream: &str) -> String {
    same_slot_key(stream, "projections")
}

/// Names a key of a projection, in the slot of a prefix that has a hash tag. Different prefixes, streams and names have
/// different keys.
pub(crate) fn projection_key(prefix: &str, stream: &str, name: &str, what: &str) -> String {
    format!("projection:{}:{}:{}:{what}", escape_part(prefix), escape_part(stream), escape_part(name))
}

/// Names the field of a projection in the hash of its stream; its suffixes begin with a colon.
pub(crate) fn projection_field(prefix: &str, name: &str) -> String {
    format!("{}:{}", escape_part(prefix), escape_part(name))
}

/// Escapes a part of a key, unambiguously: the result has no colons, and no braces but those of its hash tag.
fn escape_part(text: &str) -> String {
    let escaped = |text: &str| text.replace('%', "%25").replace(':', "%3A").replace('{', "%7B").replace('}', "%7D");
    match text.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (tag, after))) if !tag.is_empty() => format!("{}{{{tag}}}{}", escaped(before), escaped(after)),
        _ => escaped(text),
    }
}

/// Names a key in the slot of the stream, because scripts on a cluster need that.
fn same_slot_key(stream: &str, name: &str) -> String {
    if has_hash_tag(stream) { format!("{stream}:{name}") } else { format!("{{{stream}}}:{name}") }
}

/// The fields of an entry of `RedisStreams`, in their order.
pub(crate) mod plain_field {
    pub(crate) const TYPE: &str = "type";
    pub(crate) const TIMESTAMP: &str = "timestamp";
    pub(crate) const DATA: &str = "data";
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
    /// The store whose relay published it; ours.
    pub(crate) const STORE: &str = "store";
    /// The position in the store's total order; ours.
    pub(crate) const POSITION: &str = "position";
    /// The time at which a store recorded it; ours, absent if no store did.
    pub(crate) const RECORDED_AT: &str = "recorded_at";
    /// For an imported event, the time at which its first store recorded it; ours.
    pub(crate) const ORIGINAL_RECORDED_AT: &str = "original_recorded_at";
    /// `1` if some fields of the payload are sealed; ours, absent otherwise.
    pub(crate) const HAS_SEALED_FIELDS: &str = "has_sealed_fields";
    /// The trace context of the event, in the W3C's format; ours.
    pub(crate) const TRACEPARENT: &str = "traceparent";
    /// The additions of tracing systems to the trace; ours.
    pub(crate) const TRACESTATE: &str = "tracestate";
    /// The one group that a replayed dead letter is for; ours.
    pub(crate) const REPLAY_GROUP: &str = "replay_group";
    /// The handlers of that group that had succeeded, as a JSON array; ours.
    pub(crate) const REPLAY_DONE: &str = "replay_done";

    /// The id that a dead letter had in the stream; from here on fields are about the dead letter, not the event.
    pub(crate) const ORIGINAL_MESSAGE_ID: &str = "original_message_id";
    /// The number of retries of a dead letter.
    pub(crate) const RETRY_COUNT: &str = "retry_count";
    /// The time at which a delivery became a dead letter.
    pub(crate) const DLQ_TIMESTAMP: &str = "dlq_timestamp";
    /// The error of a dead letter; ours, like all fields below.
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn braces_are_added_where_there_is_no_hash_tag() {
        assert_eq!(retry("orders:stream", "retry", "mail"), "{orders:stream}:retry:mail");
        assert_eq!(members("orders:stream", "mail"), "{orders:stream}:members:mail");
        assert_eq!(relay("orders:stream"), "{orders:stream}:relay");
        assert_eq!(retry("{orders}:stream", "retry", "mail"), "{orders}:stream:retry:mail");
        assert_eq!(members("{orders}:stream", "mail"), "{orders}:stream:members:mail");
        assert_eq!(relay("{orders}:stream"), "{orders}:stream:relay");
    }

    /// Fails if a part of the key is not escaped.
    #[test]
    fn each_projection_has_keys_of_its_own_in_the_slot_of_its_prefix() {
        let key = projection_key("events", "events:orders", "order-stats", "checkpoint");
        assert_eq!(key, "projection:events:events%3Aorders:order-stats:checkpoint");
        let tagged = projection_key("{a:b}:x", "{a:b}:orders", "n", "checkpoint");
        assert_eq!(
            (crate::hash_tag::hash_tag(&tagged), tagged.as_str()),
            ("a:b", "projection:{a:b}%3Ax:{a:b}%3Aorders:n:checkpoint")
        );
        let texts =
            ["a", "b", "a:b", "%3A", "a%3Ab", ":", "{", "}", "{}", "{a", "b}", "{a}", "{a}:b", "{a:b}", "{{}", "copy"];
        let mut all = BTreeSet::new();
        let pairs = || texts.iter().flat_map(|one| texts.map(|other| (*one, other)));
        for ((prefix, stream), name) in pairs().flat_map(|pair| texts.map(|name| (pair, name))) {
            for what in ["checkpoint", "copy:a:checkpoint", "copy:b:a:checkpoint", "copy:{a}:b:checkpoint"] {
                assert!(all.insert(projection_key(prefix, stream, name, what)), "{prefix} {stream} {name} {what}");
            }
        }
        assert_ne!(projection_field("a", "b:c"), projection_field("a:b", "c"));
    }

    #[test]
    fn a_hash_tag_is_what_the_server_takes_for_one() {
        for tagged in ["{a}", "x{a}y", "{a}{}", "{{}", "{a}}"] {
            assert!(has_hash_tag(tagged), "{tagged}");
        }
        for plain in ["", "a", "{", "}", "{a", "a}", "}a{", "{}", "{}{a}"] {
            assert!(!has_hash_tag(plain), "{plain}");
        }
    }

    /// Returns the slots of the stream, the dead letters, and the other keys of a bus.
    async fn slots(connection: &mut redis::aio::MultiplexedConnection, prefix: &str) -> [u16; 5] {
        let stream = stream(prefix);
        let others = [retry(&stream, "retry", "mail"), members(&stream, "mail"), relay(&stream)];
        let mut ask = redis::pipe();
        for key in [&stream, &dead_letters(prefix, "_dlq")].into_iter().chain(&others) {
            ask.cmd("CLUSTER").arg("KEYSLOT").arg(key);
        }
        ask.query_async(connection).await.expect("the server is a node of a cluster")
    }

    #[tokio::test]
    async fn on_a_cluster_all_keys_of_a_hash_tagged_prefix_share_a_slot() {
        let server = eventbus_test::internal::private_redis_cluster();
        let client = redis::Client::open(server.url()).expect("a valid URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("the server answers");
        for prefix in ["{orders}", "shop:{orders}", "{orders}:eu", "{{}orders"] {
            let slots = slots(&mut connection, prefix).await;
            assert_eq!(BTreeSet::from(slots).len(), 1, "{prefix}: {slots:?}");
        }
        for prefix in ["orders", "{}orders", "orders}"] {
            let [stream, dead_letters, ..] = slots(&mut connection, prefix).await;
            assert_ne!(stream, dead_letters, "{prefix}: nothing ties the dead letters to the stream");
        }
        let [stream, _, retry, members, relay] = slots(&mut connection, "orders").await;
        assert_eq!([retry, members, relay], [stream; 3], "scripts over them work without a hash tag too");
    }
}
