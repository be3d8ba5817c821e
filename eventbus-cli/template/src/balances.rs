//! A projection: the balance of each account, in memory. It is fed from the store in order, and from zero at each start.

use std::collections::BTreeMap;

use eventbus::prelude::*;

use crate::account::{Deposited, Withdrawn};

#[derive(Debug, Default, Clone, Serialize)]
pub struct Balances {
    pub cents: BTreeMap<String, u64>,
}

#[projection(name = "balances")]
impl Balances {
    fn deposited(&mut self, event: &Deposited, id: &AggregateId) {
        *self.cents.entry(id.to_string()).or_default() += event.cents;
    }

    fn withdrawn(&mut self, event: &Withdrawn, id: &AggregateId) {
        *self.cents.entry(id.to_string()).or_default() -= event.cents;
    }
}
