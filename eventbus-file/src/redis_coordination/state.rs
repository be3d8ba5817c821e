//! The whole state as a worker broadcasts it, page by page, and the check of a received page against the files.
//!
//! Invariant: the files decide, so a worker that receives the name of a file checks that its folder has the file. A
//! file that is missing there, and was not removed, shows that the workers do not share a folder, or see new files
//! late.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    claim_store::{Claim, event_of_claim},
    error::Result,
    inner::QueueInner,
    names,
};

/// Maximum number of id ranges on a page, and of ids that they span.
const PAGE_RANGES_MAX: usize = 200;
const PAGE_IDS_MAX: u64 = names::ID_JUMP_MAX;

/// The first and the last id of a range.
pub(super) type IdRange = (u64, u64);

/// A page of the state.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StatePage {
    /// From 1.
    pub(super) page: u64,
    #[serde(flatten)]
    pub(super) content: StateContent,
}

/// Content of a page.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StateContent {
    Claims(Vec<ClaimSummary>),
    /// The ids that have files, of gaps too.
    Events(Vec<IdRange>),
    /// The events that have results, without removed events.
    Results(Vec<IdRange>),
    /// The last page.
    End {
        next_event_id: u64,
    },
}

/// A live claim without its data, which may be large and is in the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClaimSummary {
    claim_id: String,
    epoch: u64,
    worker_id: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

impl From<&Claim> for ClaimSummary {
    fn from(claim: &Claim) -> Self {
        let (claim_id, worker_id) = (claim.claim_id.clone(), claim.worker_id.clone());
        Self { claim_id, epoch: claim.epoch, worker_id, expires_at: claim.expires_at }
    }
}

/// Returns the live claims among these; the claim of an event with a result is not live.
pub(super) fn load_live_claims(queue: &QueueInner, ids: &[String]) -> Result<Vec<Claim>> {
    let mut live = Vec::new();
    for id in ids {
        if let Some(event_id) = event_of_claim(id)
            && queue.results().has_result(event_id)?
        {
            continue;
        }
        match queue.claims().load_newest(id) {
            Ok(claim) => live.extend(claim.filter(Claim::is_live)),
            Err(error) => tracing::warn!(error = error.log(), "claim passed over"),
        }
    }
    Ok(live)
}

/// Returns the first of the reported events that is missing here, and the number of missing events.
fn find_unseen_events(queue: &QueueInner, reported: &[IdRange]) -> Result<Option<(u64, u64)>> {
    loop {
        let removed = queue.log().removed_through()?;
        let remaining = reported.iter().map(|(from, to)| ((*from).max(removed + 1), *to));
        let first = remaining.clone().map(|(from, _)| from).min().unwrap_or_default();
        let unseen = find_missing(remaining, queue.log().ids_from(first)?)?;
        // events that were removed meanwhile are not missing: check again
        if unseen.is_none() || queue.log().removed_through()? == removed {
            return Ok(unseen);
        }
    }
}

fn find_unseen_results(queue: &QueueInner, reported: &[IdRange]) -> Result<Option<(u64, u64)>> {
    let first = reported.iter().map(|(from, _)| *from).min().unwrap_or_default();
    find_missing(reported.iter().copied(), queue.results().ids_from(first)?)
}

/// Checks that this folder has the files of a page that a different worker sent.
pub(super) async fn compare_with_files(queue: &Arc<QueueInner>, page: StatePage) {
    let (what, unseen) = match page.content {
        StateContent::Events(told) => ("events", queue.blocking(move |queue| find_unseen_events(queue, &told)).await),
        StateContent::Results(told) => {
            ("results", queue.blocking(move |queue| find_unseen_results(queue, &told)).await)
        }
        _ => return,
    };
    match unseen {
        Ok(None) => {}
        Ok(Some((first, count))) => {
            queue.metrics().files_unseen.add(count);
            tracing::error!(
                what, first, count, root = %queue.config().root_dir.display(),
                "a worker reports files that are missing here: it has a different folder, or new files appear late"
            );
        }
        Err(error) => tracing::warn!(error = error.log(), what, "cannot check the files that a worker reports"),
    }
}

