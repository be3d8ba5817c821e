//! Reading a projection.

use tokio::sync::RwLockReadGuard;

use crate::domain::stream::Position;

/// A view of a projection; derefs to its state.
///
/// For a projection whose state is in memory it is a read lock: events wait while it is held, so drop it before the
/// next `.await`.
#[derive(derive_more::Debug, derive_more::Deref)]
#[debug("{state:?}")]
pub struct ProjectionGuard<'a, P> {
    #[deref(forward)]
    state: RwLockReadGuard<'a, P>,
    position: Position,
}

impl<'a, P> ProjectionGuard<'a, P> {
    pub(super) const fn new(state: RwLockReadGuard<'a, P>, position: Position) -> Self {
        Self { state, position }
    }

    /// The position up to which every event is included.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }
}
