//! The analytics: a projection, fed from the store in order, and from zero at each start.

use std::collections::BTreeMap;

use eventbus::prelude::*;
use serde::Serialize;

use crate::user::UserCreated;

/// Counts of registrations.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Analytics {
    /// Number of users.
    registered_users: u64,
    /// Number of registrations by day (UTC).
    per_day: BTreeMap<String, u64>,
}

#[projection(name = "analytics", manual)]
impl Analytics {
    fn user_created(&mut self, _event: &UserCreated, meta: &Metadata) {
        self.registered_users += 1;
        *self.per_day.entry(meta.occurred_at().date().to_string()).or_default() += 1;
    }
}
