//! Unique values that a transaction takes and gives back.
//!
//! Two hashes hold the values of a scope and a tenant: one the stream of each value, one the value of each stream. The
//! transaction reads both, and its commit fails if one of the replies has changed since.

use std::collections::BTreeMap;

use eventbus::{
    StreamId,
    event::UniqueChange,
    port::AppendError,
    store::{UniqueKey, unique_scope},
};
use eventbus_redis_core::{program::AtomicProgram, reply};

use super::{ReadSet, refused_error};
use crate::{RedisTransactionError, inner::StoreInner};

/// Fields of hashes, by key and field: the contents that the commit leaves; `None` removes the field.
pub(crate) type Fields = BTreeMap<(String, String), Option<String>>;

/// The changes of unique values, in the order in which the transaction planned them.
#[derive(Debug, Default)]
pub(crate) struct PlannedValues {
    reads: ReadSet,
    /// The contents of the hashes, with the changes of this transaction.
    fields: Fields,
    /// The fields that this transaction changes, with their new contents.
    changed: Fields,
}

impl PlannedValues {
    /// Plans to give back the values that the stream holds in the scopes of the changes.
    pub(crate) async fn give_back(
        &mut self,
        inner: &StoreInner,
        stream: &StreamId,
        changes: &[UniqueChange],
    ) -> Result<(), RedisTransactionError> {
        for change in changes {
            let scope = unique_scope(stream.aggregate_type(), change.name());
            let (holders, values) = keys(inner, stream, &scope);
            let id = stream.aggregate_id().to_string();
            if let Some(value) = self.get(inner, &values, &id).await? {
                self.set(values, id, None);
                self.set(holders, value, None);
            }
        }
        Ok(())
    }

    /// Plans the changes of a stream.
    ///
    /// # Errors
    /// The inner error is [`AppendError::Taken`].
    pub(crate) async fn plan(
        &mut self,
        inner: &StoreInner,
        stream: &StreamId,
        changes: &[UniqueChange],
    ) -> Result<Result<(), AppendError>, RedisTransactionError> {
        let id = stream.aggregate_id().to_string();
        for change in changes {
            let Some(key) = UniqueKey::taken_by(stream, change) else { continue };
            let (holders, _) = keys(inner, stream, &key.scope());
            if self.get(inner, &holders, key.value()).await?.is_some_and(|holder| holder != id) {
                return Ok(Err(AppendError::Taken { stream: stream.clone(), name: change.name().clone() }));
            }
        }
        self.give_back(inner, stream, changes).await?;
        for key in changes.iter().filter_map(|change| UniqueKey::taken_by(stream, change)) {
            let (holders, values) = keys(inner, stream, &key.scope());
            self.set(holders, key.value().to_owned(), Some(id.clone()));
            self.set(values, id.clone(), Some(key.value().to_owned()));
        }
        Ok(Ok(()))
    }

    /// Returns the planned contents of the hashes, and the changed fields, for [`restore`](Self::restore).
    pub(crate) fn fields(&self) -> (Fields, Fields) {
        (self.fields.clone(), self.changed.clone())
    }

    /// Drops later changes; the commit still checks what was read.
    pub(crate) fn restore(&mut self, (fields, changed): (Fields, Fields)) {
        (self.fields, self.changed) = (fields, changed);
    }

    async fn get(
        &mut self,
        inner: &StoreInner,
        key: &str,
        field: &str,
    ) -> Result<Option<String>, RedisTransactionError> {
        let place = (key.to_owned(), field.to_owned());
        if let Some(known) = self.fields.get(&place) {
            return Ok(known.clone());
        }
        let reply = self.reads.read_stored(inner, "HGET", key.to_owned(), vec![field.into()]).await?;
        let found: Option<String> = reply::parse_value(reply).map_err(|error| refused_error("HGET", key, error))?;
        self.fields.insert(place, found.clone());
        Ok(found)
    }

    fn set(&mut self, key: String, field: String, contents: Option<String>) {
        self.fields.insert((key.clone(), field.clone()), contents.clone());
        self.changed.insert((key, field), contents);
    }

    /// Adds the steps that compare what was read, and check the right to give values back.
    pub(crate) fn add_checks(&self, program: &mut AtomicProgram) {
        self.reads.add_checks(program);
        // the check of the stream also covers the right to take values: it is the right to append
        if let Some(((key, _), _)) = self.changed.iter().find(|(_, contents)| contents.is_none()) {
            program.step("may").key(key).arg("HDEL");
        }
    }

    /// Adds the steps that write the changes.
    pub(crate) fn add_writes(&self, program: &mut AtomicProgram) {
        for ((key, field), contents) in &self.changed {
            match contents {
                Some(contents) => program.step("hold").key(key).arg(field).arg(contents),
                None => program.step("give_back").key(key).arg(field),
            };
        }
    }
}

/// Returns the keys of the hashes of a scope: the streams by value, the values by stream.
fn keys(inner: &StoreInner, stream: &StreamId, scope: &str) -> (String, String) {
    let keys = inner.keys();
    (keys.unique_holders(stream.tenant_id(), scope), keys.unique_values(stream.tenant_id(), scope))
}
