//! A stream of records that a store reads page by page.

use std::{future::poll_fn, sync::Arc, task::Poll};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use super::spans::FeedRead;
use crate::{
    domain::record::RecordedEvent,
    port::{BoxFuture, ReadError, RecordStream, feed_page::FeedBatch},
};

/// The most bytes that a reader reads ahead: 1 MiB. A page of a store, of a bus's history or of dead letters, and a
/// batch of a projection, end with the event that reaches this size. So a reader holds at most this size and one more
/// event, however large events are; twice as much with [`paged_ahead`], three times as much with [`fetched_ahead`].
pub const PAGE_BYTES: usize = 1024 * 1024;

/// A page of events, and the cursor of the next page; `None` on the last page.
pub type Page<C> = (Vec<RecordedEvent>, Option<C>);

/// Reads the next events of a feed in a span, as [`FeedBatch::read`] does without.
pub(crate) async fn read_batch(
    mut span: FeedRead,
    feed: &mut RecordStream<'_>,
    events_max: usize,
    bytes_max: usize,
) -> Result<FeedBatch, ReadError> {
    let read = FeedBatch::read(feed, events_max, bytes_max).await;
    match &read {
        // the next read meets an error behind the events again
        Ok(batch) => batch.events.iter().for_each(|event| span.add(event)),
        Err(error) => span.fail(error),
    }
    read
}

/// Turns page-wise reading into a stream: reads a page when the former one is consumed, none before the first poll.
///
/// Calls `read_page` with the cursor of the page, first `start`. Ends after a page without a next cursor, or after an
/// error.
pub fn paged<'a, C, F, P>(start: C, read_page: F) -> RecordStream<'a>
where
    C: Send + 'a,
    F: Fn(C) -> P + Send + 'a,
    P: Future<Output = Result<Page<C>, ReadError>> + Send + 'a,
{
    let pages = stream::try_unfold(Some(start), move |from| {
        let page = from.map(&read_page);
        async move {
            match page {
                Some(page) => page.await.map(Some),
                None => Ok(None),
            }
        }
    });
    events_of(pages)
}

/// Turns page-wise reading into a stream, as [`paged`] does; a task reads the next page while the former one is consumed.
///
/// A task whose stream is dropped reads its page to the end.
pub fn paged_ahead<C, F, P>(start: C, read_page: F) -> RecordStream<'static>
where
    C: Send + 'static,
    F: Fn(C) -> P + Send + Sync + 'static,
    P: Future<Output = Result<Page<C>, ReadError>> + Send + 'static,
{
    let read_page = Arc::new(read_page);
    let first: BoxFuture<'static, _> = Box::pin(read_page(start));
    let pages = stream::try_unfold(Some(first), move |page| {
        let read_page = Arc::clone(&read_page);
        async move {
            let Some(page) = page else { return Ok(None) };
            let (events, next) = page.await?;
            let ahead = match next {
                Some(cursor) => Some(begin(read_page(cursor)).await),
                None => None,
            };
            Ok(Some((events, ahead)))
        }
    });
    events_of(pages)
}

/// Turns page-wise reading into a stream, as [`paged_ahead`] does, in two steps: while a page is consumed, a task decodes
/// the next one, and another task fetches the page after that.
///
/// `fetch` returns what it has fetched of a page, and the cursor that it expects of the next page. If `decode` finds a
/// different one, the page behind the expected cursor is dropped.
pub fn fetched_ahead<C, R, F, P, D, Q>(start: C, fetch: F, decode: D) -> RecordStream<'static>
where
    C: Clone + PartialEq + Send + Sync + 'static,
    R: Send + 'static,
    F: Fn(C) -> P + Send + Sync + 'static,
    P: Future<Output = Result<(R, Option<C>), ReadError>> + Send + 'static,
    D: Fn(R) -> Q + Send + Sync + 'static,
    Q: Future<Output = Result<Page<C>, ReadError>> + Send + 'static,
{
    let steps = Arc::new((fetch, decode));
    let first: Fetching<R, C> = Box::pin(steps.0(start));
    paged_ahead(first, move |fetching| {
        let steps = Arc::clone(&steps);
        async move {
            let (fetch, decode) = &*steps;
            let (fetched, expected) = fetching.await?;
            let ahead: Option<Fetching<R, C>> = match expected.clone() {
                Some(cursor) => Some(begin(fetch(cursor)).await),
                None => None,
            };
            let (events, next) = decode(fetched).await?;
            if next == expected {
                return Ok((events, ahead));
            }
            Ok((events, next.map(|cursor| -> Fetching<R, C> { Box::pin(fetch(cursor)) })))
        }
    })
}

