//! The check for rows of a projection that has no checkpoint: a renamed projection would add each event to them again.

use super::{context::RunnerContext, fed_projection::FedProjection};
use crate::{
    domain::{error::BoxError, name::Name},
    runtime::definition::ProjectionKind,
};

/// Warns if a table of the projection has rows although the projection has no checkpoint. The caller holds the lease, so
/// no other process adds the first rows meanwhile. A failure is no reason not to feed the projection.
pub(super) async fn warn_of_rows_without_checkpoint(inner: &dyn FedProjection, context: &RunnerContext, role: &Name) {
    match find_table_with_rows(inner, context, role).await {
        Ok(Some(table)) => {
            let name = inner.name();
            tracing::warn!(
                projection = name,
                "projection `{name}` has no checkpoint, but its table `{table}` has rows: it begins with the first event \
                 and adds to them; if it was renamed, stop the process and give it its former name; `rebuild {name}` makes \
                 the rows anew"
            );
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(projection = inner.name(), %error, "no check for rows without a checkpoint"),
    }
}

/// Returns the first table with rows that only this projection of the app writes; `None` if there is a checkpoint.
async fn find_table_with_rows(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    role: &Name,
) -> Result<Option<&'static str>, BoxError> {
    let definition = inner.definition();
    if definition.kind != ProjectionKind::Transactional
        || definition.tables.is_empty()
        || context.store.load_checkpoint(role).await?.is_some()
    {
        return Ok(None);
    }
    let Some(transactions) = context.store.transactions() else { return Ok(None) };
    let mut transaction = transactions.begin().await?;
    for table in definition.tables.iter().copied().filter(|table| !context.shared_tables.contains(table)) {
        if transaction.has_rows(table).await? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}
