//! The names of the store's keys. No other module builds one.
//!
//! Invariant: no two items share a key, for all names of aggregates, projections and roles. So the colons of each name
//! that is followed by a second name are escaped.

use eventbus::{EventId, Name, StreamId};
use eventbus_redis_core::format::KeyFormat;
use uuid::Uuid;

/// The format of keys and entries that this release writes.
pub const FORMAT: KeyFormat = KeyFormat { format: 1, min_reader: 1 };

/// Prefix of the roles of projections.
const PROJECTION_ROLE_PREFIX: &str = "projection:";

/// The names of a store's keys.
#[derive(Debug, Clone)]
pub struct StoreKeys {
    prefix: String,
}

impl StoreKeys {
    /// Returns the names of the store with this prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}:") } }
    }

    /// The stream with the events of an aggregate.
    #[must_use]
    pub fn stream(&self, stream: &StreamId) -> String {
        format!("{}{}", self.prefix, unprefixed_stream_key(stream))
    }

    /// Returns the stream whose events a key holds, if it is one of the store's.
    pub(crate) fn parse_stream(&self, key: &str) -> Option<StreamId> {
        let own = key.strip_prefix(&self.prefix)?;
        let (tenant, rest) = match own.strip_prefix("tenant:").and_then(|own| own.split_once(':')) {
            Some((tenant, rest)) => (Some(Uuid::try_parse(tenant).ok()?), rest),
            None => (None, own),
        };
        let (aggregate_type, id) = rest.strip_prefix("aggregate:")?.split_once(':')?;
        let stream = StreamId::parse(&unescape(aggregate_type), id).ok()?.with_tenant_id(tenant);
        // no spelling but the store's own
        (self.stream(&stream) == key).then_some(stream)
    }

    /// Returns the beginning that the keys of the store share.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The stream that orders all events. The key of an aggregate's stream has a further colon.
    #[must_use]
    pub fn feed(&self) -> String {
        format!("{}aggregate:feed", self.prefix)
    }

    /// Hash: the position of each event, by its [key](event_keys).
    pub(crate) fn ids(&self) -> String {
        self.own_key("ids")
    }

    /// Hash: the highest schema version and the first position of each stored event type.
    #[must_use]
    pub fn event_types(&self) -> String {
        self.own_key("event_types")
    }

    /// Hash: the id and the format of the store.
    #[must_use]
    pub fn meta(&self) -> String {
        self.own_key("meta")
    }

    /// Hash: the aggregate id that holds each unique value of a scope, such as `User.email`.
    pub(crate) fn unique_holders(&self, tenant: Option<Uuid>, scope: &str) -> String {
        self.unique("unique_holders", tenant, scope)
    }

    /// Hash: the unique value of a scope that each aggregate id holds.
    pub(crate) fn unique_values(&self, tenant: Option<Uuid>, scope: &str) -> String {
        self.unique("unique_values", tenant, scope)
    }

    fn unique(&self, name: &str, tenant: Option<Uuid>, scope: &str) -> String {
        self.own_key(&format!("{name}:{}{}", of_tenant(tenant), escape(scope)))
    }

    /// A note of a reader beside its checkpoint.
    pub(crate) fn note(&self, name: &Name) -> String {
        self.own_key(&format!("note:{name}"))
    }

    /// Sorted set: the names of the notes.
    pub(crate) fn note_names(&self) -> String {
        self.own_key("note_names")
    }

    /// The checkpoint of a reader. The role of a projection is `projection:` and its name.
    #[must_use]
    pub fn checkpoint(&self, name: &Name) -> String {
        match name.strip_prefix(PROJECTION_ROLE_PREFIX).filter(|name| !name.is_empty()) {
            Some(projection) => format!("{}projection:{projection}:checkpoint", self.prefix),
            None => format!("{}checkpoint:{name}", self.prefix),
        }
    }

    /// Hash: the owner, epoch and expiry of the lease of a role.
    #[must_use]
    pub fn lease(&self, role: &Name) -> String {
        self.own_key(&format!("lease:{role}"))
    }

    /// Sorted set: the names of the checkpoints, and the roles of the leases.
    pub(crate) fn reader_names(&self) -> String {
        self.own_key("reader_names")
    }

    /// Sorted set: the names of the handlers.
    pub(crate) fn handlers(&self) -> String {
        self.own_key("handlers")
    }

    /// Hash: the note of a handler and the number of its shards, and the lease and the progress of each shard, in fields
    /// that begin with its number and a colon.
    pub(crate) fn handler(&self, name: &Name) -> String {
        self.own_key(&format!("handler:{name}"))
    }

    /// Hash by position: the rows of a handler that wait.
    pub(crate) fn waiting_rows(&self, handler: &Name) -> String {
        self.own_key(&format!("waiting_rows:{handler}"))
    }

    /// Hash by position: the dead letters of a handler.
    pub(crate) fn dead_rows(&self, handler: &Name) -> String {
        self.own_key(&format!("dead_rows:{handler}"))
    }

    /// Sorted set by time: the dead letters of all handlers. Its members are position and handler.
    pub(crate) fn dead_row_times(&self) -> String {
        self.own_key("dead_row_times")
    }

    /// Hash by name: the processes that run handlers.
    pub(crate) fn members(&self) -> String {
        self.own_key("handler_members")
    }

    /// Sorted set: the time at which each of these processes has renewed its life.
    pub(crate) fn member_times(&self) -> String {
        self.own_key("handler_member_times")
    }

    /// Sorted set: the names of the paused groups.
    pub(crate) fn paused_groups(&self) -> String {
        self.own_key("paused_groups")
    }

    /// Sorted set by time: the deliveries that handlers have handled in saves.
    pub(crate) fn deliveries(&self) -> String {
        self.own_key("deliveries")
    }

    /// Hash: the commands that took effect, by tenant and key.
    pub(crate) fn commands(&self) -> String {
        self.own_key("commands")
    }

    /// Sorted set by time: the fields of the hash of commands.
    pub(crate) fn command_times(&self) -> String {
        self.own_key("command_times")
    }

    /// Hash: the snapshot of a stream for a fold.
    pub(crate) fn snapshot(&self, fold: &Name, stream: &StreamId) -> String {
        format!("{}{}", self.snapshots(fold), unprefixed_stream_key(stream))
    }

    /// The beginning of the keys of the snapshots of a fold.
    pub(crate) fn snapshots(&self, fold: &Name) -> String {
        self.own_key(&format!("snapshot:{}:", escape(fold)))
    }

    fn own_key(&self, name: &str) -> String {
        format!("{}eventstore:{name}", self.prefix)
    }
}

