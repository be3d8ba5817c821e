//! Every name of a key of the store, and nowhere else.
//!
//! Keep: no two things have one name, whatever aggregates, projections and roles are called. So a part that others follow
//! has its colons escaped.

use eventbus::Name;

/// What the names of keys begin with that are the store's own, behind the prefix.
const RESERVED_PREFIXES: [&str; 4] = ["aggregate:", "projection:", "checkpoint:", "eventstore:"];

/// What framework roles of projections begin with.
const PROJECTION_ROLE_PREFIX: &str = "projection:";

/// The names of a store's keys.
#[derive(Debug, Clone)]
pub(crate) struct StoreKeys {
    prefix: String,
}

impl StoreKeys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}:") } }
    }

    /// The events of an aggregate.
    pub(crate) fn stream(&self, aggregate_type: &str, aggregate_id: &str) -> String {
        format!("{}aggregate:{}:{aggregate_id}", self.prefix, escape(aggregate_type))
    }

    /// The order of all events. That of an aggregate has one colon more.
    pub(crate) fn feed(&self) -> String {
        format!("{}aggregate:feed", self.prefix)
    }

    /// Where the event of an id is, a hash.
    pub(crate) fn ids(&self) -> String {
        self.own_key("ids")
    }

    /// The stored event types, a hash: of each its highest schema version and its first position.
    pub(crate) fn event_types(&self) -> String {
        self.own_key("event-types")
    }

    /// What the store is, a hash.
    pub(crate) fn meta(&self) -> String {
        self.own_key("meta")
    }

    /// What a reader noted beside its checkpoint.
    pub(crate) fn note(&self, name: &Name) -> String {
        format!("{}note:{name}", self.prefix)
    }

    /// The names of the notes, a sorted set.
    pub(crate) fn note_names(&self) -> String {
        self.own_key("notes")
    }

    /// How far a reader has come. The role of a projection is called `projection:` and its name.
    pub(crate) fn checkpoint(&self, name: &Name) -> String {
        match name.strip_prefix(PROJECTION_ROLE_PREFIX).filter(|name| !name.is_empty()) {
            Some(projection) => format!("{}projection:{projection}:checkpoint", self.prefix),
            None => format!("{}checkpoint:{name}", self.prefix),
        }
    }

    /// Who has a role, a hash.
    pub(crate) fn lease(&self, role: &Name) -> String {
        self.own_key(&format!("lease:{role}"))
    }

    /// How far the groups of a bus have finished, a hash.
    pub(crate) fn floors(&self, destination: &Name) -> String {
        self.own_key(&format!("floors:{destination}"))
    }

    /// What a group of the in-process bus has not finished and that waits, a hash by position.
    pub(crate) fn waiting(&self, group: &Name) -> String {
        self.own_key(&format!("waiting:{group}"))
    }

    /// The dead letters of the in-process bus, a sorted set by time. Its members are position and group.
    pub(crate) fn dead_letters(&self) -> String {
        self.own_key("dead")
    }

    /// What the handlers made of the dead letters, a hash by their members.
    pub(crate) fn dead_letter_attempts(&self) -> String {
        self.own_key("dead-tries")
    }

    /// What was handled, and when, a sorted set.
    pub(crate) fn deliveries(&self) -> String {
        self.own_key("deliveries")
    }

    /// Who is about to write something that others wait for.
    pub(crate) fn transaction_lock(&self, kind: &str, what: &str) -> String {
        self.own_key(&format!("claim:{kind}:{what}"))
    }

    /// How far the copies of a rebuild are filled, a hash.
    pub(crate) fn shadow(&self, shadow: &Name) -> String {
        self.own_key(&format!("shadow:{shadow}"))
    }

    /// The names of the copies that a rebuild has made, a set.
    pub(crate) fn shadow_copies(&self, shadow: &Name) -> String {
        self.own_key(&format!("copies:{shadow}"))
    }

    /// The copy of a key that a rebuild fills; `key` has no prefix.
    pub(crate) fn shadow_copy(&self, shadow: &Name, key: &str) -> String {
        self.own_key(&format!("copy:{}:{key}", escape(shadow)))
    }

    /// Where a transaction puts a key aside while it commits.
    pub(crate) fn undo_backup(&self, transaction: &str, number: usize) -> String {
        self.own_key(&format!("aside:{transaction}:{number}"))
    }

    /// A key of the user's.
    pub(crate) fn live_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn own_key(&self, name: &str) -> String {
        format!("{}eventstore:{name}", self.prefix)
    }
}

/// Whether a key without its prefix is the store's own.
pub(crate) fn is_reserved(key: &str) -> bool {
    RESERVED_PREFIXES.iter().any(|own| key.starts_with(own))
}

/// Whether keys that begin so can be the store's own.
pub(crate) fn may_be_reserved(stem: &str) -> bool {
    RESERVED_PREFIXES.iter().any(|own| own.starts_with(stem) || stem.starts_with(own))
}

/// Whether a key, with its prefix, says that there is a store.
pub(crate) fn is_store_meta(key: &str) -> bool {
    key.ends_with(":eventstore:meta")
}

/// Without colons, and another text for each text.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_called_as_in_the_tutorial() {
        let keys = StoreKeys::new("");
        assert_eq!(keys.stream("Order", "12345"), "aggregate:Order:12345");
        assert_eq!(keys.checkpoint(&Name::from_static("projection:order-stats")), "projection:order-stats:checkpoint");
        assert_eq!(keys.live_key("stats:orders"), "stats:orders");
        assert_eq!(StoreKeys::new("{shop}").stream("Order", "12345"), "{shop}:aggregate:Order:12345");
    }

    #[test]
    fn nothing_shares_a_key() {
        let keys = StoreKeys::new("");
        let texts = ["a", "b", "a:b", "b:c", "a%3Ab", "feed", "ids", ":", "a:", ":a", "projection:a", "projection:"];
        let (mut made, mut all) = (0, BTreeSet::from([keys.feed(), keys.ids(), keys.meta(), keys.deliveries()]));
        all.extend([keys.dead_letters(), keys.dead_letter_attempts(), keys.note_names()]);
        for one in texts {
            let name = Name::from_static(one);
            for key in [keys.checkpoint(&name), keys.lease(&name), keys.floors(&name), keys.shadow(&name)] {
                all.insert(key);
            }
            all.extend([keys.shadow_copies(&name), keys.waiting(&name)]);
            made += 6;
            for two in texts {
                for key in [keys.stream(one, two), keys.shadow_copy(&name, two)] {
                    assert!(is_reserved(&key), "{key}");
                    all.insert(key);
                }
                made += 2;
            }
        }
        assert_eq!(all.len(), made + 7);
    }
}
