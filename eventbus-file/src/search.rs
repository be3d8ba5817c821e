//! Search for events, results and claims: by time, by id, in pages.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    claim_store::Claim,
    error::{FileQueueError, Result},
    event::QueueEvent,
    inner::QueueInner,
    results::EventResult,
};

/// Search criteria: an item must match every field that is set. The default matches all items, a hundred on a page.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let queue = eventbus_file::FileQueue::open(eventbus_file::FileQueueConfig::at(folder.path())).await?;
/// use eventbus_file::Search;
///
/// queue.publish_all(&[1, 2, 3]).await?;
/// let mut search = Search { limit: 2, ..Default::default() };
/// let first = queue.events(&search).await?;
/// assert_eq!(first.items.len(), 2);
/// search.page = first.next;
/// assert_eq!(queue.events(&search).await?.items[0].payload::<u8>()?, 3);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Created at this time or later.
    pub from: Option<OffsetDateTime>,
    /// Created before this time.
    pub before: Option<OffsetDateTime>,
    /// Start of the page: the [`next`](SearchPage::next) of the page before.
    pub page: Option<PageToken>,
    /// Maximum number of items on a page; at least one.
    pub limit: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { from: None, before: None, page: None, limit: 100 }
    }
}

impl Search {
    /// Returns the first id of the page.
    fn first_id(&self) -> Result<u64> {
        let Some(PageToken(after)) = &self.page else {
            return Ok(1);
        };
        let invalid = |_| FileQueueError::invalid_name("page token", after, "it is none of this search");
        Ok(after.parse::<u64>().map_err(invalid)?.saturating_add(1))
    }

    /// Returns a matching item, with the text of the page token after it; logs a torn file and passes it over. `about`
    /// returns that text and the item's time of creation.
    fn check<T>(
        &self,
        read: Result<Option<T>>,
        about: impl Fn(&T) -> (String, OffsetDateTime),
    ) -> Option<Result<(String, T)>> {
        let item = match read {
            Ok(item) => item?,
            Err(error @ FileQueueError::Torn { .. }) => {
                tracing::warn!(error = error.log(), "torn file passed over");
                return None;
            }
            Err(error) => return Some(Err(error)),
        };
        let (key, created_at) = about(&item);
        let matches =
            self.from.is_none_or(|from| created_at >= from) && self.before.is_none_or(|before| created_at < before);
        matches.then_some(Ok((key, item)))
    }
}

/// A page of items, in order, and the start of the next page.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SearchPage<T> {
    /// The items.
    pub items: Vec<T>,
    /// Start of the next page; `None` if this is the last.
    pub next: Option<PageToken>,
}

/// Start of a page. It converts to text and back, for use in an API; the search refuses a text that is not a token.
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display, derive_more::FromStr)]
pub struct PageToken(String);

/// The items that a search finds, in order, each with the text that a page token after it holds.
type Found<'q, T> = Box<dyn Iterator<Item = Result<(String, T)>> + 'q>;

pub(crate) fn find_events<'q>(queue: &'q QueueInner, search: &'q Search) -> Result<Found<'q, QueueEvent>> {
    let ids = queue.log().ids_from(search.first_id()?)?;
    let about = |event: &QueueEvent| (event.id().to_string(), event.created_at());
    Ok(Box::new(ids.filter_map(move |id| search.check(id.and_then(|id| queue.log().load_event(id)), about))))
}

pub(crate) fn find_results<'q>(queue: &'q QueueInner, search: &'q Search) -> Result<Found<'q, EventResult>> {
    let ids = queue.results().ids_from(search.first_id()?)?;
    let about = |result: &EventResult| (result.event_id.to_string(), result.created_at);
    Ok(Box::new(ids.filter_map(move |id| search.check(id.and_then(|id| queue.results().load_result(id)), about))))
}

pub(crate) fn find_claims<'q>(queue: &'q QueueInner, search: &'q Search) -> Result<Found<'q, Claim>> {
    let mut ids = queue.claims().list_ids()?;
    ids.retain(|id| search.page.as_ref().is_none_or(|after| *id > after.0));
    let about = |claim: &Claim| (claim.claim_id.clone(), claim.created_at);
    Ok(Box::new(ids.into_iter().filter_map(move |id| search.check(queue.claims().load_newest(&id), about))))
}

/// Returns a page of the items that `find` finds.
pub(crate) async fn load_page<T: Send + 'static>(
    queue: &Arc<QueueInner>,
    search: &Search,
    find: for<'q> fn(&'q QueueInner, &'q Search) -> Result<Found<'q, T>>,
) -> Result<SearchPage<T>> {
    let search = search.clone();
    let load = move |queue: &QueueInner| {
        let (mut items, mut last) = (Vec::new(), None);
        for found in find(queue, &search)? {
            let (key, item) = found?;
            if items.len() == search.limit.max(1) {
                return Ok(SearchPage { items, next: last.map(PageToken) });
            }
            items.push(item);
            last = Some(key);
        }
        Ok(SearchPage { items, next: None })
    };
    queue.blocking(load).await
}

/// Returns the number of items that `find` finds.
pub(crate) async fn count<T: 'static>(
    queue: &Arc<QueueInner>,
    search: &Search,
    find: for<'q> fn(&'q QueueInner, &'q Search) -> Result<Found<'q, T>>,
) -> Result<u64> {
    let search = search.clone();
    queue.blocking(move |queue| find(queue, &search)?.try_fold(0, |count, found| found.map(|_| count + 1))).await
}
