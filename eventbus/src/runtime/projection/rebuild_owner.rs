//! Which process rebuilds a projection through copies of its tables.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::status::RebuildOwner;
use crate::{
    domain::{error::BoxError, name::Name},
    port::{EventStore, ReadError},
    support::ReaderKind,
};

/// Finds the process that rebuilds a projection through copies of its tables; `None` if no process does.
pub(super) async fn find_rebuild_owner(
    store: &dyn EventStore,
    name: &'static str,
) -> Result<Option<RebuildOwner>, ReadError> {
    let role = rebuild_role(name);
    let unavailable = |error: BoxError| ReadError::Unavailable(error);
    let Some(lease) = store.lease_of(&role).await.map_err(|error| unavailable(error.into()))? else {
        return Ok(None);
    };
    let since = match store.notes() {
        Some(notes) => notes.load_note(&role).await.map_err(|error| unavailable(error.into()))?,
        None => None,
    };
    let since = since.and_then(|since| OffsetDateTime::parse(&since, &Rfc3339).ok());
    Ok(Some(RebuildOwner { owner: lease.owner, since }))
}

/// Returns the role of rebuilding a projection.
pub(super) fn rebuild_role(name: &'static str) -> Name {
    ReaderKind::Rebuild.name_of(&Name::from_static(name))
}
