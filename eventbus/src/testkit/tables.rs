//! A store in memory whose transactions hold tables: for tests of handlers and projections that write rows.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, RwLock},
    time::Instant,
};
use uuid::Uuid;

use super::{Fault, Faults, delegate};
use crate::{
    domain::{
        error::BoxError,
        idempotency_key::IdempotencyKey,
        metadata::EventId,
        name::Name,
        stream::{Position, StreamId},
    },
    memory::InMemoryEventStore,
    port::{
        Append, AppendError, Checkpoints, EventStore, EventTypes, FromTransaction, HandlerProgress, Lease, LeaseError,
        Leases, MultiStreamAppends, Notes, ReadError, ServerFault, Shadow, Snapshots, Transaction, Transactions,
        TypeKey,
        multi_stream_append::{HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome},
        unique_values::{UniqueKey, UniqueValues as _},
    },
    support::{source_chain, unique_changes},
};

/// A row: its columns by name.
pub type Row = BTreeMap<String, String>;

/// The error with which transactions of a [`TableStore`] fail on demand; a handler of a test may return one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TableFault(pub &'static str);

/// Tables of rows, each row under its key; a handler or projection takes them as `&mut Tables`. The first row of a
/// table creates the table, as does [`TableStore::create_table`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables(BTreeMap<String, BTreeMap<String, Row>>);

impl Tables {
    /// Returns the row of this key; inserts an empty one if it is missing.
    pub fn row(&mut self, table: &str, key: impl Into<String>) -> &mut Row {
        self.0.entry(table.to_owned()).or_default().entry(key.into()).or_default()
    }

    /// Removes a row.
    pub fn remove(&mut self, table: &str, key: &str) {
        self.0.get_mut(table).map(|rows| rows.remove(key));
    }

    /// Returns all rows of a table with their keys, ordered by key.
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<(String, Row)> {
        self.0.get(table).into_iter().flatten().map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    fn copy(&mut self, table: &str, from: &Self) {
        self.0.insert(table.to_owned(), from.0.get(table).cloned().unwrap_or_default());
    }
}

impl FromTransaction<TableStore> for Tables {
    type Transaction = TableTransaction;

    fn from_transaction(transaction: &mut TableTransaction) -> &mut Self {
        &mut transaction.tables
    }
}

/// A store in memory with transactions over [`Tables`], which fail on demand. Clones share one store.
#[derive(Debug, Clone, Default)]
pub struct TableStore {
    store: InMemoryEventStore,
    data: Arc<Mutex<TableData>>,
    /// Read-locked by a transaction from its lease check until it ends, so that the lease cannot change owner in
    /// between.
    lease_lock: Arc<RwLock<()>>,
    /// Failures of the next calls that begin a transaction.
    pub begins: Faults,
    /// Failures of the next commits.
    pub commits: Faults,
    /// Failures of the next calls that drop a shadow.
    pub drops: Faults,
}

#[derive(Debug, Clone, Default)]
struct TableData {
    tables: Tables,
    shadows: BTreeMap<Name, Tables>,
    deliveries: BTreeMap<(Name, StreamId, EventId), Instant>,
}

impl TableStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a table without rows, if it is missing.
    pub async fn create_table(&self, table: &str) {
        self.data.lock().await.tables.0.entry(table.to_owned()).or_default();
    }

    /// Returns the committed tables.
    pub async fn tables(&self) -> Tables {
        self.data.lock().await.tables.clone()
    }

    /// Returns the names of the shadows: copies of tables that rebuilds are filling.
    pub async fn shadows(&self) -> BTreeSet<Name> {
        self.data.lock().await.shadows.keys().cloned().collect()
    }