/// Returns ids as ranges, as many as fit on a page, and the first id of the next page.
pub(super) fn ranges(ids: impl Iterator<Item = Result<u64>>) -> Result<(Vec<IdRange>, Option<u64>)> {
    let mut ranges: Vec<IdRange> = Vec::new();
    for id in ids {
        let id = id?;
        let (count, first) = (ranges.len(), ranges.first().map_or(id, |(first, _)| *first));
        match ranges.last_mut() {
            _ if id - first >= PAGE_IDS_MAX => return Ok((ranges, Some(id))),
            Some((_, last)) if *last + 1 == id => *last = id,
            _ if count == PAGE_RANGES_MAX => return Ok((ranges, Some(id))),
            _ => ranges.push((id, id)),
        }
    }
    Ok((ranges, None))
}

/// Returns the first id of `reported` that is not in `own`, and the number of such ids; both are sorted.
fn find_missing(
    reported: impl Iterator<Item = IdRange>,
    own: impl Iterator<Item = Result<u64>>,
) -> Result<Option<(u64, u64)>> {
    let (mut own, mut missing) = (own.peekable(), None::<(u64, u64)>);
    for (mut next, to) in reported {
        let end = to.saturating_add(1);
        while next < end {
            let id = match own.next_if(|id| id.as_ref().map_or(true, |id| *id < end)) {
                Some(id) => id?,
                None => end,
            };
            if id > next {
                let (_, count) = missing.get_or_insert((next, 0));
                *count = count.saturating_add(id - next);
            }
            next = next.max(id.saturating_add(1));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ids: &[u64]) -> impl Iterator<Item = Result<u64>> {
        ids.iter().copied().map(Ok)
    }

    #[test]
    fn ids_are_told_as_ranges_in_pages_of_bounded_size() {
        assert_eq!(ranges(all(&[1, 2, 3, 5, 7, 8])).unwrap(), (vec![(1, 3), (5, 5), (7, 8)], None));
        let odd: Vec<u64> = (0..1_000).map(|number| 2 * number + 1).collect();
        let (page, next) = ranges(all(&odd)).unwrap();
        assert_eq!((page.len(), page[199], next), (200, (399, 399), Some(401)));
        assert_eq!(
            ranges(all(&[1, PAGE_IDS_MAX, PAGE_IDS_MAX + 1])).unwrap(),
            (vec![(1, 1), (PAGE_IDS_MAX, PAGE_IDS_MAX)], Some(PAGE_IDS_MAX + 1))
        );
        assert_eq!(ranges(all(&[])).unwrap(), (vec![], None));
    }

    #[test]
    fn what_is_missing_is_counted_however_much_is_told() {
        let of = |told: &[IdRange], own: &[u64]| find_missing(told.iter().copied(), all(own)).unwrap();
        assert_eq!(of(&[(1, 3), (5, 6)], &[1, 2, 3, 4, 5, 6, 7]), None);
        assert_eq!(of(&[(1, 3), (5, 6)], &[1, 3, 6]), Some((2, 2)));
        assert_eq!(of(&[(1, 3), (5, 9)], &[]), Some((1, 8)));
        assert_eq!(of(&[(2, u64::MAX)], &[1, 2, 5]), Some((3, u64::MAX - 4)));
        assert_eq!(of(&[(1, u64::MAX), (1, u64::MAX)], &[]), Some((1, u64::MAX)), "counted twice, without overflow");
        assert_eq!(of(&[(9, 3)], &[]), None);
    }

    #[test]
    fn a_page_comes_back_with_what_is_added_to_messages() {
        let page = StatePage { page: 3, content: StateContent::Events(vec![(1, 3)]) };
        let mut data = serde_json::to_value(&page).unwrap();
        assert_eq!(data, serde_json::json!({"page": 3, "events": [[1, 3]]}));
        data["worker_id"] = "another".into();
        assert_eq!(serde_json::from_value::<StatePage>(data).unwrap(), page);
    }
}
