//! The options of a projection's tables that a rebuild needs.

use std::collections::BTreeMap;

use eventbus::{port::FromTransaction, prelude::*};

struct FakeStore;
struct FakeTransaction(BTreeMap<String, u64>);

impl FromTransaction<FakeStore> for BTreeMap<String, u64> {
    type Transaction = FakeTransaction;

    fn from_transaction(transaction: &mut FakeTransaction) -> &mut Self {
        &mut transaction.0
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct OrderCreated {}

#[derive(Default)]
struct InMemory;

#[projection(name = "in-memory", tables("order_rows"), key = "order_id", set_up = "CREATE TABLE order_rows ()", version = 2)]
impl InMemory {
    fn created(&mut self, _event: &OrderCreated) {}
}

#[derive(Default)]
struct Names;

#[projection(name = "names", tables("order rows", "1st", "", order_rows, "lines", "lines"), key = "id; DROP TABLE x")]
impl Names {
    fn created(&self, _event: &OrderCreated, _connection: &mut BTreeMap<String, u64>) {}
}

#[derive(Default)]
struct Keys;

#[projection(name = "keys", tables("stats:orders", "order:*", "a key:x", "*", "order:**"))]
impl Keys {
    fn created(&self, _event: &OrderCreated, _connection: &mut BTreeMap<String, u64>) {}
}

#[derive(Default)]
struct Empty;

#[projection(name = "empty", tables(), version = 0)]
impl Empty {
    fn created(&self, _event: &OrderCreated, _connection: &mut BTreeMap<String, u64>) {}
}

#[derive(Default)]
struct KeyAlone;

#[projection(name = "key-alone", key = "order_id")]
impl KeyAlone {
    fn created(&self, _event: &OrderCreated, _connection: &mut BTreeMap<String, u64>) {}
}

#[derive(Default)]
struct Values;

#[projection(name = "values", tables = "order_rows", key("order_id"), set_up("CREATE TABLE order_rows ()"), version = "2")]
impl Values {
    fn created(&self, _event: &OrderCreated, _connection: &mut BTreeMap<String, u64>) {}
}

fn main() {}
