//! The SQL function by which statements select the events of slots.

use eventbus::{BoxError, StreamId};
use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
};
use uuid::Uuid;

/// Adds `eventbus_has_slot(slots, aggregate_type, aggregate_id, tenant_id)` to a connection; `slots` has a bit for each.
pub(crate) fn add_function(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    // a row whose stream cannot be read is selected, so that its reader names the fault
    connection.create_scalar_function("eventbus_has_slot", 4, flags, |context| Ok(has_slot(context).unwrap_or(true)))
}

fn has_slot(context: &Context<'_>) -> Result<bool, BoxError> {
    let [slots, of_type, id, tenant] = [0, 1, 2, 3].map(|argument| context.get_raw(argument));
    let stream = StreamId::parse(of_type.as_str()?, id.as_str()?)?;
    let slot = stream.with_tenant_id(Some(Uuid::from_slice(tenant.as_blob()?)?)).slot();
    Ok(slots.as_blob()?.get(usize::from(slot / 8)).is_some_and(|bits| bits >> (slot % 8) & 1 == 1))
}
