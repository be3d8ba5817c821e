//! Listings of the store in memory, which sorts all that it holds for each page.

use async_trait::async_trait;

use super::InMemoryEventStore;
use crate::{
    domain::name::Name,
    port::{
        ReadError,
        listings::{ListCursor, Listing, Listings, StoredCheckpoint, StoredLease, StoredStream, StreamFilter},
    },
    support::{NameScan, StreamKey, StreamScan},
};

/// Returns the page of all items that a scan wants.
fn name_page<T>(scan: &NameScan<'_>, all: Vec<T>, name: impl Fn(&T) -> &Name + Copy) -> Listing<T> {
    let is_wanted = |item: &T| name(item).starts_with(scan.prefix()) && name(item).as_str() > scan.after();
    let mut items: Vec<_> = all.into_iter().filter(is_wanted).collect();
    items.sort_by(|one, two| name(one).cmp(name(two)));
    items.truncate(scan.rows());
    scan.to_page(items, name)
}

#[async_trait]
impl Listings for InMemoryEventStore {
    async fn list_streams(
        &self,
        filter: &StreamFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredStream>, ReadError> {
        let scan = StreamScan::new(filter, after, limit)?;
        let mut rows: Vec<_> =
            self.stored_streams().into_iter().map(|row| (StreamKey::from_stream(&row.stream), row)).collect();
        rows.retain(|(key, _)| key > scan.after());
        rows.sort_by(|(one, _), (two, _)| one.cmp(two));
        scan.to_page(rows.into_iter().take(scan.rows()).map(|(_, row)| row).collect())
    }

    async fn list_checkpoints(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredCheckpoint>, ReadError> {
        Ok(name_page(&NameScan::new(prefix, after, limit), self.stored_checkpoints(), |item| &item.name))
    }

    async fn list_leases(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredLease>, ReadError> {
        Ok(name_page(&NameScan::new(prefix, after, limit), self.stored_leases(), |item| &item.lease.role))
    }
}
