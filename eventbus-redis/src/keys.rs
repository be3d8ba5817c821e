//! Every name of a key or of an entry's field, and nowhere else.

/// What the server calls the consumer on which entries are pending that were left: the first member takes them that
/// handles them, and none may be there.
pub(crate) const ABSENT_CONSUMER: &str = "absent";

/// The stream of all events.
pub(crate) fn stream(prefix: &str) -> String {
    format!("{prefix}:stream")
}

/// The stream of dead letters.
pub(crate) fn dead_letters(prefix: &str, suffix: &str) -> String {
    format!("{prefix}:stream{suffix}")
}

/// What is known of the copies that stores have of dead letters, a hash by store.
pub(crate) fn dead_letter_copies(dead_letters: &str) -> String {
    same_slot_key(dead_letters, "copies")
}

/// The stream of one partition.
pub(crate) fn partition(stream: &str, number: u32) -> String {
    format!("{stream}:{number}")
}

/// How many partitions there are, which is a hash.
pub(crate) fn layout(stream: &str) -> String {
    format!("{stream}:layout")
}

/// Who reads a partition for a group, which is a hash.
pub(crate) fn lease(partition: &str, group: &str) -> String {
    same_slot_key(partition, &format!("lease:{group}"))
}

/// The attempts of a group, which are a hash.
pub(crate) fn retry(stream: &str, prefix: &str, group: &str) -> String {
    same_slot_key(stream, &format!("{prefix}:{group}"))
}

/// The members of a group and what they handle.
pub(crate) fn members(stream: &str, group: &str) -> String {
    same_slot_key(stream, &format!("members:{group}"))
}

/// Every type that a group ever announced, as `type@version`, a hash.
pub(crate) fn known_types(stream: &str, group: &str) -> String {
    same_slot_key(stream, &format!("types:{group}"))
}

/// What a group skipped, by event type, a hash.
pub(crate) fn skipped(stream: &str, group: &str) -> String {
    same_slot_key(stream, &format!("skipped:{group}"))
}

/// What is to be put into the backlogs of groups, a hash.
pub(crate) fn fills(stream: &str) -> String {
    same_slot_key(stream, "fills")
}

/// The stream that a group has for itself.
pub(crate) fn backlog(stream: &str, group: &str) -> String {
    same_slot_key(stream, &format!("backlog:{group}"))
}

/// How much of a backlog its consumers try again, a hash.
pub(crate) fn retried(backlog: &str) -> String {
    same_slot_key(backlog, "retried")
}

/// The entries that each group begins with; what is below all of them is done with.
pub(crate) fn floors(stream: &str) -> String {
    same_slot_key(stream, "floors")
}

/// How far the relays of stores have published, and what they keep beside.
pub(crate) fn relay(stream: &str) -> String {
    same_slot_key(stream, "relay")
}

/// How far the projections of a stream have come, a hash.
pub(crate) fn projections(stream: &str) -> String {
    same_slot_key(stream, "projections")
}

/// Something of a projection over a stream, in the slot of a prefix that has a hash tag. Other prefixes, streams and
/// names have other keys.
pub(crate) fn projection_key(prefix: &str, stream: &str, name: &str, what: &str) -> String {
    format!("projection:{}:{}:{}:{what}", escape_part(prefix), escape_part(stream), escape_part(name))
}

/// What a projection is called among those of its stream; what follows it there begins with a colon.
pub(crate) fn projection_field(prefix: &str, name: &str) -> String {
    format!("{}:{}", escape_part(prefix), escape_part(name))
}

/// A part of a key that others follow: without colons and braces but those of its hash tag, and another text for each
/// text.
fn escape_part(text: &str) -> String {
    let escaped = |text: &str| text.replace('%', "%25").replace(':', "%3A").replace('{', "%7B").replace('}', "%7D");
    match text.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (tag, after))) if !tag.is_empty() => format!("{}{{{tag}}}{}", escaped(before), escaped(after)),
        _ => escaped(text),
    }
}

