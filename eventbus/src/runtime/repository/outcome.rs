//! Appends whose outcome is unknown.

use std::{fmt::Display, time::Duration};

use crate::{
    domain::clock::SharedClock,
    port::{AppendError, backoff::Backoff},
};

const RETRIES_MAX: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Makes an append; resolves an unknown outcome by making it again, with the same event ids. `of` names it in the log.
///
/// Of the results of a repeat, conflicts are final: an attempt without an answer does not find the expected version later.
pub(super) async fn until_known<T, F>(
    clock: &SharedClock,
    of: &impl Display,
    append: impl Fn() -> F,
) -> Result<T, AppendError>
where
    F: Future<Output = Result<T, AppendError>>,
{
    let mut attempt = 0;
    loop {
        let error = match append().await {
            Err(AppendError::OutcomeUnknown(error)) => error,
            // this attempt stored no event, but the outcome of the first one is still unknown
            Err(AppendError::Unavailable(error)) if attempt > 0 => error,
            // nor is it known now: the store cannot compare the first one, or it may run when the value is free again
            Err(error @ (AppendError::Refused { .. } | AppendError::Taken { .. })) if attempt > 0 => {
                return Err(AppendError::OutcomeUnknown(error.into()));
            }
            outcome => return outcome,
        };
        if attempt == RETRIES_MAX {
            return Err(AppendError::OutcomeUnknown(error));
        }
        attempt += 1;
        tracing::warn!(%of, %error, "append outcome unknown, appending the same event ids again");
        clock.sleep(BACKOFF.jittered(attempt)).await;
    }
}
