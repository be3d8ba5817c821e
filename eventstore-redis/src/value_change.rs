//! A change of a unique value, as the script of an append makes it.
//!
//! Two hashes for each scope and tenant hold the stream of each value, and the value of each stream.

use eventbus::{Name, StreamId, event::UniqueChange, store::unique_scope};
use redis::ScriptInvocation;

use crate::keys::StoreKeys;

/// A change of a unique value, and the stream that makes it.
#[derive(Debug)]
pub(crate) struct ValueChange {
    stream: StreamId,
    change: UniqueChange,
}

impl ValueChange {
    pub(crate) const fn new(stream: StreamId, change: UniqueChange) -> Self {
        Self { stream, change }
    }

    pub(crate) const fn stream(&self) -> &StreamId {
        &self.stream
    }

    pub(crate) const fn name(&self) -> &Name {
        self.change.name()
    }

    /// Adds the change to a script that appends.
    pub(crate) fn add_to(&self, keys: &StoreKeys, script: &mut ScriptInvocation<'_>) {
        let (tenant, scope) = (self.stream.tenant_id(), unique_scope(self.stream.aggregate_type(), self.name()));
        script.key(keys.unique_holders(tenant, &scope)).key(keys.unique_values(tenant, &scope));
        script.arg(self.stream.aggregate_id().as_str());
        match self.change.value() {
            Some(value) => script.arg("take").arg(value),
            None => script.arg("give_back"),
        };
    }
}
