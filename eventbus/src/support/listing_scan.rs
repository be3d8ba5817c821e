//! Pages of listings by key: where a store begins to read, and which of its rows make a page.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::from_json;
use crate::{
    domain::{name::Name, stream::StreamId},
    port::{
        ReadError,
        listings::{ListCursor, Listing, StoredStream, StreamFilter},
    },
};

/// The most rows that a store examines for one page of a listing.
pub const LISTING_ROWS_MAX: usize = 1_000;

/// The key after which a page of streams begins: aggregate id, aggregate type and tenant, the nil UUID for none.
///
/// Keys are in the order of the listing: by the bytes of the texts, then of the tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamKey(pub String, pub String, pub Uuid);

impl StreamKey {
    /// Returns the key of a stream.
    #[must_use]
    pub fn from_stream(stream: &StreamId) -> Self {
        let (id, aggregate_type) = (stream.aggregate_id().as_str(), stream.aggregate_type().as_str());
        Self(id.to_owned(), aggregate_type.to_owned(), stream.tenant_or_nil())
    }

    fn to_cursor(&self) -> Result<ListCursor, ReadError> {
        let text = serde_json::to_string(self).map_err(|error| ReadError::corrupt("the key of a stream", error))?;
        Ok(ListCursor::new(text))
    }

    fn from_cursor(cursor: &ListCursor) -> Result<Self, ReadError> {
        let not_a_cursor = |error| ReadError::corrupt(format!("the cursor `{cursor}` of a listing of streams"), error);
        from_json(cursor.as_str()).map_err(not_a_cursor)
    }
}

/// One page of a listing of streams by key.
#[derive(Debug)]
pub struct StreamScan<'f> {
    filter: &'f StreamFilter,
    after: StreamKey,
    limit: usize,
}

impl<'f> StreamScan<'f> {
    /// Prepares a page of at most `limit` streams, at least one.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if `after` is no cursor of such a listing.
    pub fn new(filter: &'f StreamFilter, after: Option<&ListCursor>, limit: usize) -> Result<Self, ReadError> {
        // no aggregate type is empty, so this is before the first stream whose id has the prefix
        let first = StreamKey(filter.id_prefix.clone(), String::new(), Uuid::nil());
        let after = after.map(StreamKey::from_cursor).transpose()?.map_or(first.clone(), |after| after.max(first));
        Ok(Self { filter, after, limit: limit.clamp(1, LISTING_ROWS_MAX) })
    }

    /// Returns the key after which the store reads its rows.
    #[must_use]
    pub const fn after(&self) -> &StreamKey {
        &self.after
    }

    /// Returns the number of rows to read.
    #[must_use]
    pub const fn rows(&self) -> usize {
        // with a type or a tenant, most rows may not match
        match self.filter.aggregate_type.is_none() && self.filter.tenant.is_none() {
            true => self.limit,
            false => LISTING_ROWS_MAX,
        }
    }

    /// Makes the page of the rows that the store has read: those after [`after`](Self::after), [`rows`](Self::rows) of
    /// them or fewer at the end.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if the cursor of the next page cannot be written.
    pub fn to_page(&self, rows: Vec<StoredStream>) -> Result<Listing<StoredStream>, ReadError> {
        let is_end = rows.len() < self.rows();
        let (mut items, mut last) = (Vec::new(), None);
        for row in rows {
            if !row.stream.aggregate_id().as_str().starts_with(&self.filter.id_prefix) {
                return Ok(Listing { items, next: None });
            }
            last = Some(StreamKey::from_stream(&row.stream));
            if self.filter.matches(&row.stream) {
                items.push(row);
                if items.len() == self.limit {
                    return Ok(Listing { items, next: last.map(|last| last.to_cursor()).transpose()? });
                }
            }
        }
        let next = last.filter(|_| !is_end).map(|last| last.to_cursor()).transpose()?;
        Ok(Listing { items, next })
    }
}

/// One page of a listing by name.
#[derive(Debug)]
pub struct NameScan<'p> {
    prefix: &'p str,
    after: String,
    limit: usize,
}

impl<'p> NameScan<'p> {
    /// Prepares a page of at most `limit` names, at least one.
    #[must_use]
    pub fn new(prefix: &'p str, after: Option<&ListCursor>, limit: usize) -> Self {
        let after = after.map_or_else(String::new, |after| after.as_str().to_owned());
        Self { prefix, after, limit: limit.clamp(1, LISTING_ROWS_MAX) }
    }

    /// Returns the text that the names begin with.
    #[must_use]
    pub const fn prefix(&self) -> &str {
        self.prefix
    }

    /// Returns the name after which the store reads; empty for the first page.
    #[must_use]
    pub fn after(&self) -> &str {
        &self.after
    }

    /// Returns the number of rows to read.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.limit
    }

    /// Makes the page of the rows that the store has read, in the order of their names.
    pub fn to_page<T>(&self, items: Vec<T>, name: impl Fn(&T) -> &Name) -> Listing<T> {
        let last = items.last().filter(|_| items.len() >= self.limit);
        let next = last.map(|last| ListCursor::new(name(last).as_str()));
        Listing { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;

    fn rows(ids: impl IntoIterator<Item = String>) -> Vec<StoredStream> {
        let row = |id: String| StreamId::parse(if id.ends_with('7') { "Rare" } else { "Often" }, &id).unwrap();
        ids.into_iter().map(|id| StoredStream { stream: row(id), version: Version::FIRST, recorded_at: None }).collect()
    }

    /// Returns what a store with these rows lists, and the number of pages.
    fn list(all: &[StoredStream], filter: &StreamFilter, limit: usize) -> (Vec<String>, usize) {
        let (mut found, mut pages, mut after) = (Vec::new(), 0, None);
        loop {
            let scan = StreamScan::new(filter, after.as_ref(), limit).unwrap();
            let later = all.iter().filter(|row| StreamKey::from_stream(&row.stream) > *scan.after());
            let page = scan.to_page(later.take(scan.rows()).cloned().collect()).unwrap();
            found.extend(page.items.iter().map(|row| row.stream.aggregate_id().to_string()));
            (pages, after) = (pages + 1, page.next);
            if after.is_none() {
                return (found, pages);
            }
        }
    }

    #[test]
    fn a_page_examines_a_bounded_number_of_rows() {
        let all = rows((0..5_000).map(|number| format!("{number:04}")));
        let rare = StreamFilter { aggregate_type: Some(Name::from_static("Rare")), ..Default::default() };
        let (found, pages) = list(&all, &rare, 10_000);
        assert_eq!((found.len(), pages), (500, 6));
        let (found, pages) = list(&all, &rare, 3);
        assert_eq!((found.len(), found[4].as_str(), pages), (500, "0047", 167));
        let prefixed = StreamFilter { id_prefix: "12".into(), ..Default::default() };
        let (found, pages) = list(&all, &prefixed, 40);
        assert_eq!((found.len(), found[0].as_str(), found[99].as_str(), pages), (100, "1200", "1299", 3));
    }

    #[test]
    fn a_foreign_cursor_is_refused() {
        let error = StreamScan::new(&StreamFilter::default(), Some(&ListCursor::new("x")), 1).unwrap_err();
        assert_eq!(error.to_string(), "event store holds corrupt data at the cursor `x` of a listing of streams");
    }
}
