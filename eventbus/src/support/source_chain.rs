//! The chain of an error and its sources.

use std::{error::Error, iter, sync::Arc};

/// Returns an error and its sources, the outermost first, in which a driver finds its own errors.
pub fn source_chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    iter::successors(Some(unshared(error)), |error: &&'e (dyn Error + 'static)| (**error).source().map(unshared))
}

/// Returns the error inside an `Arc`: the `Arc` hides its type, and passes on only its source.
fn unshared<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    error.downcast_ref::<Arc<dyn Error + Send + Sync>>().map_or(error, |shared| &**shared)
}
