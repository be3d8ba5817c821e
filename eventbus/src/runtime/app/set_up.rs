//! The set-up of the tables of projections, at the start of an app.

use crate::{
    port::EventStore,
    runtime::{projection::AnyProjection, start::StartMistake},
};

/// Runs the `set_up` of each projection, in a transaction each; stops at the first that fails.
///
/// Runs before any projection is fed, and in every process that starts, standby or not.
pub(super) async fn set_up_tables(store: &dyn EventStore, projections: &[AnyProjection]) -> Result<(), StartMistake> {
    // a projection that has a `set_up` takes the store's connection, so the plan has checked that the store lends one
    let Some(transactions) = store.transactions() else {
        return Ok(());
    };
    for definition in projections.iter().map(AnyProjection::definition) {
        let Some(statements) = definition.set_up else { continue };
        let (name, source_place) = (definition.name, definition.source);
        transactions.set_up_tables(statements).await.map_err(|source| match transactions.server_fault(&*source) {
            Some(_) => StartMistake::Unavailable { what: format!("the tables of projection `{name}`"), source },
            None => StartMistake::SetUp { name, source_place, source },
        })?;
    }
    Ok(())
}
