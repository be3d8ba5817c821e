use std::{iter, path::Path, sync::mpsc, thread};

use eventbus::Result;
use rusqlite::Connection;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    StoredOrder,
    sqlite::{SqliteOrders, insert},
};
use crate::{order::ItemAdded, workload::Orders};

const SAVES_MAX: usize = 256;

/// Orders in the table of [`SqliteOrders`]. A thread with a connection of its own stores what all callers save: saves that
/// come while it commits share the next transaction.
#[derive(Clone)]
pub struct GroupedSqliteOrders {
    orders: SqliteOrders,
    writer: mpsc::Sender<WaitingSave>,
}

struct WaitingSave {
    id: String,
    /// That of the last stored event.
    version: i64,
    items: Vec<ItemAdded>,
    answer: oneshot::Sender<Result<Vec<ItemAdded>>>,
}

impl GroupedSqliteOrders {
    pub fn open(path: &Path) -> Result<Self> {
        let orders = SqliteOrders::open(path)?;
        let mut connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000")?;
        let (writer, saves) = mpsc::channel();
        // it ends when the last caller has dropped its sender
        thread::spawn(move || write(&mut connection, &saves));
        Ok(Self { orders, writer })
    }
}

fn write(connection: &mut Connection, saves: &mpsc::Receiver<WaitingSave>) {
    while let Ok(first) = saves.recv() {
        // callers that just got their answers may save again
        thread::yield_now();
        let saves: Vec<_> = iter::once(first).chain(saves.try_iter()).take(SAVES_MAX).collect();
        let results = store(connection, &saves).map_err(|error| error.to_string());
        for (place, WaitingSave { items, answer, .. }) in saves.into_iter().enumerate() {
            let result = results.as_ref().map_err(String::clone).and_then(|results| results[place].clone());
            // a caller that went away needs no answer
            let _ = answer.send(result.map(|()| items).map_err(Into::into));
        }
    }
}

/// Stores saves in one transaction, and returns which of them failed; an error fails all.
fn store(connection: &mut Connection, saves: &[WaitingSave]) -> Result<Vec<Result<(), String>>> {
    let mut tx = connection.transaction()?;
    let mut results = Vec::with_capacity(saves.len());
    for WaitingSave { id, version, items, .. } in saves {
        let stored = match &items[..] {
            // one that fails leaves no trace
            [item] => insert(&tx, id, version + 1, item),
            items => {
                let savepoint = tx.savepoint()?;
                let mut events = (version + 1..).zip(items);
                // without a commit it is rolled back
                events
                    .try_for_each(|(version, item)| insert(&savepoint, id, version, item))
                    .and_then(|()| Ok(savepoint.commit()?))
            }
        };
        results.push(stored.map_err(|error| error.to_string()));
    }
    tx.commit()?;
    Ok(results)
}

impl Orders for GroupedSqliteOrders {
    type Held = StoredOrder;

    fn create(&self) -> StoredOrder {
        StoredOrder::create()
    }

    async fn save(&self, held: &mut StoredOrder, items: Vec<ItemAdded>) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.writer.send(WaitingSave { id: held.id.to_string(), version: held.version, items, answer })?;
        let items = answered.await??;
        held.version += i64::try_from(items.len())?;
        items.iter().for_each(|item| held.order.add(item));
        Ok(())
    }

    async fn load(&self, id: Uuid) -> Result<StoredOrder> {
        self.orders.load(id).await
    }

    async fn count_events(&self) -> Result<u64> {
        self.orders.count_events().await
    }
}