    async fn begin_with(&self, shadow: Option<&Shadow>) -> Result<Box<dyn Transaction>, BoxError> {
        if self.begins.take().is_some() {
            return Err(TableFault("fault made by the test").into());
        }
        let committed = Arc::clone(&self.data).lock_owned().await;
        let mut tables = committed.tables.clone();
        if let Some(shadow) = shadow {
            let copies = committed.shadows.get(&shadow.name).ok_or("there is no such shadow")?;
            shadow.tables.iter().for_each(|table| tables.copy(table, copies));
        }
        Ok(Box::new(TableTransaction {
            store: self.clone(),
            shadow: shadow.cloned(),
            tables,
            deliveries: committed.deliveries.clone(),
            committed,
            checkpoints: BTreeMap::new(),
            appends: Vec::new(),
            switched_shadow: None,
            lease_guard: None,
        }))
    }
}

#[async_trait]
impl Transactions for TableStore {
    fn transaction_type(&self) -> TypeKey {
        TypeKey::of::<TableTransaction>()
    }

    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        let fault = source_chain(error).find_map(|error| error.downcast_ref::<TableFault>())?;
        Some(ServerFault::new(fault.0))
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        self.begin_with(None).await
    }

    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError> {
        let mut data = self.data.lock().await;
        if !data.shadows.contains_key(&shadow.name) {
            data.shadows.insert(shadow.name.clone(), Tables::default());
            self.store.save_checkpoint(&shadow.name, Position::START).await?;
        }
        Ok(self.store.load_checkpoint(&shadow.name).await?.unwrap_or(Position::START))
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        self.begin_with(Some(shadow)).await
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        if self.drops.take().is_some() {
            return Err(TableFault("fault made by the test").into());
        }
        let mut data = self.data.lock().await;
        data.shadows.remove(&shadow.name);
        Ok(self.store.save_checkpoint(&shadow.name, Position::START).await?)
    }
}

/// A transaction of a [`TableStore`]. It locks the store's data, so the next transaction begins after it ends.
#[derive(Debug)]
pub struct TableTransaction {
    store: TableStore,
    shadow: Option<Shadow>,
    tables: Tables,
    deliveries: BTreeMap<(Name, StreamId, EventId), Instant>,
    committed: OwnedMutexGuard<TableData>,
    checkpoints: BTreeMap<Name, Position>,
    appends: Vec<Append>,
    /// The shadow whose rows have replaced the live ones.
    switched_shadow: Option<Name>,
    lease_guard: Option<OwnedRwLockReadGuard<()>>,
}

#[async_trait]
impl Transaction for TableTransaction {
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send) {
        self
    }

    fn is_late(&self) -> bool {
        false
    }

    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError> {
        if self.lease_guard.is_none() {
            self.lease_guard = Some(Arc::clone(&self.store.lease_lock).read_owned().await);
        }
        let holder = self.store.store.lease_of(&lease.role).await?;
        if holder.as_ref() != Some(lease) {
            return Ok(false);
        }
        let saved = match self.checkpoints.get(&lease.role) {
            Some(&position) => Some(position),
            None => self.store.load_checkpoint(&lease.role).await?,
        };
        if saved.unwrap_or(Position::START) != from {
            return Ok(false);
        }
        self.checkpoints.insert(lease.role.clone(), to);
        Ok(true)
    }

    async fn is_first(&mut self, handler: &Name, stream: &StreamId, event: EventId) -> Result<bool, BoxError> {
        Ok(self.deliveries.insert((handler.clone(), stream.clone(), event), Instant::now()).is_none())
    }

    async fn append(&mut self, append: Append) -> Result<(), AppendError> {
        for change in unique_changes(&append.events) {
            let Some(key) = UniqueKey::taken_by(&append.stream, &change) else { continue };
            let holder =
                self.store.store.find_holder(&key).await.map_err(|error| AppendError::Unavailable(error.into()))?;
            if holder.is_some_and(|holder| holder != append.stream) {
                return Err(AppendError::Taken { stream: append.stream, name: change.name().clone() });
            }
        }
        self.appends.push(append);
        Ok(())
    }

    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError> {
        let copies = self.committed.shadows.get(&shadow.name).ok_or("there is no such shadow")?;
        shadow.tables.iter().for_each(|table| self.tables.copy(table, copies));
        self.switched_shadow = Some(shadow.name.clone());
        Ok(self.store.load_checkpoint(&shadow.name).await?.unwrap_or(Position::START))
    }

    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError> {
        let Some(rows) = self.tables.0.get(table) else {
            return Ok(false);
        };
        Ok(column.is_none_or(|column| rows.is_empty() || rows.values().any(|row| row.contains_key(column))))
    }

    async fn has_rows(&mut self, table: &str) -> Result<bool, BoxError> {
        Ok(self.tables.0.get(table).is_some_and(|rows| !rows.is_empty()))
    }

    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError> {
        // a table without rows may be missing
        if let Some(rows) = self.tables.0.get_mut(table) {
            rows.retain(|_, row| row.get(column).is_none_or(|is| is != value));
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), BoxError> {
        let fault = self.store.commits.take();
        if fault == Some(Fault::Unavailable) {
            return Err(TableFault("fault made by the test").into());
        }
        let appends = MultiStreamAppend { appends: std::mem::take(&mut self.appends), ..Default::default() };
        self.store.store.append_streams(appends).await?;
        if let Some(shadow) = &self.shadow {
            let (live, mut copies) = (self.committed.tables.clone(), Tables::default());
            shadow.tables.iter().for_each(|table| copies.copy(table, &self.tables));
            shadow.tables.iter().for_each(|table| self.tables.copy(table, &live));
            self.committed.shadows.insert(shadow.name.clone(), copies);
        }
        self.committed.tables = std::mem::take(&mut self.tables);
        self.committed.deliveries = std::mem::take(&mut self.deliveries);
        if let Some(shadow) = self.switched_shadow.take() {
            self.committed.shadows.remove(&shadow);
            self.checkpoints.insert(shadow, Position::START);
        }
        for (name, position) in &self.checkpoints {
            self.store.save_checkpoint(name, *position).await?;
        }
        fault.map_or(Ok(()), |_| Err(TableFault("fault made by the test: the outcome is unknown").into()))
    }
}

