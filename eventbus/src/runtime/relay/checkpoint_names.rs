//! Checkpoints that the relay keeps in the store.

use crate::{
    domain::{name::Name, stream::Position},
    port::{CheckpointError, EventStore},
    support::ReaderKind,
};

/// Returns the name of the checkpoint by which the store remembers that it fell behind its published position, until an
/// operator decides.
pub(super) fn halt_checkpoint_name(destination: &Name) -> Name {
    ReaderKind::HaltedRelay.name_of(destination)
}

/// Loads the published position of a newer copy of the store, if an operator has to decide from where to continue.
pub(super) async fn load_halt(store: &dyn EventStore, destination: &Name) -> Result<Option<Position>, CheckpointError> {
    let halted = store.load_checkpoint(&halt_checkpoint_name(destination)).await?;
    Ok(halted.filter(|published| *published > Position::START))
}
