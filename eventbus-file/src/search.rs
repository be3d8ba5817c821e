//! Search for events, results and claims: by time, by id, in pages.

use std::{fmt, str::FromStr, sync::Arc};

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
    fn matches(&self, created_at: OffsetDateTime) -> bool {
        self.from.is_none_or(|from| created_at >= from) && self.before.is_none_or(|before| created_at < before)
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

/// Start of a page. It converts to text and back, for use in an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken(String);

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PageToken {
    type Err = std::convert::Infallible;

    /// Never fails: the search refuses a text that is no token.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.into()))
    }
}

impl PageToken {
    fn after_id(page: Option<&Self>) -> Result<u64> {
        let invalid = |page: &Self| FileQueueError::InvalidName {
            what: "page token",
            value: page.0.chars().take(40).collect(),
            reason: "it is none of this search",
        };
        page.map_or(Ok(0), |page| page.0.parse().map_err(|_| invalid(page)))
    }
}

/// Collects a page of found items; `token` returns that of the page that begins after an item.
fn collect_page<T>(
    found: impl Iterator<Item = Result<Option<T>>>,
    token: impl Fn(&T) -> String,
    limit: usize,
) -> Result<SearchPage<T>> {
    let mut items = Vec::new();
    for item in found.filter_map(Result::transpose) {
        let item = item?;
        if items.len() == limit.max(1) {
            let next = items.last().map(|last| PageToken(token(last)));
            return Ok(SearchPage { items, next });
        }
        items.push(item);
    }
    Ok(SearchPage { items, next: None })
}

/// Logs a torn file and passes it over.
fn skip_torn<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(error @ FileQueueError::Torn { .. }) => {
            tracing::warn!(error = error.log(), "torn file passed over");
            Ok(None)
        }
        other => other,
    }
}

fn find_events<'a>(
    queue: &'a QueueInner,
    search: &'a Search,
) -> Result<impl Iterator<Item = Result<Option<QueueEvent>>> + use<'a>> {
    let ids = queue.log().ids_from(PageToken::after_id(search.page.as_ref())?.saturating_add(1))?;
    let matching = |id| Ok(skip_torn(queue.log().load_event(id?))?.filter(|event| search.matches(event.created_at())));
    Ok(ids.map(matching))
}

fn find_results<'a>(
    queue: &'a QueueInner,
    search: &'a Search,
) -> Result<impl Iterator<Item = Result<Option<EventResult>>> + use<'a>> {
    let after = PageToken::after_id(search.page.as_ref())?;
    let ids = queue.results().ids_from(after.saturating_add(1))?;
    let matching =
        |id| Ok(skip_torn(queue.results().load_result(id?))?.filter(|result| search.matches(result.created_at)));
    Ok(ids.map(matching))
}

fn find_claims<'a>(
    queue: &'a QueueInner,
    search: &'a Search,
) -> Result<impl Iterator<Item = Result<Option<Claim>>> + use<'a>> {
    let mut ids = queue.claims().list_ids()?;
    if let Some(after) = &search.page {
        ids.retain(|id| *id > after.0);
    }
    let matching = move |id: String| {
        Ok(skip_torn(queue.claims().load_newest(&id))?.filter(|claim| search.matches(claim.created_at)))
    };
    Ok(ids.into_iter().map(matching))
}

fn count_found<T>(mut found: impl Iterator<Item = Result<Option<T>>>) -> Result<u64> {
    found.try_fold(0, |count, one| Ok(count + u64::from(one?.is_some())))
}

async fn find_blocking<T: Send + 'static>(
    queue: &Arc<QueueInner>,
    search: &Search,
    find: impl FnOnce(&QueueInner, &Search) -> Result<T> + Send + 'static,
) -> Result<T> {
    let search = search.clone();
    queue.blocking(move |queue| find(queue, &search)).await
}

pub(crate) async fn events(queue: &Arc<QueueInner>, search: &Search) -> Result<SearchPage<QueueEvent>> {
    let token = |event: &QueueEvent| event.id().to_string();
    find_blocking(queue, search, move |queue, search| collect_page(find_events(queue, search)?, token, search.limit))
        .await
}

pub(crate) async fn count_events(queue: &Arc<QueueInner>, search: &Search) -> Result<u64> {
    find_blocking(queue, search, |queue, search| count_found(find_events(queue, search)?)).await
}

pub(crate) async fn results(queue: &Arc<QueueInner>, search: &Search) -> Result<SearchPage<EventResult>> {
    let token = |result: &EventResult| result.event_id.to_string();
    find_blocking(queue, search, move |queue, search| collect_page(find_results(queue, search)?, token, search.limit))
        .await
}

pub(crate) async fn count_results(queue: &Arc<QueueInner>, search: &Search) -> Result<u64> {
    find_blocking(queue, search, |queue, search| count_found(find_results(queue, search)?)).await
}

pub(crate) async fn claims(queue: &Arc<QueueInner>, search: &Search) -> Result<SearchPage<Claim>> {
    let token = |claim: &Claim| claim.claim_id.clone();
    find_blocking(queue, search, move |queue, search| collect_page(find_claims(queue, search)?, token, search.limit))
        .await
}

pub(crate) async fn count_claims(queue: &Arc<QueueInner>, search: &Search) -> Result<u64> {
    find_blocking(queue, search, |queue, search| count_found(find_claims(queue, search)?)).await
}
