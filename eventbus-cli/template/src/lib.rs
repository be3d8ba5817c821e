//! Accounts: deposits and withdrawals, a receipt for each, and the balances of all.

pub mod account;
pub mod balances;
pub mod receipts;
pub mod routes;

use eventbus::{App, app::AppBuilder};

/// Returns the app without a store or a bus: tests run it in memory.
pub fn app() -> AppBuilder {
    App::builder().discover()
}