/// What is fetched for a page, and the expected cursor of the next one.
type Fetching<R, C> = BoxFuture<'static, Result<(R, Option<C>), ReadError>>;

/// Begins `reading` in a task. Without a tokio runtime it begins when it is awaited, so nothing is read ahead.
async fn begin<T: Send + 'static>(
    reading: impl Future<Output = Result<T, ReadError>> + Send + 'static,
) -> BoxFuture<'static, Result<T, ReadError>> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return Box::pin(reading);
    };
    let reading = runtime.spawn(reading);
    requeue().await;
    Box::pin(async { reading.await.unwrap_or_else(|lost| Err(ReadError::Unavailable(lost.into()))) })
}

/// Puts the current task back into the queue of its worker, from where another worker may take it.
///
/// A worker runs the task that it spawned last as its next one, and no other worker takes that one: it would wait until
/// the current task waits. `tokio::task::yield_now` is no help, since the current task would then wait for the other one.
async fn requeue() {
    let mut is_requeued = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_requeued, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn events_of<'a>(pages: impl Stream<Item = Result<Vec<RecordedEvent>, ReadError>> + Send + 'a) -> RecordStream<'a> {
    pages.map_ok(|events| stream::iter(events).map(Ok)).try_flatten().boxed()
}

/// Turns a first page that is already read, and page-wise reading of the further ones, into a stream, as [`paged`]
/// does.
pub fn paged_after<'a, C, F, P>((events, next): Page<C>, read_page: F) -> RecordStream<'a>
where
    C: Send + 'a,
    F: Fn(C) -> P + Send + 'a,
    P: Future<Output = Result<Page<C>, ReadError>> + Send + 'a,
{
    let first = stream::iter(events).map(Ok);
    match next {
        Some(next) => first.chain(paged(next, read_page)).boxed(),
        None => first.boxed(),
    }
}