/// Returns the function that names the events of a stream within the store: an event id is unique within its stream
/// only.
pub(crate) fn event_keys(stream: &StreamId) -> impl Fn(EventId) -> [u8; 16] + use<> {
    let stream = unprefixed_stream_key(stream);
    move |event_id| *Uuid::new_v5(&event_id.as_uuid(), stream.as_bytes()).as_bytes()
}

fn unprefixed_stream_key(stream: &StreamId) -> String {
    let of_tenant = of_tenant(stream.tenant_id());
    format!("{of_tenant}aggregate:{}:{}", escape(stream.aggregate_type()), stream.aggregate_id())
}

/// Returns the part of a key that names a tenant; none for no tenant.
fn of_tenant(tenant: Option<Uuid>) -> String {
    tenant.map(|id| format!("tenant:{id}:")).unwrap_or_default()
}

/// Returns a text without colons, different for each input.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A")
}

/// Returns the text from which [`escape`] made this one.
fn unescape(text: &str) -> String {
    text.replace("%3A", ":").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_called_as_in_the_tutorial() {
        let keys = StoreKeys::new("");
        let order = StreamId::parse("Order", "12345").unwrap();
        assert_eq!(keys.stream(&order), "aggregate:Order:12345");
        assert_eq!(keys.checkpoint(&Name::from_static("projection:order-stats")), "projection:order-stats:checkpoint");
        assert_eq!(StoreKeys::new("{shop}").stream(&order), "{shop}:aggregate:Order:12345");
        let of_tenant = order.with_tenant_id(Some(Uuid::from_u128(7)));
        let key = "{shop}:tenant:00000000-0000-0000-0000-000000000007:aggregate:Order:12345";
        assert_eq!(StoreKeys::new("{shop}").stream(&of_tenant), key);
    }

    #[test]
    fn a_key_names_the_stream_whose_events_it_holds() {
        let keys = StoreKeys::new("{shop}");
        for (aggregate_type, id, tenant) in
            [("Order", "1", None), ("a:b%25", ":x", Some(Uuid::from_u128(7))), ("tenant", "aggregate:Order:1", None)]
        {
            let stream = StreamId::parse(aggregate_type, id).unwrap().with_tenant_id(tenant);
            assert_eq!(keys.parse_stream(&keys.stream(&stream)), Some(stream));
        }
        let foreign =
            [keys.feed(), keys.meta(), keys.ids(), "aggregate:Order:1".into(), "{shop}:aggregate:a%b:1".into()];
        for key in foreign {
            assert_eq!(keys.parse_stream(&key), None, "{key}");
        }
    }

    #[test]
    fn nothing_shares_a_key() {
        let keys = StoreKeys::new("");
        let texts = [
            "a",
            "b",
            "a:b",
            "b:c",
            "a%3Ab",
            "feed",
            "ids",
            ":",
            "a:",
            ":a",
            "projection:a",
            "projection:",
            "b:aggregate:b:b",
        ];
        let (mut made, mut all) = (0, BTreeSet::from([keys.feed(), keys.ids(), keys.meta(), keys.deliveries()]));
        all.extend([keys.note_names(), keys.reader_names(), keys.commands(), keys.command_times()]);
        all.extend([keys.handlers(), keys.dead_row_times(), keys.members(), keys.member_times(), keys.paused_groups()]);
        for one in texts {
            let name = Name::from_static(one);
            all.extend([keys.checkpoint(&name), keys.lease(&name), keys.note(&name)]);
            all.extend([keys.handler(&name), keys.waiting_rows(&name), keys.dead_rows(&name)]);
            made += 6;
            for two in texts {
                let stream = StreamId::parse(one, two).unwrap();
                let of_tenant = stream.clone().with_tenant_id(Some(Uuid::max()));
                all.extend([keys.stream(&stream), keys.stream(&of_tenant)]);
                made += 2;
                for three in texts {
                    let fold = Name::from_static(three);
                    for key in [keys.snapshot(&fold, &stream), keys.snapshot(&fold, &of_tenant)] {
                        assert!(key.starts_with(&keys.snapshots(&fold)), "{key}");
                        all.insert(key);
                    }
                    made += 2;
                }
            }
        }
        assert_eq!(all.len(), made + 13);
    }
}