/// A key in the slot of the stream, as scripts need it on a cluster.
fn same_slot_key(stream: &str, name: &str) -> String {
    if has_hash_tag(stream) { format!("{stream}:{name}") } else { format!("{{{stream}}}:{name}") }
}

/// Whether only a part of a key decides its slot: what stands between the first `{` and the next `}`, if anything.
pub(crate) fn has_hash_tag(key: &str) -> bool {
    hash_tag(key) != key
}

/// What decides the slot of a key.
pub(crate) fn hash_tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// The fields of an entry of the streams door, in their order.
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
    /// The place in the store's total order; ours.
    pub(crate) const POSITION: &str = "position";
    /// The trace that the event is part of, as the W3C has it; ours.
    pub(crate) const TRACEPARENT: &str = "traceparent";
    /// What tracing systems add to it; ours.
    pub(crate) const TRACESTATE: &str = "tracestate";
    /// The one group that a replayed dead letter is for; ours.
    pub(crate) const REPLAY_GROUP: &str = "replay_group";
    /// The handlers of that group that had succeeded, as a JSON array; ours.
    pub(crate) const REPLAY_DONE: &str = "replay_done";

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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn braces_are_added_where_there_is_no_hash_tag() {
        assert_eq!(retry("orders:stream", "retry", "mail"), "{orders:stream}:retry:mail");
        assert_eq!(members("orders:stream", "mail"), "{orders:stream}:members:mail");
        assert_eq!(floors("orders:stream"), "{orders:stream}:floors");
        assert_eq!(relay("orders:stream"), "{orders:stream}:relay");
        assert_eq!(retry("{orders}:stream", "retry", "mail"), "{orders}:stream:retry:mail");
        assert_eq!(members("{orders}:stream", "mail"), "{orders}:stream:members:mail");
        assert_eq!(floors("{orders}:stream"), "{orders}:stream:floors");
        assert_eq!(lease(&partition("orders:stream", 7), "mail"), "{orders:stream:7}:lease:mail");
        assert_eq!(lease(&partition("{orders}:stream", 7), "mail"), "{orders}:stream:7:lease:mail");
        assert_eq!(relay("{orders}:stream"), "{orders}:stream:relay");
    }

    /// Red if a part of the key is not escaped.
    #[test]
    fn each_projection_has_keys_of_its_own_in_the_slot_of_its_prefix() {
        let key = projection_key("events", "events:orders", "order-stats", "checkpoint");
        assert_eq!(key, "projection:events:events%3Aorders:order-stats:checkpoint");
        let tagged = projection_key("{a:b}:x", "{a:b}:orders", "n", "checkpoint");
        assert_eq!((hash_tag(&tagged), tagged.as_str()), ("a:b", "projection:{a:b}%3Ax:{a:b}%3Aorders:n:checkpoint"));
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

    /// The slots of the stream, the dead letters, and the other keys of a bus.
    async fn slots(connection: &mut redis::aio::MultiplexedConnection, prefix: &str) -> [u16; 9] {
        let stream = stream(prefix);
        let partition = partition(&stream, 3);
        let others = [
            retry(&stream, "retry", "mail"),
            members(&stream, "mail"),
            floors(&stream),
            lease(&partition, "mail"),
            layout(&stream),
            partition,
            relay(&stream),
        ];
        let mut ask = redis::pipe();
        for key in [&stream, &dead_letters(prefix, "_dlq")].into_iter().chain(&others) {
            ask.cmd("CLUSTER").arg("KEYSLOT").arg(key);
        }
        ask.query_async(connection).await.expect("the server is a node of a cluster")
    }

    #[tokio::test]
    async fn on_a_cluster_all_keys_of_a_hash_tagged_prefix_share_a_slot() {
        let server = test_servers::private_redis_cluster();
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
        let [stream, _, retry, members, floors, .., relay] = slots(&mut connection, "orders").await;
        assert_eq!([retry, members, floors, relay], [stream; 4], "scripts over them work without a hash tag too");
    }
}
