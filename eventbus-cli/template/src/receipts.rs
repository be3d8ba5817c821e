//! A handler: writes a receipt for each deposit. It runs at least once for each event.

use eventbus::prelude::*;

use crate::account::Deposited;

#[handler]
pub async fn receipt(event: &Deposited, id: &AggregateId) {
    println!("{id}: received {} cents", event.cents);
}

#[cfg(test)]
mod tests {
    use eventbus::testkit::given_events;

    use super::*;

    #[tokio::test]
    async fn a_deposit_has_a_receipt() {
        given_events("ada", Deposited { cents: 120 }).handle::<receipt>().await.then_ok();
    }
}
