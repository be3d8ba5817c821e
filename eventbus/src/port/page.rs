//! Reading in pages, as one stream.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{ReadError, RecordStream};
use crate::domain::record::RecordedEvent;

/// How many bytes are held of what is read ahead: a page of a store, of a bus's history or of dead letters, and a batch of a
/// projection, end with the event that reaches it. So a reader holds at most this and one event more, however large
/// events are.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// Some events, and where to read on; without that, the end is reached.
pub type Page<C> = (Vec<RecordedEvent>, Option<C>);

/// Turns page-wise reading into a stream: a page is read when the former one is consumed, none before the first poll.
///
/// `read_page` is given where to read on, first `start`. Ends after a page without continuation, or after an error.
pub fn paged<'a, C, F, P>(start: C, read_page: F) -> RecordStream<'a>
where
    C: Send + 'a,
    F: Fn(C) -> P + Send + 'a,
    P: Future<Output = Result<Page<C>, ReadError>> + Send + 'a,
{
    stream::try_unfold(Some(start), move |from| {
        let page = from.map(&read_page);
        async move {
            match page {
                Some(page) => page.await.map(Some),
                None => Ok(None),
            }
        }
    })
    .map_ok(|events| stream::iter(events).map(Ok))
    .try_flatten()
    .boxed()
}
