//! The claim on the feed of a bus that keeps no progress of its own: one relay at a time feeds such a bus.
//!
//! | state | event | next state |
//! |---|---|---|
//! | free | an app claims the feed for its relay | claimed |
//! | claimed | the app ends, and its relay may still run | leaving |
//! | claimed, leaving | the claim is dropped: the relay has ended | free |
//!
//! Invariant: the relay owns its claim, so that nothing is published under a claim that was dropped.

use std::time::Duration;

use tokio::sync::watch;

/// The time that a claim waits for the relay of an app that has ended. Real time: a task of this process has to end.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FeedState {
    #[default]
    Free,
    Claimed,
    Leaving,
}

/// The feed of a bus that keeps no progress of its own. Cloning shares it.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// use eventbus::port::feed_claim::Feed;
///
/// let feed = Feed::default();
/// let claim = feed.claim().await?;
/// assert!(feed.claim().await.is_err());
/// drop(claim);
/// assert!(feed.claim().await.is_ok());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Feed(watch::Sender<FeedState>);

impl Feed {
    /// Claims the feed until the claim is dropped. If the app of the former claim has ended, waits up to five seconds
    /// until its relay has ended too.
    ///
    /// # Errors
    /// [`FeedInUse`] while a different claim lives.
    pub async fn claim(&self) -> Result<FeedClaim, FeedInUse> {
        let claiming = async {
            let mut changes = self.0.subscribe();
            loop {
                // before the try, so that a change during it ends the wait below
                changes.mark_unchanged();
                let mut former = FeedState::Free;
                self.0.send_if_modified(|state| {
                    former = *state;
                    let is_free = *state == FeedState::Free;
                    if is_free {
                        *state = FeedState::Claimed;
                    }
                    is_free
                });
                match former {
                    FeedState::Free => return Ok(FeedClaim(Some(self.clone()))),
                    FeedState::Claimed => return Err(FeedInUse),
                    // it does not fail: this value holds the sender
                    FeedState::Leaving => drop(changes.changed().await),
                }
            }
        };
        tokio::time::timeout(LEAVING_TIMEOUT, claiming).await.unwrap_or(Err(FeedInUse))
    }

    /// Returns `true` while a claim lives.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        *self.0.borrow() != FeedState::Free
    }
}

/// The claim of a relay on the feed of a bus; dropping it frees the feed. The default claims nothing, for a bus that any
/// number of relays may feed.
#[derive(Debug, Default)]
#[must_use = "dropping the claim frees the feed"]
pub struct FeedClaim(Option<Feed>);

impl FeedClaim {
    /// Lets the next claim wait for the end of this one, as the app of this one ends.
    pub fn leave(&self) {
        if let Some(feed) = &self.0 {
            feed.0.send_replace(FeedState::Leaving);
        }
    }
}

impl Drop for FeedClaim {
    fn drop(&mut self) {
        if let Some(feed) = &self.0 {
            feed.0.send_replace(FeedState::Free);
        }
    }
}

/// The error of a feed that a different app of this process has claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a different app of this process feeds the bus from its store")]
#[non_exhaustive]
pub struct FeedInUse;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_next_claim_waits_for_one_that_leaves() {
        let feed = Feed::default();
        let claim = feed.claim().await.unwrap();
        assert_eq!(feed.claim().await.unwrap_err(), FeedInUse);
        claim.leave();
        let mut next = Box::pin(feed.claim());
        assert!((&mut next).now_or_never().is_none(), "the relay of the former app may still run");
        drop(claim);
        let next = next.await.unwrap();
        assert_eq!(feed.claim().await.unwrap_err(), FeedInUse);
        drop(next);
        drop(feed.claim().await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_does_not_wait_for_ever() {
        let feed = Feed::default();
        let claim = feed.claim().await.unwrap();
        claim.leave();
        assert_eq!(feed.claim().await.unwrap_err(), FeedInUse);
    }
}