delegate!(TableStore, self => self.store; AppendEvents, ReadStream, ReadFeed, Checkpoints);

#[async_trait]
impl MultiStreamAppends for TableStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        self.store.append_streams(multi).await
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        let HandledDelivery { handler, stream, event_id } = delivery.clone();
        let noted = self.data.lock().await.deliveries.contains_key(&(handler, stream, event_id));
        Ok(noted || self.store.is_handled(delivery).await?)
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        let mut found = self.store.handled_deliveries(events).await?;
        let noted = self.data.lock().await.deliveries.keys().cloned().collect::<Vec<_>>();
        let noted = noted.into_iter().filter(|(_, stream, id)| events.contains(&(stream.clone(), *id)));
        found.extend(noted.map(|(handler, stream, event_id)| HandledDelivery { handler, stream, event_id }));
        Ok(found)
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let mut data = self.data.lock().await;
        let before = data.deliveries.len();
        data.deliveries.retain(|_, noted| noted.elapsed() < older_than);
        let forgotten = (before - data.deliveries.len()) as u64;
        Ok(forgotten + self.store.forget_deliveries(older_than).await?)
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        self.store.find_command(tenant_id, key).await
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        self.store.forget_commands(older_than).await
    }
}

#[async_trait]
impl Leases for TableStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        let _changing = self.lease_lock.write().await;
        self.store.acquire_lease(role, owner, ttl).await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        let _changing = self.lease_lock.write().await;
        self.store.seize_lease(role, owner, ttl).await
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        self.store.renew_lease(lease, ttl).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.store.release_lease(lease).await
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        self.store.lease_of(role).await
    }
}

impl EventStore for TableStore {
    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        self.store.handler_progress()
    }

    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        Some(Arc::new(self.clone()))
    }

    fn notes(&self) -> Option<&dyn Notes> {
        self.store.notes()
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        self.store.event_types()
    }

    fn listings(&self) -> Option<&dyn crate::port::listings::Listings> {
        self.store.listings()
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.store.snapshots()
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        Some(self)
    }

    fn unique_values(&self) -> Option<&dyn crate::port::unique_values::UniqueValues> {
        self.store.unique_values()
    }

    fn boundaries(&self) -> Option<&dyn crate::port::boundaries::Boundaries> {
        self.store.boundaries()
    }
}
