//! Reading a projection.

use std::{fmt, ops::Deref};

use tokio::sync::RwLockReadGuard;

use crate::domain::stream::Position;

/// A view of a projection; derefs to its state.
///
/// For a projection whose state is in memory it is a read lock: events wait while it is held, so drop it before the
/// next `.await`.
pub struct ProjectionGuard<'a, P> {
    state: StateRef<'a, P>,
    position: Position,
}

pub(super) enum StateRef<'a, P> {
    Locked(RwLockReadGuard<'a, P>),
    Unlocked(&'a P),
}

impl<'a, P> ProjectionGuard<'a, P> {
    pub(super) const fn new(state: StateRef<'a, P>, position: Position) -> Self {
        Self { state, position }
    }

    /// The position up to which every event is included.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }
}

impl<P> Deref for ProjectionGuard<'_, P> {
    type Target = P;
    fn deref(&self) -> &P {
        match &self.state {
            StateRef::Locked(guard) => guard,
            StateRef::Unlocked(state) => state,
        }
    }
}

impl<P: fmt::Debug> fmt::Debug for ProjectionGuard<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