/// Collects the events of a page, at most `events_max`; `true` if there may be more.
///
/// The page also ends with the event that reaches [`PAGE_BYTES`], and before a row that is no event: the next page
/// begins with that row, and fails.
///
/// # Errors
/// The error of the first row.
pub fn collect_page<E>(
    rows: impl IntoIterator<Item = Result<RecordedEvent, E>>,
    events_max: usize,
) -> Result<(Vec<RecordedEvent>, bool), E> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let event = match row {
            Ok(event) => event,
            Err(_) if !events.is_empty() => return Ok((events, true)),
            Err(error) => return Err(error),
        };
        bytes += event.payload().len();
        events.push(event);
        if bytes >= PAGE_BYTES {
            return Ok((events, true));
        }
    }
    let has_more = events.len() >= events_max;
    Ok((events, has_more))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::Notify, time::timeout};

    use super::*;
    use crate::domain::{name::Name, record::NewEvent, stream::StreamId};

    fn event(number: u64) -> RecordedEvent {
        let stream = StreamId::parse("Order", "1").unwrap();
        NewEvent::new(Name::from_static("Noted"), 1, "{}").recorded_as(stream, number.into(), Some(number.into()))
    }

    async fn until(noted: &Notify, condition: impl Fn() -> bool) {
        let holds = async {
            while !condition() {
                noted.notified().await;
            }
        };
        timeout(Duration::from_secs(60), holds).await.expect("the next pages are read ahead");
    }

    #[test]
    fn without_a_runtime_pages_are_read_one_after_the_other() {
        let mut records = paged_ahead(1, |first| async move {
            Ok((vec![event(first), event(first + 1)], (first < 7).then_some(first + 2)))
        });
        let (mut context, mut numbers) = (std::task::Context::from_waker(std::task::Waker::noop()), Vec::new());
        while let Poll::Ready(Some(record)) = records.poll_next_unpin(&mut context) {
            numbers.push(record.unwrap().version().get());
        }
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn one_page_is_read_ahead_and_no_more() {
        let (begun, reads) = (Arc::new(Notify::new()), Arc::new(parking_lot::Mutex::new(Vec::new())));
        let (notify, noted) = (Arc::clone(&begun), Arc::clone(&reads));
        let mut records = paged_ahead(1, move |first| {
            let (notify, noted) = (Arc::clone(&notify), Arc::clone(&noted));
            async move {
                noted.lock().push(first);
                notify.notify_one();
                Ok((vec![event(first), event(first + 1)], (first < 7).then_some(first + 2)))
            }
        });
        assert!(reads.lock().is_empty(), "none before the first poll");
        let first = records.try_next().await.unwrap().map(|record| record.version().get());
        until(&begun, || reads.lock().len() == 2).await;
        assert_eq!((first, &reads.lock()[..]), (Some(1), &[1, 3][..]));
        let rest: Vec<_> = records.try_collect().await.unwrap();
        let numbers: Vec<_> = rest.iter().map(|record| record.version().get()).collect();
        assert_eq!((numbers, &reads.lock()[..]), ((2..=8).collect(), &[1, 3, 5, 7][..]));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_next_page_is_read_while_the_task_of_the_reader_computes() {
        let (begun, begun_pages) = std::sync::mpsc::channel();
        let mut records = paged_ahead(1, move |page| {
            let begun = begun.clone();
            async move {
                begun.send(page).unwrap();
                Ok((vec![event(page)], (page < 3).then_some(page + 1)))
            }
        });
        let reader = tokio::spawn(async move {
            records.try_next().await.unwrap();
            let next_page = || begun_pages.recv_timeout(Duration::from_secs(60));
            assert_eq!([next_page(), next_page()], [Ok(1), Ok(2)]);
        });
        reader.await.unwrap();
    }

    /// Reads events 1 to 12, four a page; notes what is fetched and decoded. Event 7 ends its page, as if it were damaged.
    fn fetched_pages(notes: &Arc<parking_lot::Mutex<Vec<(char, u64)>>>, noted: &Arc<Notify>) -> RecordStream<'static> {
        let note = {
            let (notes, noted) = (Arc::clone(notes), Arc::clone(noted));
            move |step, first| {
                notes.lock().push((step, first));
                noted.notify_one();
            }
        };
        let fetch_note = note.clone();
        let after = |last: u64| (last < 12).then_some(last + 1);
        fetched_ahead(
            1,
            move |first: u64| {
                let note = fetch_note.clone();
                async move {
                    note('f', first);
                    Ok((first, after(first + 3)))
                }
            },
            move |first| {
                let note = note.clone();
                async move {
                    note('d', first);
                    let last = if (first..first + 4).contains(&7) && first != 7 { 6 } else { (first + 3).min(12) };
                    Ok(((first..=last).map(event).collect(), after(last)))
                }
            },
        )
    }

    #[tokio::test]
    async fn a_page_is_fetched_while_the_former_one_is_decoded() {
        let (notes, noted) = (Arc::default(), Arc::new(Notify::new()));
        let mut records = fetched_pages(&notes, &noted);
        assert!(notes.lock().is_empty(), "none before the first poll");
        let mut numbers = Vec::new();
        let ahead = [('d', 1), ('d', 5), ('f', 1), ('f', 5), ('f', 9)];
        numbers.extend(records.try_next().await.unwrap().map(|record| record.version().get()));
        until(&noted, || notes.lock().len() == ahead.len()).await;
        let mut seen = notes.lock().clone();
        seen.sort_unstable();
        assert_eq!(seen, ahead);
        numbers.extend(records.try_collect::<Vec<_>>().await.unwrap().iter().map(|record| record.version().get()));
        assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
        // the second page ended early, so the page behind it was fetched again, from where it ended
        let decoded: Vec<_> = notes.lock().iter().filter(|(step, _)| *step == 'd').map(|(_, first)| *first).collect();
        assert_eq!(decoded, [1, 5, 7, 11]);
    }
}
