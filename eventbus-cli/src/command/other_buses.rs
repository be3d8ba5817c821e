//! The note about the buses whose groups and dead letters a command does not show.

use crate::{error::CommandError, query::list_destinations, session::Session};

/// Names the buses to which relays publish the events of the store, if the command shows the handlers of the store.
pub(super) async fn note_other_buses(session: &Session) -> Result<(), CommandError> {
    if !session.bus().await?.is_in_process() {
        return Ok(());
    }
    let Some(store) = session.optional_store().await?.filter(|store| store.listings().is_some()) else { return Ok(()) };
    for destination in list_destinations(&*store).await? {
        let text = format!("events go to {destination}, too: `--bus` and `--prefix` show its groups and dead letters");
        session.printer().note(&text);
    }
    Ok(())
}
